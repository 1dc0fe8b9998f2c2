"""A disk that is really full: a file system of a few pages in memory. Mounting it needs root."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mobileclip_keras.keras_models.store.writing.output_errors import OutputError
from mobileclip_keras.keras_models.tasks.embedding import filling
from mobileclip_keras.keras_models.tasks.embedding.filling import fill
from mobileclip_keras.keras_models.tasks.embedding.store import Store
from mobileclip_keras.verify.evaluation import evaluate as evaluating
from mobileclip_keras.verify.evaluation.data.open_data import open_dataset
from mobileclip_keras.verify.evaluation.evaluate import evaluate
from tests.datasets import rows, write_webdataset
from tests.embedding_support import STORES, StubEmbedder, pictures, rows_of
from tests.pixel_encoder import PixelEncoder

pytestmark = pytest.mark.nightly

ROOT = Path(__file__).parents[1]
PAGE = 4096


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder with room for 128 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", place], capture_output=True)
    if made.returncode:
        pytest.skip("a file system cannot be mounted here")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def leave(disk: Path, pages: int) -> None:
    """Fills a disk but for some pages."""
    ballast = disk / "ballast"
    ballast.unlink(missing_ok=True)
    free = shutil.disk_usage(disk).free
    ballast.write_bytes(bytes(free - pages * PAGE))
    assert shutil.disk_usage(disk).free == pages * PAGE


@pytest.mark.parametrize("place", STORES)
def test_a_store_on_a_full_disk_keeps_whole_parts_and_goes_on(
    place: str, small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filling, "ROWS", 100)
    data = pictures(tmp_path / "photos", 1000)
    with pytest.raises(
        OutputError, match=r"(part-\w+.parquet|store.lance) could not be written: no space left on device"
    ):
        fill(small_disk / place, [str(tmp_path / "photos")], StubEmbedder())
    kept = len(rows_of(small_disk / place))
    assert 0 < kept < 1000 and kept % 100 == 0
    parts = small_disk / place / ("data" if place.endswith(".lance") else "")
    others = {path.name for path in parts.iterdir()} - {"store.json", ".lock"}
    assert others == {part.path.name for part in Store.open(small_disk / place).parts()}
    shutil.copytree(small_disk / place, tmp_path / "roomy")
    outcome = fill(tmp_path / "roomy", [str(tmp_path / "photos")], StubEmbedder())
    assert (outcome.there, outcome.new) == (kept, 1000 - kept) and rows_of(tmp_path / "roomy").keys() == set(data)


@pytest.mark.parametrize("pages", range(4))
def test_a_store_that_cannot_be_begun_leaves_nothing(small_disk: Path, tmp_path: Path, pages: int) -> None:
    """Or all of it but the vectors, where the first part alone has no room."""
    pictures(tmp_path / "photos", 200)
    leave(small_disk, pages)
    with pytest.raises(OutputError, match="no space left on device"):
        fill(small_disk / "store", [str(tmp_path / "photos")], StubEmbedder())
    left = sorted(path.name for path in small_disk.rglob("*"))
    assert left in (["ballast"], [".lock", "ballast", "store", "store.json"])


def test_the_list_of_what_is_done_says_where_there_is_no_room(small_disk: Path) -> None:
    program = """
import os
from mobileclip_keras.keras_models.tasks.embedding.ledger import Ledger
ledger = Ledger()
for _ in range(300_000):
    ledger.add(os.urandom(16))
"""
    environment = {**os.environ, "SQLITE_TMPDIR": str(small_disk)}  # which SQLite reads once in a process
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert f"what is done cannot be kept in {small_disk}: database or disk is full" in done.stderr


def test_an_evaluation_on_a_full_disk_goes_on(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluating, "SAVE_SECONDS", 0.0)
    data = open_dataset(str(write_webdataset(tmp_path / "data", rows(40), "classification", shard=10)))
    whole = evaluate(PixelEncoder(), data, tmp_path / "whole")
    failed = 0
    for pages in range(1, 12):
        leave(small_disk, pages)
        try:
            found = evaluate(PixelEncoder(), data, small_disk / "work")
        except OutputError as error:
            assert "no space left on device" in str(error)
            failed += 1
            continue
        assert (found.figures, found.fingerprint) == (whole.figures, whole.fingerprint)
    assert failed
    leave(small_disk, 0)
    (small_disk / "ballast").unlink()
    found = evaluate(PixelEncoder(), data, small_disk / "work")
    assert (found.figures, found.fingerprint) == (whole.figures, whole.fingerprint)
