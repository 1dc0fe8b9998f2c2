"""What a LiteRT file would take if its dense layers took nothing: the floor of what computing in integers can give.

    python benchmarks/dense_floor.py shapes --save

Each tower is written twice in float32: as it is, and with every dense layer's product gone. What is left of a layer
puts out numbers that it was given, as often as it has outputs. So the second file does all that is not a product,
and copies a little more. Both are timed in turns, as the recipes of `--quantize` are.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

os.environ["KERAS_BACKEND"] = "tensorflow"

import typer
from keras import ops
from quantization import TIMED, converted, inputs_of
from rich.console import Console
from rich.table import Table
from samples import keep

from mobileclip_keras.converters.deploy.jobs import write_part
from mobileclip_keras.converters.deploy.quantize.trial import call_times
from mobileclip_keras.converters.deploy.quantize.weights import weights_of
from mobileclip_keras.converters.deploy.request import make_request
from mobileclip_keras.converters.deploy.runtimes import litert
from mobileclip_keras.converters.deploy.runtimes.parts import parts_of
from mobileclip_keras.keras_models.models.image_encoder import ImageProjectionHead
from mobileclip_keras.keras_models.models.model import MobileClipModel
from mobileclip_keras.keras_models.registry import get_variant

RESULTS = Path(__file__).parent / "results" / "dense_floor.json"
WAYS = ("float32", "without products")


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


def main(
    variant: Annotated[str, typer.Argument(help="Whose towers.")] = "shapes",
    kind: Annotated[str, typer.Option(help="Of the weights; shapes has its own.")] = "heavy tails",
    save: Annotated[bool, typer.Option("--save", help="Adds the outcome to results/dense_floor.json.")] = False,
) -> None:
    """Measures, and prints what came out."""
    about, request = get_variant(variant), make_request("litert", ("image", "text"))
    found: dict[str, dict[str, float]] = {tower: {} for tower in request.towers}
    with tempfile.TemporaryDirectory() as beside:
        place = Path(beside)
        model = MobileClipModel.from_pretrained(converted(about, kind, place), form="inference", dtype="float32")
        folders = {way: place / way for way in WAYS}
        for way, folder in folders.items():
            folder.mkdir()
            for part in parts_of(model, request, None):
                path = folder / f"{part.name}{request.how.suffix}"
                if way == WAYS[0]:
                    write_part(part, request, path)
                else:
                    with without_products(model):
                        write_part(part, request, path)
        for threads, key in ((1, "of one thread"), (2, "of two threads")):
            litert.THREADS = threads
            for tower in request.towers:
                times = call_times(folders, request, inputs_of(about), tower, TIMED)
                found[tower][key] = times[WAYS[1]] / times[WAYS[0]]
    table = Table("tower", *next(iter(found.values())), title=f"{about.short_name}: time without products")
    for tower, each in found.items():
        table.add_row(tower, *(f"{ratio:.2f}" for ratio in each.values()))
    Console(width=120).print(table)
    if save:
        keep(RESULTS, {about.short_name: found})


if __name__ == "__main__":
    typer.run(main)
