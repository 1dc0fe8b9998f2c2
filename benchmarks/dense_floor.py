"""What a LiteRT file would take if its dense layers took nothing, and what it takes if they compute in integers.

    python benchmarks/dense_floor.py shapes --save

Each tower is written in float32, and with every dense layer's product gone: what is left of a layer puts out numbers
that it was given, as often as it has outputs. So that file does all that is not a product, and copies a little more.
Then it is written in 8 bits: all dense layers compute in integers, or those alone that have more outputs than some
number, because rounding what a layer is given takes time, too. All are timed in turns, as the recipes of `--quantize`
are.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

os.environ["KERAS_BACKEND"] = "tensorflow"

import numpy as np
import typer
from keras import ops
from quantization import TIMED, converted, inputs_of
from rich.console import Console
from rich.table import Table
from samples import keep

from mobileclip_keras.converters.deploy.half import store_rounded
from mobileclip_keras.converters.deploy.jobs import write_part
from mobileclip_keras.converters.deploy.quantize import round_job
from mobileclip_keras.converters.deploy.quantize.changing import changed_model
from mobileclip_keras.converters.deploy.quantize.trial import call_times
from mobileclip_keras.converters.deploy.quantize.weights import weights_of
from mobileclip_keras.converters.deploy.request import Request, make_request
from mobileclip_keras.converters.deploy.runtimes import litert
from mobileclip_keras.converters.deploy.runtimes.parts import parts_of
from mobileclip_keras.keras_models.models.image_encoder import ImageProjectionHead
from mobileclip_keras.keras_models.models.model import MobileClipModel
from mobileclip_keras.keras_models.registry import Variant, get_variant

RESULTS = Path(__file__).parent / "results" / "dense_floor.json"
PLAIN, BARE = "float32", "without products"
OUTPUTS = (0, 24, 48, 64)
"""Dense layers with at most as many outputs compute with floats."""


def _copying(layer: Any) -> Any:
    units = int(layer.kernel.shape[-1])

    def call(inputs: Any, **options: Any) -> Any:
        if isinstance(layer, ImageProjectionHead) and len(inputs.shape) == 4:
            inputs = ops.mean(inputs, (1, 2))
        times = -(-units // int(inputs.shape[-1]))
        rows = ops.concatenate([inputs] * times, -1) if times > 1 else inputs
        rows = rows[..., :units]
        activation = getattr(layer, "activation", None)
        return rows if activation is None else activation(rows)

    return call


@contextmanager
def without_products(model: Any) -> Iterator[None]:
    """Within this context, dense layers copy what they are given."""
    layers = [weight.layer for weight in weights_of(model) if weight.kind == "dense"]
    for layer in layers:
        layer.call = _copying(layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.call


def write(model: Any, request: Request, folder: Path, floats: list[str] | None = None) -> None:
    """Writes a model's towers.

    Args:
        model: in its inference form.
        request: says which towers.
        folder: for the files.
        floats: the layers that compute with floats though their weights are integers; None where none are.
    """
    folder.mkdir()
    for part in parts_of(model, request, None):
        path = folder / f"{part.name}{request.how.suffix}"
        write_part(part, request, path)
        if floats is not None:
            store_rounded(request.how, path, floats)


def write_all(model: Any, variant: Variant, request: Request, place: Path) -> dict[str, Path]:
    """Writes a model in every way, into a folder for each."""
    folders = {PLAIN: place / PLAIN, BARE: place / BARE}
    write(model, request, folders[PLAIN])
    with without_products(model):
        write(model, request, folders[BARE])
    fixed = inputs_of(variant).fixed
    rows = {"image": fixed.images, "text": fixed.tokens.astype(np.int32)}
    (name,) = round_job.round_weights(model, request, rows, place)["sets"]
    with changed_model(model, str(place / f"{name}.npz")):
        dense = [weight for weight in weights_of(model, request.how.formulation) if weight.kind == "dense"]
        for outputs in OUTPUTS:
            way = f"integers from {outputs + 1} outputs" if outputs else "integers everywhere"
            folders[way] = place / way
            floats = [weight.layer_name for weight in dense if weight.variable.shape[-1] <= outputs]
            write(model, request, folders[way], floats)
    return folders


def main(
    variant: Annotated[str, typer.Argument(help="Whose towers.")] = "shapes",
    kind: Annotated[str, typer.Option(help="Of the weights; shapes has its own.")] = "heavy tails",
    save: Annotated[bool, typer.Option("--save", help="Adds the outcome to results/dense_floor.json.")] = False,
) -> None:
    """Measures, and prints what came out."""
    about, request = get_variant(variant), make_request("litert", ("image", "text"), quantize="int8")
    found: dict[str, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as beside:
        place = Path(beside)
        model = MobileClipModel.from_pretrained(converted(about, kind, place), form="inference", dtype="float32")
        folders = write_all(model, about, request, place)
        for threads, key in ((1, "of one thread"), (2, "of two threads")):
            litert.THREADS = threads
            for tower in request.towers:
                times = call_times(folders, request, inputs_of(about), tower, TIMED)
                for way, seconds in times.items():
                    found.setdefault(tower, {}).setdefault(way, {})[key] = seconds / times[PLAIN]
    table = Table("tower", "dense layers", "of one thread", "of two threads", title=f"{about.short_name}: time")
    for tower, ways in found.items():
        for way, each in ways.items():
            table.add_row(tower, way, *(f"{ratio:.2f}" for ratio in each.values()))
    Console(width=120).print(table)
    if save:
        keep(RESULTS, {about.short_name: found})


if __name__ == "__main__":
    typer.run(main)
