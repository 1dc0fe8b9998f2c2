"""What each recipe of `export --quantize` costs: size, time, nearness to float32, and right answers about shapes.

    python benchmarks/quantization.py shapes --to litert --save
    python benchmarks/quantization.py s0 --kind "heavy tails" --folder /tmp/s0
    python benchmarks/quantization.py s0 --kind "heavy tails" --folder /tmp/s0 --save  # the times alone, then in peace
    python benchmarks/quantization.py s0 --towers text --budget 0.999  # a budget of a tower's own

All recipes are written and run side by side, as `--quantize auto` does. "shapes" has its trained weights, is measured
on pictures and captions like those of its training, and then asked the zero-shot task, which has other pictures. Other
variants have weights of a kind that trained ones are like (verify/data/weight_kinds.py), and get the fixed inputs.
"""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

os.environ["KERAS_BACKEND"] = "tensorflow"

import numpy as np
import typer
from rich.console import Console
from rich.table import Table
from samples import keep

from mobileclip_keras.converters.cli.progress import bars
from mobileclip_keras.converters.deploy.contents.bundle import request_to_json
from mobileclip_keras.converters.deploy.processes import in_own_process
from mobileclip_keras.converters.deploy.proofs.inputs import ProofInputs
from mobileclip_keras.converters.deploy.proofs.proof import in_batches
from mobileclip_keras.converters.deploy.quantize.choosing import try_recipes
from mobileclip_keras.converters.deploy.quantize.trial import call_times
from mobileclip_keras.converters.deploy.request import Request, make_request
from mobileclip_keras.converters.deploy.runtimes.registry import open_tower
from mobileclip_keras.keras_models.inputs.tokenizer import Tokenizer
from mobileclip_keras.keras_models.registry import Variant, get_variant
from mobileclip_keras.verify.data.inputs import Inputs, fixed_inputs
from mobileclip_keras.verify.data.weight_kinds import KINDS, draw
from mobileclip_keras.verify.shapes import task
from mobileclip_keras.verify.shapes.captions import describe
from mobileclip_keras.verify.shapes.drawing import draw as draw_scene
from mobileclip_keras.verify.shapes.scene import random_scene

RESULTS = Path(__file__).parent / "results" / "quantization.json"
CALIBRATED = 64
"""Pictures and captions that shapes is measured on."""
BATCH = 16
"""Of the task, where a file takes any."""
TIMED = 2.0
"""Seconds for which each recipe is timed at least."""
FOUND = "found.json"


def checkpoint_of(variant: Variant, kind: str, path: Path) -> Path:
    """Writes a checkpoint of a kind of weights, in Apple's layout."""
    from safetensors.numpy import save_file

    from mobileclip_keras.verify.torch_models import build_reference
    from mobileclip_keras.weight_maps.table import NONE, model_rows

    towers = variant.image_tower, variant.text_tower
    rows = model_rows(*towers, "apple", "train")
    entries = [(row.source, row.source_shape) for row in rows if row.source != NONE]
    state = draw(
        kind, entries, 0, lambda state: build_reference(*towers, state, "apple", dtype="float32"), fixed_inputs(variant)
    )
    save_file({name: np.array(array, order="C") for name, array in state.items()}, path)  # scalars stay scalars
    return path


def converted(variant: Variant, kind: str, place: Path) -> Path:
    """A converted folder of shapes, or of another variant with weights of a kind."""
    from mobileclip_keras.converters.checkpoints.source import resolved
    from mobileclip_keras.converters.conversion.convert import convert

    folder = place / "keras"
    if variant.is_ours:
        with resolved(variant.short_name, None) as checkpoint:
            convert(checkpoint, folder, verify=False)
    else:
        file = checkpoint_of(variant, kind, place / "checkpoint.safetensors")
        convert(file, folder, variant=variant.name, verify=False)
        file.unlink()
    return folder


def shapes_inputs() -> ProofInputs:
    """Pictures and captions as training has them."""
    rng = np.random.default_rng([1, 1])
    scenes = [random_scene(rng) for _ in range(CALIBRATED)]
    images = np.stack([np.asarray(draw_scene(scene, rng)) for scene in scenes]).astype(np.float32) / 255
    texts = tuple(describe(scene, rng).text for scene in scenes)
    return ProofInputs(Inputs(images, np.asarray(Tokenizer()(list(texts))), texts, texts), None)


def inputs_of(variant: Variant) -> ProofInputs:
    """What a variant is measured on."""
    return shapes_inputs() if variant.is_ours else ProofInputs(fixed_inputs(variant), None)


