"""Images a second of each worker of a Ray cluster on this machine, beside plain loops: `python ray_embedding.py`.

A plain loop is `fill` in a process whose model has one thread, and a worker has one too. Two workers are compared with
two plain loops at once, because two processes on one machine share its memory and caches. Rates count from the end of
the first call to the end of the last, so loading models and starting Ray are in no figure. Every vector of the cluster
is compared with that of the plain loop, bit for bit, also where a worker was killed.
"""

import json
import os

os.environ |= {"OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
# Ray's workers yield to all others by default. Here, what else runs on the machine would count against them alone.
os.environ |= {"RAY_worker_niceness": "0"}  # Ray looks for this very case

import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from arguments import JSON
from photos import photo
from rich.console import Console
from rich.table import Table
from samples import keep

from mobileclip_keras.keras_models.tasks.embedding.embedder import Embedder
from mobileclip_keras.keras_models.tasks.embedding.filling import fill
from mobileclip_keras.keras_models.tasks.embedding.on_ray import filling
from mobileclip_keras.keras_models.tasks.embedding.on_ray.writing import ItemEmbedder
from mobileclip_keras.keras_models.tasks.embedding.parts import vectors_of
from mobileclip_keras.keras_models.tasks.embedding.store import Store

app = typer.Typer(add_completion=False)


def photos(folder: Path, count: int) -> list[str]:
    """JPEG files."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(count):
        (folder / f"{number:06}.jpg").write_bytes(photo(generator))
    return sorted(str(path) for path in folder.iterdir())


def rate(ends: list[tuple[float, int]]) -> float:
    """Images a second, from the ends of calls and how many images each took."""
    return sum(count for _, count in ends[1:]) / (ends[-1][0] - ends[0][0])


@app.command(hidden=True)
def loop(model: Path, store: Path, batch_size: int, data: list[str]) -> None:
    """One plain loop. It says that it is ready, and begins when it is told to."""
    embedder = Embedder.from_pretrained(model, towers="image", batch_size=batch_size)
    embedder.images(data[:1])  # compiles
    print("ready", flush=True)
    sys.stdin.readline()
    ends: list[tuple[float, int]] = []
    fill(store, data, embedder, progress=lambda count, _: ends.append((time.time(), count)))
    print(json.dumps(ends), flush=True)


def plain(scratch: Path, model: Path, data: list[str], batch_size: int, processes: int) -> list[float]:
    """Images a second of plain loops that run at once, each over its share of the data."""
    running = []
    for number in range(processes):
        store = scratch / f"plain {processes} {number}"
        arguments = [str(model), str(store), str(batch_size), *data[number::processes]]
        command = [sys.executable, __file__, "loop", *arguments]
        running.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
    for each in running:
        assert each.stdout is not None and each.stdout.readline() == "ready\n"
    for each in running:
        assert each.stdin is not None
        each.stdin.write("\n")
        each.stdin.flush()
    return [rate(json.loads(each.communicate()[0].splitlines()[-1])) for each in running]


def on_ray(scratch: Path, model: Path, data: list[str], batch_size: int, workers: int, is_killed: bool) -> list[float]:
    """Images a second of each worker."""
    store = scratch / f"ray {workers} {is_killed}"
    notes = Path(tempfile.mkdtemp(dir=scratch))

    class Timed(ItemEmbedder):
        """Notes when each of its calls ended; one of them is killed at its second."""

        def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
            own = notes / f"{os.getpid()}.txt"
            if is_killed and own.exists() and not (notes / "killed").exists():
                (notes / "killed").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            made = super().__call__(batch)
            with open(own, "a") as file:
                file.write(f"{time.time()} {len(made['id'])}\n")
            return made

    filling.ItemEmbedder = Timed  # type: ignore[misc]
    outcome = filling.fill_on_ray(store, data, model, workers=workers, batch_size=batch_size)
    assert outcome.unreadable == 0 and (notes / "killed").exists() == is_killed, outcome
    found = []
    for path in notes.glob("*.txt"):
        ends = [(float(line.split()[0]), int(line.split()[1])) for line in path.read_text().splitlines()]
        found += [rate(ends)] if len(ends) > 1 else []
    right: dict[bytes, bytes] = {}
    for each in scratch.glob(f"plain {workers} *"):
        right |= rows(each)
    assert right and rows(store) == right, "not the same bits"
    return found


def rows(store: Path) -> dict[bytes, bytes]:
    """The bytes of each vector by its id."""
    found: dict[bytes, bytes] = {}
    for part in Store.open(store).parts():
        for batch in part.columns("id", "features"):
            for identity, vector in zip(batch.column(0).to_pylist(), vectors_of(batch), strict=True):
                assert identity not in found, "an input is there twice"
                found[identity] = vector.tobytes()
    return found


@app.command()
def compare(
    variant: Annotated[str, typer.Option(help="Of the model, in its real size, untrained.")] = "s0",
    count: Annotated[int, typer.Option(help="Images.")] = 256,
    batch_size: Annotated[int, typer.Option(help="Images at once.")] = 8,
    processes: Annotated[list[int], typer.Option(help="How many at once; may be given again.")] = [1, 2],  # noqa: B006
    killed: Annotated[bool, typer.Option(help="Once more with two workers, one of which is killed.")] = False,
    results: Annotated[Path | None, JSON] = None,
) -> None:
    """Compares plain loops with clusters of one and two workers."""
    import mobileclip_keras as mk

    kept: dict[str, Any] = {"variant": variant, "images": count, "batch_size": batch_size}
    with tempfile.TemporaryDirectory() as place:
        scratch, model = Path(place), Path(place) / "model"
        mk.MobileClipModel.from_variant(variant, form="inference").save_pretrained(model)
        data = photos(scratch / "photos", count)
        for number in processes:
            kept[f"plain {number}"] = plain(scratch, model, data, batch_size, number)
            kept[f"ray {number}"] = on_ray(scratch, model, data, batch_size, number, False)
        if killed:
            kept["ray 2, one killed"] = on_ray(scratch, model, data, batch_size, 2, True)
    table = Table("processes", "plain loops, images/s", "Ray's workers, images/s", "ratio of the means (bound 0.95)")
    for number in processes:
        theirs, ours = kept[f"plain {number}"], kept[f"ray {number}"]
        texts = [", ".join(f"{each:.2f}" for each in some) for some in (theirs, ours)]
        table.add_row(str(number), *texts, f"{np.mean(ours) / np.mean(theirs):.3f}")
    Console().print(table)
    Console().print(kept)
    if results is not None:
        keep(results, {f"{variant}, {count} images, {' and '.join(map(str, processes))} at once": kept})


if __name__ == "__main__":
    if sys.argv[1:2] not in (["loop"], ["compare"]):
        sys.argv.insert(1, "compare")
    app()
