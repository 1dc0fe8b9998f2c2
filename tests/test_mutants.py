"""Damaged folders and checkpoints through the commands: a message each, no code run, bounded time and memory.

`MUTANTS=seed` runs one alone.
"""

import gc
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from mobileclip_keras.converters.checkpoints import identify
from mobileclip_keras.converters.cli.app import app
from mobileclip_keras.keras_models import registry
from mobileclip_keras.keras_models.tasks.embedding_files import EmbeddingFileError, Embeddings
from mobileclip_keras.verify.data import synthetic
from mobileclip_keras.weight_maps.table import LOGIT_SCALE, NONE, Row
from mobileclip_keras.weight_maps.table import model_rows as real_rows

from .converted import write_converted
from .mutants import Chance, flip, mutated_checkpoint, mutated_folder
from .small import EMBED_DIM, image_rows, small_model, text_rows

pytestmark = [
    pytest.mark.usefixtures("small_towers"),
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system does not say how much it takes"),
]

RUNNER = CliRunner()
IMAGE_TOWER, TEXT_TOWER = "small_mci", "small_mct"
NO_CODE = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "socket.connect", "pty.spawn")
MOST_SECONDS, MOST_MEMORY = 60, 1 << 30

_watched: list[str] | None = None


def _watch(event: str, arguments: Any) -> None:
    # Pillow asks once whether Ghostscript is there, whatever the files are.
    if _watched is not None and event in NO_CODE and "['gs', '--version']" not in repr(arguments):
        _watched.append(f"{event} {arguments!r:.200}")


sys.addaudithook(_watch)


