"""What each part of rounding costs a tower alone: its table, its dense layers, its convolutions, and inputs of layers.

    python benchmarks/rounding_parts.py s0 --kind "heavy tails" --save

Everything else stays float32, and TensorFlow computes as the files of the runtime do. What a part costs alone is a
floor for every plan that rounds it all to 8 bits. The inputs are those of benchmarks/quantization.py; every other one
was measured on, and the others were not seen.
"""

import os
import tempfile
from pathlib import Path
from typing import Annotated, Any

os.environ["KERAS_BACKEND"] = "tensorflow"

import numpy as np
import typer
from quantization import converted, inputs_of
from rich.console import Console
from rich.table import Table
from samples import keep

from mobileclip_keras.converters.deploy.quantize import round_job
from mobileclip_keras.converters.deploy.quantize.changing import changed, changes
from mobileclip_keras.converters.deploy.quantize.means import measuring
from mobileclip_keras.converters.deploy.quantize.measured_rows import measured_rows
from mobileclip_keras.converters.deploy.quantize.options import option, uniform_plan
from mobileclip_keras.converters.deploy.quantize.ranking import nearness
from mobileclip_keras.converters.deploy.quantize.rounded_inputs import in_integers, rounded_inputs
from mobileclip_keras.converters.deploy.quantize.smoothing import smooth
from mobileclip_keras.converters.deploy.quantize.weights import Weight, weights_of
from mobileclip_keras.converters.deploy.request import Request, make_request
from mobileclip_keras.keras_models.models.model import MobileClipModel
from mobileclip_keras.keras_models.registry import get_variant
from mobileclip_keras.verify.data.weight_kinds import KINDS

RESULTS = Path(__file__).parent / "results" / "rounding_parts.json"
PRECISION = "int8"


def parts(model: Any, tower: str, request: Request, rows: np.ndarray) -> dict[str, float]:
    """The smallest cosine with each part alone in 8 bits.

    Args:
        model: in its inference form.
        tower: "image" or "text".
        request: says the runtime.
        rows: of the tower's inputs.
    """
    own = [each for each in weights_of(model, request.how.formulation) if each.tower == tower]
    exact = round_job.features(model, tower, rows)
    dense = [each for each in own if each.kind == "dense"]
    with measuring(dense) as few:
        round_job.features(model, tower, rows[::2])
    with measuring(own) as means:
        round_job.features(model, tower, measured_rows(tower, rows))
    plan = uniform_plan(own, PRECISION, request.how)
    computed = in_integers(own, plan, request.how)
    with rounded_inputs(computed):
        as_they_are = nearness(round_job.features(model, tower, rows), exact, None).smallest_cosine
    by_these = {each.name: {PRECISION: option(each, PRECISION, few)} for each in dense}
    with changed(dense, changes(dense, by_these, plan)):
        by_few = nearness(round_job.features(model, tower, rows), exact, None).smallest_cosine
    if computed:
        smooth(model, own, means)
    options = {each.name: {plan[each.name]: option(each, plan[each.name], means)} for each in own}
    everything = {weight.kind: [each for each in own if each.kind == weight.kind] for weight in own}

    def cosine(weights: list[Weight], inputs: list[Weight]) -> float:
        with changed(weights, changes(weights, options, plan)), rounded_inputs(inputs):
            return nearness(round_job.features(model, tower, rows), exact, None).smallest_cosine

    found = {f"weights of kind {kind!r}": cosine(weights, []) for kind, weights in everything.items()}
    found["the same of kind 'dense', measured without rows that are made"] = by_few
    found["all weights"] = cosine(own, [])
    if computed:
        found["inputs of layers that compute in integers, as they are"] = as_they_are
        found["these inputs, with large channels divided"] = cosine([], computed)
        found["all weights and these inputs"] = cosine(own, computed)
    return found


def main(
    variant: Annotated[str, typer.Argument(help="Whose towers.")] = "shapes",
    to: Annotated[str, typer.Option(help="The runtime.")] = "litert",
    kind: Annotated[str, typer.Option(help=f"Of the weights: {', '.join(KINDS)}; shapes has its own.")] = "heavy tails",
    towers: Annotated[str, typer.Option(help="image, text or both between a comma.")] = "image,text",
    folder: Annotated[Path | None, typer.Option(help="With the converted weights, in keras/, or for them.")] = None,
    save: Annotated[bool, typer.Option("--save", help="Adds the outcome to results/rounding_parts.json.")] = False,
) -> None:
    """Measures, and prints what came out."""
    about = get_variant(variant)
    request = make_request(to, ("image", "text"), towers=towers, quantize="auto")
    with tempfile.TemporaryDirectory() as beside:
        place = folder or Path(beside)
        place.mkdir(exist_ok=True)
        keras = place / "keras" if (place / "keras").exists() else converted(about, kind, place)
        model = MobileClipModel.from_pretrained(keras, form="inference", dtype="float32")
    fixed = inputs_of(about).fixed
    rows = {"image": fixed.images, "text": fixed.tokens.astype(np.int32)}
    found = {tower: parts(model, tower, request, rows[tower]) for tower in request.towers}
    title = f"{about.short_name}, {'trained' if about.is_ours else kind}, {to}"
    table = Table("tower", "8 bits for", "smallest cosine", title=title)
    for tower, each in found.items():
        for name, cosine in each.items():
            table.add_row(tower, name, f"{cosine:.5f}")
    Console(width=120).print(table)
    if save:
        keep(RESULTS, {title: found})


if __name__ == "__main__":
    typer.run(main)
