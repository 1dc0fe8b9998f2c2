"""What a kill loses: real writers are killed at random moments, and what is there afterwards is looked at.

    python benchmarks/kills.py --moments 200 --json benchmarks/results/kills.json

At each moment, a forked process that replaces an output (or writes a first one) gets SIGKILL. Then the output must be
the old one or the new one, whole. After the next run, which goes through or is refused, nothing may lie beside it. Half
of the moments fall anywhere between start and end, half in the last twentieth, where outputs take their places.
"""

import os

os.environ.setdefault("KERAS_BACKEND", "torch")  # the others start threads, which a fork does not copy
os.environ |= {"OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}

import hashlib
import json
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import h5py
import numpy as np
import typer
from arguments import JSON
from rich.console import Console
from rich.progress import track
from rich.table import Table
from samples import keep

from mobileclip_keras.converters.checkpoints.checkpoint import open_checkpoint
from mobileclip_keras.converters.checkpoints.identify import CheckpointFormat
from mobileclip_keras.converters.conversion import convert as conversion
from mobileclip_keras.converters.conversion.plan import make_plan
from mobileclip_keras.converters.conversion.progress import silent
from mobileclip_keras.converters.conversion.to_torch import to_torch
from mobileclip_keras.keras_models.errors import MobileClipError
from mobileclip_keras.keras_models.store.writing import atomic
from mobileclip_keras.keras_models.store.writing.own_files import foreign_files, sha256
from mobileclip_keras.keras_models.store.writing.staging import recover
from mobileclip_keras.keras_models.tasks.embedding_files import Embeddings
from mobileclip_keras.verify.data import synthetic

Write = Callable[[Path, int, bool], Any]
"""Writes content 0 or 1 at a path; with True over what is there."""

TIMM = CheckpointFormat("mci0", None, "timm", "train")  # the smallest published tower: 45 MB


def writers(folder: Path) -> dict[str, tuple[str, Write]]:
    """Each kind's file name and writer. All that takes long and writes nothing is done here, once."""
    from safetensors.numpy import save_file

    sources = [folder / f"{seed}" / "mobileclip2_s0.safetensors" for seed in (0, 1)]
    models = {}
    for seed, source in enumerate(sources):
        source.parent.mkdir()
        save_file(synthetic.state_dict(TIMM.shapes.items(), seed), source)
        checkpoint = open_checkpoint(source)
        options = {"variant": None, "form": "both", "dtype": "float32", "force": True, "like_open_clip": False}
        plan = make_plan(source, checkpoint, folder / "none", **options)
        models[source] = conversion._load(plan, checkpoint, silent)
    conversion._load = lambda plan, checkpoint, progress: models[checkpoint.files[0]]
    features = [np.random.default_rng(seed).normal(size=(20_000, 512)).astype(np.float32) for seed in (0, 1)]
    names = tuple(f"{number}.jpg" for number in range(20_000))

    def embed(path: Path, content: int, force: bool) -> None:
        Embeddings("s0", names, features[content], (), np.empty((0, 512), np.float32)).save(path, force)

    def convert(path: Path, content: int, force: bool) -> None:
        conversion.convert(sources[content], path, verify=False, force=force)

    return {
        "save_pretrained": ("model", lambda path, k, force: models[sources[k]].save_pretrained(path, overwrite=force)),
        "convert": ("converted", convert),
        "to-torch": ("a.safetensors", lambda path, k, force: to_torch(models[sources[k]], "timm", path, force=force)),
        "embed": ("a.npz", embed),
    }


def state(path: Path) -> str | None:
    """What an output holds, as a hash; None where there is none.

    Raises:
        ValueError: where it is not whole.
    """
    if not os.path.lexists(path):
        return None
    if path.is_file():
        return sha256(path)
    record = json.loads((path / "files.json").read_text())["files"]
    missing = [name for name in record if not (path / name).exists()]
    if missing or foreign_files(path):
        raise ValueError(f"{path} is not whole: {missing or foreign_files(path)}")
    digest = hashlib.sha256()
    with h5py.File(path / "model.weights.h5") as file:  # the file itself holds the time at which it was made
        file.visititems(lambda _, item: digest.update(item[()].tobytes()) if isinstance(item, h5py.Dataset) else None)
    return digest.hexdigest()


@contextmanager
def forked(write: Callable[[], Any]) -> Iterator[int]:
    """A process of its own that writes, and its id; it has ended when the context ends."""
    child = os.fork()
    if child == 0:
        try:
            write()
            os._exit(0)
        finally:
            os._exit(1)
    try:
        yield child
    finally:
        _, status = os.waitpid(child, 0)
        if os.waitstatus_to_exitcode(status) not in (0, -signal.SIGKILL):
            raise RuntimeError("the writer failed by itself")


def measure(place: Path, write: Write, moments: int, seed: int) -> dict[str, Any]:
    """Kills a writer at random moments and counts what each leaves."""
    random.seed(seed)
    contents, seconds = [], []
    for content in (0, 1):
        write(place, content, True)  # in this process, so that no other one imports anything
        contents.append(state(place))
    for content in (0, 1, 0):
        start = time.perf_counter()
        with forked(lambda content=content: write(place, content, True)):
            pass
        seconds.append(time.perf_counter() - start)
    usual = statistics.median(seconds)
    counts = dict.fromkeys(("old", "new", "first", "left beside", "lost", "left after the next run"), 0)
    for moment in track(range(moments), place.name, console=Console(stderr=True)):
        if moment % 5 == 4:  # there is nothing yet
            shutil.rmtree(place) if place.is_dir() else place.unlink()
        before = state(place)
        content = 1 - contents.index(before) if before else 0
        share = random.random() if moment % 2 else 1 - random.random() / 20
        with forked(lambda content=content: write(place, content, True)) as child:
            time.sleep(share * usual)
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        counts["left beside"] += len(os.listdir(place.parent)) > 1
        if before is not None and not os.path.lexists(place):
            recover(place.parent)  # between two renames there is no target, until the next run begins
        try:
            after = state(place)
        except ValueError:
            after = "damaged"
        is_refused = moment % 4 < 2 and os.path.lexists(place)
        with forked(lambda content=content, force=not is_refused: _next(write, place, content, force)):
            pass
        name = "lost" if after not in (before, contents[content]) else "old" if after == before else "new"
        counts[name] += 1
        counts["first"] += before is None
        counts["left after the next run"] += os.listdir(place.parent) != [place.name]
        if not is_refused and state(place) != contents[content]:
            counts["lost"] += 1
    return {"moments": moments, "seconds": round(usual, 2), **counts}


def _next(write: Write, place: Path, content: int, force: bool) -> None:
    """The next run: it goes through, or it is refused because there is something."""
    with suppress(MobileClipError):
        write(place, content, force)


def main(
    kinds: Annotated[list[str] | None, typer.Argument(help="save_pretrained, convert, to-torch, embed.")] = None,
    moments: Annotated[int, typer.Option(min=1, help="Kills of each kind of writer.")] = 50,
    seed: Annotated[int, typer.Option(help="Of the moments.")] = 0,
    two_renames: Annotated[bool, typer.Option(help="As on a disk that cannot exchange two folders.")] = False,
    results: Annotated[Path | None, JSON] = None,
) -> None:
    """Kills writers at random moments."""
    import torch

    torch.set_num_threads(1)
    if two_renames:
        atomic.exchange = lambda one, other: False
    table, kept = Table(), {}
    with tempfile.TemporaryDirectory() as scratch:
        for kind, (name, write) in writers(Path(scratch)).items():
            if kinds and kind not in kinds:
                continue
            place = Path(scratch) / kind / name
            place.parent.mkdir()
            kept[f"{kind}, two renames" if two_renames else kind] = counts = measure(place, write, moments, seed)
            if not table.columns:
                for column in ("writer", *counts):
                    table.add_column(column)
            table.add_row(kind, *map(str, counts.values()))
    Console().print(table)
    if results is not None:
        keep(results, kept)
    sys.exit(any(counts["lost"] or counts["left after the next run"] for counts in kept.values()))


if __name__ == "__main__":
    typer.run(main)