@pytest.fixture(scope="module")
def folder(small_towers: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small converted folder, with an image and features beside it."""
    place = tmp_path_factory.mktemp("originals")
    Image.new("RGB", (80, 60), "red").save(place / "red.png")
    features = np.eye(3, EMBED_DIM, dtype=np.float32)
    found = write_converted(small_model(IMAGE_TOWER, TEXT_TOWER, variant="mobileclip_s0"), place / "folder")
    for suffix in (".npz", ".parquet"):
        Embeddings(str(found), ("a", "b", "ü"), features, ("x",), features[:1]).save(place / f"features{suffix}")
    return found


def small_rows(image: str | None, text: str | None, layout: str, form: str) -> tuple[Row, ...]:
    """Tables of the small towers in Apple's layout, beside the real ones."""
    if image != IMAGE_TOWER:
        return real_rows(image, text, layout, form)
    if layout != "apple":
        raise LookupError(layout)
    return (LOGIT_SCALE, *image_rows(IMAGE_TOWER, layout, form), *text_rows(TEXT_TOWER, layout, form))


@pytest.fixture
def small_s0(monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """Makes s0 a variant of small towers, and gives a checkpoint of it."""
    small = replace(
        registry.get_variant("s0"), image_tower=IMAGE_TOWER, text_tower=TEXT_TOWER, embed_dim=EMBED_DIM, image_size=64
    )
    monkeypatch.setitem(registry.VARIANTS, small.name, small)
    for key, variant in registry._KEYS.items():
        if variant.name == small.name:
            monkeypatch.setitem(registry._KEYS, key, small)
    monkeypatch.setattr(identify, "model_rows", small_rows)
    rows = small_rows(IMAGE_TOWER, TEXT_TOWER, "apple", "train")
    return synthetic.state_dict([(row.source, row.source_shape) for row in rows if row.source != NONE], 0)


def memory(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:"))


class Tally:
    """What commands did with mutants, and the worst of it."""

    def __init__(self) -> None:
        self.done = self.refused = 0
        self.wrong: list[str] = []
        self.slowest: tuple[float, str] = (0.0, "")
        self.largest: tuple[int, str] = (0, "")

    def run(self, what: str, *arguments: object) -> None:
        global _watched
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")
        before, start = memory("VmRSS"), time.monotonic()
        _watched = []
        ran = RUNNER.invoke(app, [*map(str, arguments)])
        code, _watched = _watched, None
        taken, used = time.monotonic() - start, memory("VmHWM") - before
        what = f"{arguments[0]}: {what}"
        self.slowest = max(self.slowest, (taken, what))
        self.largest = max(self.largest, (used, what))
        self.done += 1
        self.refused += ran.exit_code != 0
        wrong = {
            "an exception": ran.exception is not None and not isinstance(ran.exception, SystemExit),
            "an error that nobody foresaw": "a mistake in mobileclip-keras" in ran.output or "Traceback" in ran.output,
            "its exit status": ran.exit_code not in (0, 1) or (ran.exit_code == 1 and not ran.stderr),
            "hidden characters": bool(set(ran.output) & set("\x1b\u202e")),
            "code that ran": bool(code),
            "its time": taken >= MOST_SECONDS,
            "its memory": used >= MOST_MEMORY,
        }
        said = f"{ran.output[-600:]} {ran.exception!r} {code} {taken:.1f} s {used >> 20} MiB"
        self.wrong += [f"{what}: {name}: {said}" for name, is_wrong in wrong.items() if is_wrong]

    def __str__(self) -> str:
        return (
            f"{self.done} commands, {self.refused} refused; slowest {self.slowest[0]:.1f} s ({self.slowest[1]}), "
            f"largest {self.largest[0] >> 20} MiB ({self.largest[1]})"
        )


def seeds(count: int) -> list[int]:
    return [int(os.environ["MUTANTS"])] if "MUTANTS" in os.environ else list(range(count))


def try_folders(folder: Path, place: Path, count: int) -> Tally:
    tally = Tally()
    image = folder.parent / "red.png"
    for seed in seeds(count):
        target = place / str(seed)
        what = f"{seed}, {mutated_folder(seed, folder, target)}"
        tally.run(what, "classify", image, "--labels", "a,b", "--model", target)
        tally.run(what, "publish", target, "--repo", "user/name", "--dry-run")
        if seed % 3 == 0:
            tally.run(what, "to-torch", target, "--layout", "apple", "--out", place / f"{seed}.pt")
        for suffix in (".npz", ".parquet"):
            features = place / f"{seed}{suffix}"
            features.write_bytes((folder.parent / f"features{suffix}").read_bytes())
            what = f"{seed}, {flip(Chance(seed), features)}"
            tally.run(what, "search", "a", "--in", features, "--model", folder)
    return checked(tally)


def checked(tally: Tally) -> Tally:
    print(tally)
    assert not tally.wrong, f"{len(tally.wrong)} of {tally.done}:\n" + "\n\n".join(tally.wrong)
    return tally


def try_checkpoints(tensors: dict[str, np.ndarray], place: Path, count: int) -> Tally:
    tally, mark = Tally(), place / "mark"
    for seed in seeds(count):
        path, what = mutated_checkpoint(seed, tensors, place, mark)
        tally.run(f"{seed}, {what}", "inspect", path)
        out = place / f"out{seed}"
        tally.run(f"{seed}, {what}", "convert", "--src", path, "--out", out, "--variant", "s0", "--no-verify")
        assert not mark.exists(), what
        assert [*place.iterdir()] == [path] or out.is_dir() or not out.exists()
        path.unlink()
    return checked(tally)


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    yield


def test_damaged_folders(folder: Path, tmp_path: Path) -> None:
    tally = try_folders(folder, tmp_path, 1)
    assert tally.refused


def test_damaged_checkpoints(small_s0: dict[str, np.ndarray], tmp_path: Path) -> None:
    tally = try_checkpoints(small_s0, tmp_path, 2)
    assert tally.refused


@pytest.mark.nightly
def test_300_damaged_folders(folder: Path, tmp_path: Path) -> None:
    assert try_folders(folder, tmp_path, 300).refused


@pytest.mark.nightly
def test_300_damaged_checkpoints(small_s0: dict[str, np.ndarray], tmp_path: Path) -> None:
    tally = try_checkpoints(small_s0, tmp_path, 300)
    assert tally.refused < tally.done, "a mutant that is whole is converted"


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_damaged_features(folder: Path, tmp_path: Path, suffix: str) -> None:
    """By way of the reader alone. pyarrow ends the process where some of its functions meet damage."""
    refused = 0
    for seed in range(150):
        path = tmp_path / f"{seed}{suffix}"
        path.write_bytes((folder.parent / f"features{suffix}").read_bytes())
        flip(Chance(seed), path)
        try:
            Embeddings.load(path)
        except EmbeddingFileError:
            refused += 1
    assert 100 < refused < 150