def measure(folder: Path, variant: Variant, request: Request, place: Path, console: Console) -> dict[str, Any]:
    """Each recipe's cost."""
    spec = {"folder": str(folder), "request": request_to_json(request), "variant": variant.name}
    about = {"name": variant.title, "description": "Of a benchmark.", "variant": variant.name}

    def convert(candidates: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return in_own_process("convert", {**spec, "candidates": candidates, "about": about}, "tensorflow")["candidates"]

    def round_weights(rows: Path, out: Path) -> dict[str, Any]:
        return in_own_process("round", {**spec, "rows": str(rows), "out": str(out)}, "tensorflow")

    tried = try_recipes(request, inputs_of(variant), place, convert, round_weights, bars(console))
    found = {trial.name: trial.to_json()["towers"] for trial in tried.trials}
    if variant.is_ours and len(request.towers) == 2:
        for name, path in tried.folders.items():
            found[name]["accuracy"] = right_answers(path, request).to_json()
    return {"recipes": found, "layers": tried.layers}


def add_times(found: dict[str, Any], place: Path, variant: Variant, request: Request) -> None:
    """Puts the times of all recipes, as parts of float32's, into what was found: of two threads, and of one."""
    folders = {name: place / name for name in found["recipes"]}
    code, inputs = request.how.code, inputs_of(variant)
    for threads, key in ((1, "latency_of_one_thread"), (2, "latency")):
        if threads == 1 and not hasattr(code, "THREADS"):
            continue  # OpenVINO takes what there is
        code.THREADS = threads
        for tower in request.towers:
            times = call_times(folders, request, inputs, tower, TIMED)
            for name, seconds in times.items():
                found["recipes"][name][tower][key] = seconds / times["float32"]


def right_answers(folder: Path, request: Request) -> task.Accuracy:
    """Of a candidate's files, in their runtime."""

    def encoder(tower: str) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
        fixed = min(request.batches, default=None)
        run = open_tower(request.runtime, folder / f"{tower}{request.how.suffix}", fixed, request.how.ways[0])
        return lambda given: in_batches(run, given, fixed or BATCH)[f"{tower}_features"]

    image, text = encoder("image"), encoder("text")
    return task.accuracy(
        lambda images: image({"image": images.astype(np.float32) / 255}),
        lambda texts: text({"tokens": np.asarray(Tokenizer()(texts), np.int32)}),
    )


def table_of(title: str, found: dict[str, Any]) -> Table:
    """For people."""
    table = Table(
        "recipe", "tower", "size", "time", "of one thread", "smallest cosine", "agreement", "accuracy", title=title
    )
    for name, towers in found["recipes"].items():
        for tower in ("image", "text"):
            if cost := towers.get(tower):
                near = cost["smallest_cosine"]
                right = towers["accuracy"]["overall"] if "accuracy" in towers else None
                table.add_row(
                    name,
                    tower,
                    f"{cost['size']:.3f}",
                    f"{cost['latency']:.2f}",
                    f"{cost['latency_of_one_thread']:.2f}" if "latency_of_one_thread" in cost else "",
                    "none" if near is None else f"{near:.4f}",
                    f"{cost['agreement']:.3f}",
                    "" if right is None else f"{right:.2%}",
                )
    return table


def main(
    variant: Annotated[str, typer.Argument(help="Whose towers.")] = "shapes",
    to: Annotated[str, typer.Option(help="The runtime.")] = "litert",
    kind: Annotated[str, typer.Option(help=f"Of the weights: {', '.join(KINDS)}; shapes has its own.")] = "heavy tails",
    towers: Annotated[str, typer.Option(help="image, text or both between a comma.")] = "image,text",
    budget: Annotated[float, typer.Option(help="Of auto.")] = 0.998,
    folder: Annotated[
        Path | None, typer.Option(help="For the files. Where it has them already, their times alone are measured.")
    ] = None,
    save: Annotated[bool, typer.Option("--save", help="Adds the outcome to results/quantization.json.")] = False,
) -> None:
    """Measures, and prints what came out."""
    console, about = Console(width=120), get_variant(variant)
    request = make_request(to, ("image", "text"), towers=towers, quantize="auto", budget=budget)
    with tempfile.TemporaryDirectory() as beside:
        found = found_in(folder or Path(beside), kind, about, request, console)
    weights = "trained" if about.is_ours else kind
    title = f"{about.short_name}, {weights}, {to}, {towers}, budget {budget:g}"
    console.print(table_of(title, found))
    console.print_json(json.dumps(found["layers"]))
    if save:
        keep(RESULTS, {title: found})


def found_in(folder: Path, kind: str, variant: Variant, request: Request, console: Console) -> dict[str, Any]:
    """What each recipe costs. Its files are written into a folder, unless they are there."""
    place = folder / f"{request.runtime}, {','.join(request.towers)}, {request.budget:g}"
    if not (place / FOUND).exists():
        keras = folder / "keras"
        if not keras.exists():
            folder.mkdir(exist_ok=True)
            converted(variant, kind, folder)
        place.mkdir()
        found = measure(keras, variant, request, place, console)
        (place / FOUND).write_text(json.dumps(found))
    found = json.loads((place / FOUND).read_text())
    add_times(found, place, variant, request)
    return found


if __name__ == "__main__":
    typer.run(main)
