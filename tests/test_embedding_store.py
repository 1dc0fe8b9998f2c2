"""Filling a store of embeddings: what goes in, what stops it, and what is there afterwards."""

import errno
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from filelock import FileLock

from mobileclip_keras.keras_models.store.writing.output_errors import OutputError
from mobileclip_keras.keras_models.tasks.embedding import filling, reading
from mobileclip_keras.keras_models.tasks.embedding.errors import DataError, FingerprintError, StoreError
from mobileclip_keras.keras_models.tasks.embedding.filling import Outcome, fill
from mobileclip_keras.keras_models.tasks.embedding.ledger import Ledger
from mobileclip_keras.keras_models.tasks.embedding.parts import Part, Rows
from mobileclip_keras.keras_models.tasks.embedding.store import Store
from tests.embedding_support import FINGERPRINT, STORES, WIDTH, StubEmbedder, picture, pictures, rows_of, shard

both = pytest.mark.parametrize("place", STORES)
"""Runs a test for both layouts of a store."""


def run(store: Path, *data: str | Path, embedder: StubEmbedder | None = None, **options: object) -> Outcome:
    return fill(store, map(str, data), embedder or StubEmbedder(), **options)  # type: ignore[arg-type]


def expected(content: str | bytes) -> np.ndarray:
    stub = StubEmbedder()
    return stub.pixels(np.stack([stub.prepare(content)]))[0]


@both
def test_every_kind_of_data_is_embedded_once(place: str, tmp_path: Path) -> None:
    files = pictures(tmp_path / "photos", 9)
    tar = shard(tmp_path / "0.tar", {"a.jpg": picture(20), "a.cls": b"3", "b.png": picture(21), "._b.png": b""})
    bytes_ = tmp_path / "bytes.parquet"
    pq.write_table(pa.table({"image": [picture(30), picture(31)], "path": ["x", "y"]}), bytes_)
    paths = tmp_path / "paths.parquet"
    pq.write_table(pa.table({"path": ["photos/00000.png", "more.png"]}), paths)
    (tmp_path / "more.png").write_bytes(picture(40))
    hugging = tmp_path / "hugging.parquet"
    pq.write_table(pa.table({"image": [{"bytes": picture(50), "path": None}]}), hugging)
    texts = tmp_path / "texts.txt"
    texts.write_bytes("\ufeffa cat\n\n  a dog \na cat\r\n".encode())
    (tmp_path / "photos" / "notes.txt").write_text("beside pictures")

    stub = StubEmbedder()
    data = [tmp_path / "photos", tar, bytes_, paths, hugging]
    first = run(tmp_path / place, *data, embedder=stub)
    assert (first.new, first.there, first.unreadable) == (15, 1, 0)  # one of the files stands in paths.parquet too
    assert stub.batches == [4, 4, 4, 3]
    found = rows_of(tmp_path / place)
    more = {f"{tar}#a.jpg": 20, f"{tar}#b.png": 21, f"{bytes_}#0": 30, f"{bytes_}#1": 31, f"{hugging}#0": 50}
    wanted = {path: number for number, path in enumerate(files)} | more | {str(tmp_path / "more.png"): 40}
    assert found.keys() == wanted.keys()
    for name, seed in wanted.items():
        np.testing.assert_array_equal(found[name], expected(picture(seed)))

    again = run(tmp_path / place, *data)
    assert (again.new, again.there) == (0, 16)
    with_texts = run(tmp_path / "texts", texts, *data[:1])
    kinds = [batch.to_pydict() for part in Store.open(tmp_path / "texts").parts() for batch in part.columns("kind")]
    assert with_texts.new == 12 and sum(each["kind"].count("text") for each in kinds) == 3


def test_a_folder_may_be_named_in_any_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(tmp_path / "photos", 5)
    monkeypatch.chdir(tmp_path)
    assert run(Path("store"), "photos", "photos/*.png", "./photos/../photos").new == 5
    monkeypatch.chdir(tmp_path / "photos")
    assert run(Path("../store"), ".").there == 5
    pictures(tmp_path / "photos", 2, first=5)
    assert run(Path("../store"), tmp_path).new == 2  # the store lies below, and is no data
    assert len(Store.open(tmp_path / "store")) == 7


