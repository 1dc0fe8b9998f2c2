"""evaluate: from a data set and a model to figures, in constant memory, again after a kill."""

import os
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from mobileclip_keras.verify.evaluation.data.dataset import DataError, Dataset, Sample
from mobileclip_keras.verify.evaluation.data.open_data import open_dataset
from mobileclip_keras.verify.evaluation.evaluate import Evaluation, evaluate
from mobileclip_keras.verify.evaluation.journal import BusyError
from mobileclip_keras.verify.evaluation.loading import AHEAD, batches
from tests.datasets import CLASSES, TEMPLATES, picture, rows, write_tar, write_webdataset
from tests.pixel_encoder import PixelEncoder

ROOT = Path(__file__).parents[1]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_webdataset(tmp_path / "data", rows(12))


def left(work: Path) -> list[Path]:
    return [path for path in work.rglob("*") if path.suffix != ".lock"]


def test_each_image_is_computed_once_and_figures_follow(dataset: Path, tmp_path: Path) -> None:
    encoder = PixelEncoder()
    found = evaluate(encoder, open_dataset(str(dataset)), tmp_path / "work")
    assert (encoder.images, encoder.texts) == (12, len(CLASSES) * len(TEMPLATES)) == (found.images, found.texts)
    features = encoder.encode_images([encoder.prepare(image) for image, _ in rows(12)][:3])
    prompts = encoder.encode_texts([each.format(c=name) for name in CLASSES for each in TEMPLATES])
    vectors = prompts.reshape(len(CLASSES), 2, -1).mean(axis=1)
    best = (features @ (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).T).argmax(axis=1)
    assert found.figures["acc1"].value * 12 >= (best == np.arange(3)).sum()
    assert not left(tmp_path / "work")


def test_the_fingerprint_knows_images_targets_classes_and_their_order(tmp_path: Path) -> None:
    usual = rows(4)
    swapped = [usual[1], usual[0], *usual[2:]]
    relabelled = [(usual[0][0], 5), *usual[1:]]
    redrawn = [(picture(99), usual[0][1]), *usual[1:]]
    found = []
    for number, each in enumerate((usual, swapped, relabelled, redrawn, usual[:3])):
        data = write_webdataset(tmp_path / str(number), each)
        found.append(evaluate(PixelEncoder(), open_dataset(str(data)), tmp_path / "work").fingerprint)
    (tmp_path / "0" / "classnames.txt").write_text("\n".join(reversed(CLASSES)))
    found.append(evaluate(PixelEncoder(), open_dataset(str(tmp_path / "0")), tmp_path / "work").fingerprint)
    assert len(set(found)) == 6
    other_shards = write_webdataset(tmp_path / "other", usual, shard=1)
    assert evaluate(PixelEncoder(), open_dataset(str(other_shards)), tmp_path / "work").fingerprint == found[0]


def test_unreadable_images_are_listed_and_in_no_figure(tmp_path: Path) -> None:
    broken = rows(7, "retrieval")
    broken[2] = (b"no image", broken[2][1])
    data = write_webdataset(tmp_path / "data", broken, "retrieval")
    encoder = PixelEncoder()
    found = evaluate(encoder, open_dataset(str(data)), tmp_path / "work")
    assert (found.images, found.texts) == (6, sum(len(texts) for n, (_, texts) in enumerate(broken) if n != 2))
    [(name, reason)] = found.unreadable
    assert name == "test/0.tar, row 3 (s0000002)" and reason.startswith(name) and "Image number" not in reason
    whole = write_webdataset(tmp_path / "whole", [row for n, row in enumerate(broken) if n != 2], "retrieval")
    assert evaluate(PixelEncoder(), open_dataset(str(whole)), tmp_path / "work").figures == found.figures


def test_no_readable_image_is_an_error(tmp_path: Path) -> None:
    data = write_webdataset(tmp_path / "data", [(b"no image", 0)])
    with pytest.raises(DataError, match=r"has no image that can be read\. The first: test/0\.tar, row 1"):
        evaluate(PixelEncoder(), open_dataset(str(data)), tmp_path / "work")


