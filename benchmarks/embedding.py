"""How many images a second `embed` takes, beside a plain loop: `python benchmarks/embedding.py s0`.

The plain loop prepares a batch and then computes it. `embed` prepares pictures while others are computed, and writes a
store. Both have the same compiled model, of real size and untrained, the same JPEG files of 500 x 375 pixels, and all
threads; they take turns. "tower alone" computes as many pixels that lie in memory. The command itself runs once in a
process of its own: its figure holds the time that the first batch takes to compile, and that of loading in none.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import typer
from photos import photo
from rich.console import Console
from samples import keep

if TYPE_CHECKING:
    from mobileclip_keras.keras_models.tasks.embedding.embedder import Embedder

COMMAND = "from mobileclip_keras.converters.cli.app import main; main()"
RESULTS = Path(__file__).parent / "results" / "embedding.json"


def write_photos(folder: Path, count: int) -> list[str]:
    """The paths of new JPEG files."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(count):
        (folder / f"{number:06}.jpg").write_bytes(photo(random))
    return sorted(str(path) for path in folder.iterdir())


def rate(count: int, run: Callable[[], Any]) -> float:
    """Images a second."""
    start = time.perf_counter()
    run()
    return count / (time.perf_counter() - start)


def in_turns(embedder: "Embedder", files: list[str], scratch: Path, rounds: int) -> dict[str, list[float]]:
    """Images a second of each way, a figure for each round, and the share of `embed`'s time inside the tower."""
    from mobileclip_keras.keras_models.tasks.embedding.filling import fill

    size, pixels, inside = embedder.batch_size, embedder.pixels, 0.0
    batches = len(files) // size
    ready = np.stack([embedder.prepare(file) for file in files[:size]])
    pixels(ready)  # compiles

    def timed(batch: Any) -> Any:
        nonlocal inside
        start = time.perf_counter()
        found = pixels(batch)
        inside += time.perf_counter() - start
        return found

    found: dict[str, list[float]] = {name: [] for name in ("plain loop", "embed", "tower alone", "tower's share")}
    for number in range(rounds):
        found["plain loop"].append(rate(len(files), lambda: embedder.images(files)))
        embedder.pixels, inside = timed, 0.0  # type: ignore[method-assign]
        store = scratch / f"store {number}"
        found["embed"].append(rate(len(files), lambda store=store: fill(store, files, embedder)))
        found["tower's share"].append(inside * found["embed"][-1] / len(files))
        embedder.pixels = pixels  # type: ignore[method-assign]
        found["tower alone"].append(rate(batches * size, lambda: [pixels(ready) for _ in range(batches)]))
    return found


def of_the_command(model: Path, folder: Path, store: Path, batch_size: int) -> float:
    """Images a second as the command itself says."""
    options = ["--out", store, "--model", model, "--batch-size", batch_size, "--json"]
    program = [sys.executable, "-c", COMMAND, "embed", folder, *options]
    done = subprocess.run([*map(str, program)], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return float(json.loads(done.stdout)["per_second"])


def main(
    variant: Annotated[str, typer.Argument(help="Of the model.")] = "s0",
    images: Annotated[int, typer.Option(min=1)] = 256,
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    save: Annotated[
        bool, typer.Option("--save", help="Adds the outcome to benchmarks/results/embedding.json.")
    ] = False,
) -> None:
    """Measures, and prints what came out."""
    import keras

    import mobileclip_keras as mk
    from mobileclip_keras.keras_models.tasks.embedding.embedder import Embedder

    with tempfile.TemporaryDirectory() as place:
        scratch, model = Path(place), Path(place) / "model"
        mk.MobileClipModel.from_variant(variant, form="inference").save_pretrained(model)
        files = write_photos(scratch / "photos", images)
        embedder = Embedder.from_pretrained(model, towers="image", batch_size=batch_size)
        found = in_turns(embedder, files, scratch, rounds)
        command = of_the_command(model, scratch / "photos", scratch / "of the command", batch_size)
    outcome = {
        "variant": variant,
        "backend": keras.backend.backend(),
        "images": images,
        "batch_size": batch_size,
        **{name: [round(each, 3) for each in values] for name, values in found.items()},
        "embed beside the plain loop": round(median(found["embed"]) / median(found["plain loop"]), 3),
        "the command, compiling": command,
    }
    Console().print_json(json.dumps(outcome))
    if save:
        keep(RESULTS, {f"{outcome['backend']} {variant}": outcome})


if __name__ == "__main__":
    typer.run(main)