def test_what_is_hidden_in_a_folder_is_left_out(tmp_path: Path) -> None:
    pictures(tmp_path / "photos", 2)
    pictures(tmp_path / "photos" / ".thumbnails", 1)
    (tmp_path / "photos" / ".hidden.png").write_bytes(picture(9))
    assert run(tmp_path / "store", tmp_path / "photos").new == 2


def test_a_line_that_was_put_in_is_embedded(tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    for content in ("a cat\na dog\n", "a bird\na cat\na dog\n"):
        texts.write_text(content)
        run(tmp_path / "store", texts)
    names = [name for part in Store.open(tmp_path / "store").parts() for name in names_in(part)]
    assert set(names) == {"a bird", "a cat", "a dog"}


def names_in(part: Part) -> list[str]:
    return [name for batch in part.columns("name") for name in batch.column(0).to_pylist()]


def test_what_is_too_large_is_listed_and_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "LARGEST_IMAGE_FILE", 1000)
    monkeypatch.setattr(reading, "LONGEST_TEXT", 5)
    archive = shard(tmp_path / "0.tar", {"a.png": picture(1), "b.png": bytes(1001)})
    (tmp_path / "texts.txt").write_text("a cat\nmuch longer\n")
    outcome = run(tmp_path / "store", archive, tmp_path / "texts.txt")
    reasons = [each["reason"] for each in Store.open(tmp_path / "store").unreadable()]
    assert outcome.new == 1 and len(reasons) == 2, reasons
    assert reasons[0].endswith("#b.png has 1,001 bytes.") and reasons[1].endswith("line 1, has more than 5 bytes.")


def test_what_is_broken_is_listed_and_the_rest_embedded(tmp_path: Path) -> None:
    files = pictures(tmp_path / "photos", 4)
    Path(files[1]).write_bytes(b"\x89PNG nothing more")
    good = shard(tmp_path / "good.tar", {f"{number}.png": picture(number) for number in range(6)})
    cut = tmp_path / "cut.tar"
    cut.write_bytes(good.read_bytes()[:1700])
    torn = bytearray(good.read_bytes())
    torn[3 * 1024 + 5] ^= 1  # in the header of a file, where tarfile ends without a word
    assert torn[3 * 1024 + 257 :][:5] == b"ustar"
    (tmp_path / "torn.tar").write_bytes(torn)
    rows = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"image": [picture(1), None, b"", b"no image"]}), rows)
    other = tmp_path / "other.parquet"
    pq.write_table(pa.table({"label": [1]}), other)
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and no more")
    (tmp_path / "bad.txt").write_bytes("a cat\nKäse\n".encode("latin-1") + b"a dog")
    data = [tmp_path / "photos", *(tmp_path / name for name in ("cut.tar", "torn.tar", "gone.png", "bad.txt"))]
    outcome = run(tmp_path / "store", *data, rows, other, tmp_path / "bad.parquet")
    listed = {Path(each["name"]).name: each["reason"] for each in Store.open(tmp_path / "store").unreadable()}
    assert listed.keys() == {
        "00001.png", "cut.tar", "cut.tar#1.png", "torn.tar", "gone.png", "bad.txt#2", "rows.parquet#1",
        "rows.parquet#2", "rows.parquet#3", "other.parquet", "bad.parquet",
    }  # fmt: skip
    assert outcome.unreadable == len(listed) and outcome.new == 3 + 1 + 3 + 2 + 1
    for name, reason in {
        "00001.png": "is not an image",
        "cut.tar": "cannot be read to its end: unexpected end of data",
        "cut.tar#1.png": "the archive is damaged here",
        "torn.tar": "damaged",
        "gone.png": "does not exist",
        "bad.txt#2": "line 2, is not UTF-8",
        "rows.parquet#1": "row 1, holds nothing",
        "rows.parquet#3": "rows.parquet#3 is not an image",
        "other.parquet": "neither a column 'image' nor a column 'path'; its columns are label",
    }.items():
        assert reason in listed[name], listed[name]

    Path(files[1]).write_bytes(picture(1))
    mended = run(tmp_path / "store", tmp_path / "photos")
    assert (mended.new, mended.there, mended.unreadable) == (1, 3, 0)
    assert "00001.png" not in {Path(each["name"]).name for each in Store.open(tmp_path / "store").unreadable()}
    assert len(Store.open(tmp_path / "store").unreadable()) == len(listed) - 1, "what was not looked at stays listed"