def test_templates_of_the_users_own(dataset: Path, tmp_path: Path) -> None:
    (dataset / "zeroshot_classification_templates.txt").unlink()
    with pytest.raises(DataError, match=r"has no templates\. Give --templates"):
        evaluate(PixelEncoder(), open_dataset(str(dataset)), tmp_path / "work")
    found = evaluate(PixelEncoder(), open_dataset(str(dataset)), tmp_path / "work", ("{c}!",))
    assert found.templates == ("{c}!",) and found.texts == len(CLASSES)
    with pytest.raises(DataError, match="--templates: 'a dog' is no template"):
        evaluate(PixelEncoder(), open_dataset(str(dataset)), tmp_path / "work", ("a dog",))


# After a kill


@pytest.mark.parametrize(
    "kind", ["classification", *(pytest.param(k, marks=pytest.mark.nightly) for k in ("multilabel", "retrieval"))]
)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without fork")
def test_killed_before_every_step(tmp_path: Path, kind: str) -> None:
    program = [sys.executable, ROOT / "tests" / "killed_evaluations.py", kind, tmp_path]
    done = subprocess.run(program, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


class Stops(PixelEncoder):
    """Fails at its third batch."""

    def encode_images(self, prepared: list[np.ndarray]) -> np.ndarray:
        if self.images >= 6:
            raise MemoryError
        return super().encode_images(prepared)


def stop(dataset: Path, work: Path) -> None:
    with pytest.raises(MemoryError):
        evaluate(Stops(), open_dataset(str(dataset)), work)


def test_half_written_rows_are_cut_off(dataset: Path, tmp_path: Path) -> None:
    whole = evaluate(PixelEncoder(), open_dataset(str(dataset)), tmp_path / "whole")
    stop(dataset, tmp_path / "work")
    for path in left(tmp_path / "work"):
        if path.name in ("images", "labels", "vectors") and path.is_file():
            path.write_bytes(path.read_bytes() + b"half a row")
    found = evaluate(PixelEncoder(), open_dataset(str(dataset)), tmp_path / "work")
    assert (found.resumed_at, found.figures, found.fingerprint) == (6, whole.figures, whole.fingerprint)


@pytest.mark.parametrize("damage", ["state", "rows"])
def test_a_damaged_journal_is_no_basis(dataset: Path, tmp_path: Path, damage: str) -> None:
    stop(dataset, tmp_path / "work")
    [folder] = [path for path in left(tmp_path / "work") if path.name == "images" and path.is_dir()]
    (folder / ("state.json" if damage == "state" else "labels")).write_bytes(b"{")
    found = evaluate(PixelEncoder(), open_dataset(str(dataset)), tmp_path / "work")
    assert (found.resumed_at, found.images) == (0, 12)


def test_data_that_changed_meanwhile_are_computed_again(dataset: Path, tmp_path: Path) -> None:
    stop(dataset, tmp_path / "work")
    shard = dataset / "test" / "0.tar"
    write_tar(shard, [("a.png", picture(50)), ("a.cls", b"3")])
    encoder = PixelEncoder()
    found = evaluate(encoder, open_dataset(str(dataset)), tmp_path / "work")
    assert (found.resumed_at, found.images, encoder.images) == (0, 8, 8)


def test_other_weights_and_templates_do_not_go_on(dataset: Path, tmp_path: Path) -> None:
    stop(dataset, tmp_path / "work")
    data, work = open_dataset(str(dataset)), tmp_path / "work"
    assert evaluate(PixelEncoder(weights="cd" * 32), data, work).resumed_at == 0
    assert evaluate(PixelEncoder(), data, work, ("{c}",)).resumed_at == 0
    assert evaluate(PixelEncoder(), data, work).resumed_at == 6


def test_data_that_are_broken_at_the_end_lose_nothing(dataset: Path, tmp_path: Path) -> None:
    shard = dataset / "test" / "2.tar"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:1024])
    with pytest.raises(DataError, match=r"test/2\.tar"):
        evaluate(PixelEncoder(2), open_dataset(str(dataset)), tmp_path / "work")
    shard.write_bytes(whole)
    assert evaluate(PixelEncoder(2), open_dataset(str(dataset)), tmp_path / "work").resumed_at == 10