def test_the_list_goes_once_all_is_mended(tmp_path: Path) -> None:
    files = pictures(tmp_path / "photos", 2)
    Path(files[1]).write_bytes(b"broken")
    assert run(tmp_path / "store", *files).unreadable == 1 and (tmp_path / "store" / "unreadable.jsonl").exists()
    Path(files[1]).write_bytes(picture(1))
    with open(tmp_path / "store" / "unreadable.jsonl", "ab") as file:
        file.write(b'{"name": "x"}\n[1]\n\xff{"id": "no hash", "name": "y", "reason": "z"}\n')
    assert run(tmp_path / "store", *files).new == 1 and not (tmp_path / "store" / "unreadable.jsonl").exists()


@both
def test_another_fingerprint_is_refused_and_named(place: str, tmp_path: Path) -> None:
    pictures(tmp_path / "photos", 2)
    run(tmp_path / place, tmp_path / "photos")
    before = rows_of(tmp_path / place)
    for change, words in {
        "image_weights": "the weights of the image tower (111111111111… there, 999999999999… here)",
        "preprocessing": "the preprocessing of images (8 px there, ",
        "version": "the version of mobileclip-keras (0.1.0 there",
    }.items():
        other = StubEmbedder(fingerprint=replace(FINGERPRINT, **{change: "9" * 64}))
        with pytest.raises(FingerprintError) as refused:
            run(tmp_path / place, tmp_path / "photos", embedder=other)
        assert words in str(refused.value) and str(refused.value).count(" there, ") == 1
    one_tower = replace(FINGERPRINT, text_weights="", tokenizer="")
    assert run(tmp_path / place, tmp_path / "photos", embedder=StubEmbedder(fingerprint=one_tower)).there == 2
    assert rows_of(tmp_path / place).keys() == before.keys()


@both
def test_one_process_writes_at_a_time(place: str, tmp_path: Path) -> None:
    pictures(tmp_path / "photos", 2)
    run(tmp_path / place, tmp_path / "photos")
    with FileLock(tmp_path / place / ".lock"), pytest.raises(StoreError, match="Another process writes to"):
        run(tmp_path / place, tmp_path / "photos")
    assert run(tmp_path / place, tmp_path / "photos").there == 2


def test_places_that_are_no_stores_are_left_alone(tmp_path: Path) -> None:
    pictures(tmp_path / "photos", 2)
    (tmp_path / "file").write_text("mine")
    for place, message in {
        "photos": "holds other files and is no store",
        "file": "is a file. A store is a folder",
        "file/store": "could not be written",
    }.items():
        with pytest.raises((StoreError, OutputError), match=message):
            run(tmp_path / place, tmp_path / "photos")
    with pytest.raises(DataError, match="empty leads to nothing"):
        (tmp_path / "empty").mkdir()
        run(tmp_path / "store", tmp_path / "photos", tmp_path / "empty")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file", "photos"]
    run(tmp_path / "store", tmp_path / "photos", dtype="float16")
    assert next(iter(rows_of(tmp_path / "store").values())).dtype == np.float16
    with pytest.raises(StoreError, match="holds float16, not float32"):
        run(tmp_path / "store", tmp_path / "photos", dtype="float32")
    record = tmp_path / "store" / "store.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"format": 3, "embed_dim": "8"}))
    with pytest.raises(StoreError, match=r"format must be.*embed_dim must be"):
        Store.open(tmp_path / "store")