def test_two_processes_do_not_compute_the_same(dataset: Path, tmp_path: Path) -> None:
    stop(dataset, tmp_path / "work")
    [lock] = (tmp_path / "work").glob("*.lock")
    with FileLock(lock), pytest.raises(BusyError, match="Another process computes this evaluation"):
        evaluate(PixelEncoder(), open_dataset(str(dataset)), tmp_path / "work")


def test_what_came_out_is_kept_until_it_is_written_down(dataset: Path, tmp_path: Path) -> None:
    def fails(found: Evaluation) -> None:
        raise OSError("the disk is full")

    data, work = open_dataset(str(dataset)), tmp_path / "work"
    with pytest.raises(OSError, match="the disk is full"):
        evaluate(PixelEncoder(), data, work, report=fails)
    encoder = PixelEncoder()
    assert evaluate(encoder, data, work).resumed_at == 12 and encoder.images == encoder.texts == 0


# Reading beside computing


def samples(count: int, read: list[int]) -> Iterator[Sample]:
    for number in range(count):
        read.append(number)
        yield Sample(str(number), str(number).encode(), 0)


def test_batches_are_in_order_and_few_wait() -> None:
    read: list[int] = []
    found = []
    for batch in batches(samples(50, read), lambda image: np.array(int(image)), 4):
        time.sleep(0.002)
        found += [int(each.pixels) for each in batch if each.pixels is not None]
        assert len(read) <= len(found) + 4 * (AHEAD + 3)
    assert found == list(range(50))


def test_errors_come_after_what_was_read_before_them() -> None:
    def broken() -> Iterator[Sample]:
        yield from samples(7, [])
        raise DataError("row 8")

    found = []
    with pytest.raises(DataError, match="row 8"):
        for batch in batches(broken(), lambda image: np.zeros(1), 3):
            found += batch
    assert len(found) == 7

    def fails(image: bytes) -> np.ndarray:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(batches(samples(7, []), fails, 3))


def test_who_stops_early_leaves_no_thread() -> None:
    before = threading.active_count()
    found = batches(samples(10_000, []), lambda image: np.zeros(1), 2)
    next(found)
    found.close()
    assert threading.active_count() == before


def test_preparing_goes_on_while_the_tower_computes(dataset: Path, tmp_path: Path) -> None:
    """Preparing 12 images takes as long as computing them; one after the other would take twice that."""

    class Slow(PixelEncoder):
        def prepare(self, image: bytes) -> np.ndarray:
            time.sleep(0.1)
            return super().prepare(image)

        def encode_images(self, prepared: list[np.ndarray]) -> np.ndarray:
            time.sleep(0.15)
            return super().encode_images(prepared)

    found = evaluate(Slow(), open_dataset(str(dataset)), tmp_path / "work")
    assert found.tower_share > 0.6  # but for the first batch, all is beside the tower
    assert found.images_per_second == pytest.approx(12 / found.seconds)


def test_speed_is_shown(dataset: Path, tmp_path: Path) -> None:
    said: list[tuple[int, str]] = []

    class Step:
        def __enter__(self) -> "Step":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def __call__(self, units: int, doing: str) -> None:
            said.append((units, doing))

    evaluate(PixelEncoder(), open_dataset(str(dataset)), tmp_path / "work", progress=lambda step, total: Step())
    assert said[-1][0] == 3 and said[-1][1].startswith("12 images, ") and said[-1][1].endswith(" images/s")


def test_memory_does_not_grow_with_the_data_set(tmp_path: Path) -> None:
    """300 images of 100 kB and as many arrays of 100 kB: what is in memory are a few batches of 4."""

    class Plain(PixelEncoder):
        def prepare(self, image: bytes) -> np.ndarray:
            return np.full(25_000, image[0], np.float32)

        def encode_images(self, prepared: list[np.ndarray]) -> np.ndarray:
            return np.stack([each[: self.width] for each in prepared])

    def read() -> Iterator[Sample]:
        for number in range(300):
            yield Sample(str(number), bytes([number % 250 + 1]) * 100_000, number % 6)

    data = Dataset("made up", "test", "classification", read, CLASSES, TEMPLATES)
    tracemalloc.start()
    evaluate(Plain(4), data, tmp_path / "work")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10e6, peak