def test_what_does_not_exist_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    (good,) = pictures(tmp_path / "photos", 1)
    for data, message in (
        ([tmp_path / "nowhere"], "nowhere does not exist"),
        ([tmp_path / "gone.png", tmp_path / "gone.tar"], "gone.png does not exist"),
        (["https://a.org/cat.png"], "cat.png is a URL, and URLs are not fetched"),
        ([good, tmp_path / "photo"], "photo does not exist"),  # a folder that was mistyped is no broken picture
        ([good, tmp_path / "photo" / "*.png"], "leads to nothing"),
    ):
        with pytest.raises(DataError, match=message):
            run(tmp_path / "store", *data)
        assert not (tmp_path / "store").exists()
    outcome = run(tmp_path / "store", good, tmp_path / "gone.png", "https://a.org/cat.png")
    assert (outcome.new, outcome.unreadable) == (1, 2)


def test_a_damaged_part_is_named_and_its_rows_embedded_again(tmp_path: Path) -> None:
    pictures(tmp_path / "photos", 6)
    run(tmp_path / "store", tmp_path / "photos")
    (part,) = [each.path for each in Store.open(tmp_path / "store").parts()]
    whole = part.read_bytes()
    part.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StoreError, match=f"{part.name} is damaged"):
        run(tmp_path / "store", tmp_path / "photos")
    part.unlink()
    assert run(tmp_path / "store", tmp_path / "photos").new == 6
    assert part.read_bytes() == whole
    pq.write_table(pa.table({"id": [1]}), tmp_path / "store" / "part-of-somebody.parquet")
    with pytest.raises(StoreError, match="its columns are id"):
        run(tmp_path / "store", tmp_path / "photos")


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    pictures(tmp_path / "photos", 6)
    run(tmp_path / "store", tmp_path / "photos")
    (part,) = [each.path for each in Store.open(tmp_path / "store").parts()]
    whole = part.read_bytes()
    vector = next(iter(rows_of(tmp_path / "store").values())).tobytes()
    flipped = bytearray(whole)
    flipped[whole.index(vector) + 5] ^= 1
    part.write_bytes(flipped)
    with pytest.raises(StoreError, match=f"{part.name} is damaged"):
        rows_of(tmp_path / "store")


def test_a_store_of_a_version_that_wrote_no_checksums_is_read(tmp_path: Path) -> None:
    files = pictures(tmp_path / "photos", 6)
    run(tmp_path / "store", tmp_path / "photos")
    (part,) = [each.path for each in Store.open(tmp_path / "store").parts()]
    pq.write_table(pq.read_table(part), part)
    assert run(tmp_path / "store", tmp_path / "photos").there == 6 and rows_of(tmp_path / "store").keys() == set(files)


def test_a_part_that_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(tmp_path / "photos", 2)

    def full(table: pa.Table, file: BinaryIO, **_: object) -> None:
        file.write(b"half of it")
        file.flush()
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OutputError, match="no space left on device"):
        patch.setattr(pq, "write_table", full)
        run(tmp_path / "store", tmp_path / "photos")
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == [".lock", "store.json"]
    assert run(tmp_path / "store", tmp_path / "photos").new == 2


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), SystemExit(143), DataError("no text tower")], ids=repr)
@both
def test_parts_are_written_while_the_run_goes_on(
    place: str, stop: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filling, "ROWS", 8)
    files = pictures(tmp_path / "photos", 30)

    class Stops(StubEmbedder):
        def pixels(self, batch: np.ndarray) -> np.ndarray:
            if len(self.batches) == 5:
                raise stop
            return super().pixels(batch)

    with pytest.raises(type(stop)):
        run(tmp_path / place, tmp_path / "photos", embedder=Stops())
    assert sorted(part.rows for part in Store.open(tmp_path / place).parts()) == [4, 8, 8]
    seen: list[int] = []
    run(tmp_path / place, tmp_path / "photos", progress=lambda count, rate: seen.append(count))
    assert seen == [4, 4, 2] and rows_of(tmp_path / place).keys() == set(files)


def test_a_part_is_written_after_some_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(0, 10_000, 25))  # a batch takes some time
    clock = SimpleNamespace(monotonic=lambda: float(next(now)))
    pictures(tmp_path / "photos", 30)
    monkeypatch.setattr(filling, "time", clock)
    run(tmp_path / "store", tmp_path / "photos")
    found = sorted(part.rows for part in Store.open(tmp_path / "store").parts())
    assert found == [6, 12, 12], "after 60 s, which begin again with each part"


@both
def test_vectors_of_another_width_are_refused(place: str, tmp_path: Path) -> None:
    pictures(tmp_path / "photos", 2)
    run(tmp_path / place, tmp_path / "photos")
    other = StubEmbedder()
    other.width = 4
    with pytest.raises(StoreError, match="holds vectors of 8 numbers, not 4"):
        run(tmp_path / place, tmp_path / "photos", embedder=other)


def test_parts_with_other_vectors_or_without_are_damage(tmp_path: Path) -> None:
    pictures(tmp_path / "photos", 2)
    run(tmp_path / "store", tmp_path / "photos")
    (part,) = [each.path for each in Store.open(tmp_path / "store").parts()]
    table = pq.read_table(part)
    for kind, message in (
        (pa.list_(pa.float32(), 4), "its vectors are"),
        (pa.list_(pa.float32(), 8), "without vectors"),
    ):
        nothing = pa.array([None] * len(table), kind)
        pq.write_table(table.set_column(3, "features", nothing), part)
        with pytest.raises(StoreError, match=message):
            rows_of(tmp_path / "store")


@both
def test_a_version_that_knows_no_lance_refuses_it(place: str, tmp_path: Path) -> None:
    """Instead of finding no parts."""
    pictures(tmp_path / "photos", 2)
    run(tmp_path / place, tmp_path / "photos")
    record = json.loads((tmp_path / place / "store.json").read_text())
    assert record["format"] == (2 if place.endswith(".lance") else 1)


@both
def test_rows_that_are_there_twice_are_removed(place: str, tmp_path: Path) -> None:
    files = pictures(tmp_path / "photos", 6)
    run(tmp_path / place, tmp_path / "photos")
    store = Store.open(tmp_path / place)
    ids = list(store.ids())
    extra = Rows([ids[0], ids[3], b"x" * 16], ["image"] * 3, ["a", "b", "new"], np.eye(3, WIDTH))
    store.layout.write(extra)
    run(tmp_path / place, tmp_path / "photos")
    found = rows_of(tmp_path / place)
    assert len(list(store.ids())) == 7
    assert len(found) == 7 and "new" in found and len({"a", files[0]} & found.keys()) == 1


def test_the_ledger_takes_no_memory_of_its_own() -> None:
    """A set of a million ids takes 100 MB; SQLite keeps what it lacks room for in a file."""
    code = (
        "import resource, sys\n"
        "from mobileclip_keras.keras_models.tasks.embedding.ledger import Ledger\n"
        "ledger = Ledger(); ledger.add(b'0' * 16)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "ledger.add_all(number.to_bytes(16, 'big') for number in range(300_000))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    grown = int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
    assert grown < 8 << 10, f"{grown} KiB"
    ledger = Ledger()
    assert ledger.add(b"a") and not ledger.add(b"a") and b"a" in ledger and b"b" not in ledger


@both
def test_killed_runs_lose_nothing_and_do_nothing_twice(place: str, tmp_path: Path) -> None:
    program = Path(__file__).with_name("killed_embedding.py")
    ran = subprocess.run([sys.executable, program, tmp_path, "6", place], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    counts = json.loads(ran.stdout)
    assert counts.pop("kills") == 6
    assert {name: count for name, count in counts.items() if name not in ("stores", "runs") and count} == {}
