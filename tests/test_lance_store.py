"""Stores as Lance data sets: what a user of Lance sees of them, and what can be wrong with them.

test_embedding_store.py and test_embedding_search.py have what holds for both layouts.
"""

import errno
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mobileclip_keras.keras_models.errors import MissingPackageError
from mobileclip_keras.keras_models.store.writing.output_errors import OutputError
from mobileclip_keras.keras_models.tasks.embedding import filling, lance_layout
from mobileclip_keras.keras_models.tasks.embedding.errors import StoreError
from mobileclip_keras.keras_models.tasks.embedding.filling import Outcome, fill
from mobileclip_keras.keras_models.tasks.embedding.parts import Rows
from mobileclip_keras.keras_models.tasks.embedding.searching import Collection
from mobileclip_keras.keras_models.tasks.embedding.store import Store
from tests.embedding_support import FINGERPRINT, WIDTH, StubEmbedder, pictures, rows_of

lance = pytest.importorskip("lance", reason="Lance is not installed: pip install 'mobileclip-keras[lance]'")

ROOT = Path(__file__).parents[1]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of 20 pictures in three parts."""
    monkeypatch.setattr(filling, "ROWS", 8)
    pictures(tmp_path / "photos", 20)
    run(tmp_path / "store.lance", tmp_path)
    return tmp_path / "store.lance"


def run(store: Path, folder: Path) -> Outcome:
    return fill(store, [str(folder / "photos")], StubEmbedder())  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_lance_opens_it(dtype: str, tmp_path: Path) -> None:
    files = pictures(tmp_path / "photos", 6)
    fill(tmp_path / "store.lance", files, StubEmbedder(), dtype=dtype)  # type: ignore[arg-type]
    dataset = lance.dataset(tmp_path / "store.lance")
    assert dataset.schema.names == ["id", "kind", "name", "features"]
    kind = dataset.schema.field("features").type
    assert kind.list_size == WIDTH and str(kind.value_type) == {"float32": "float", "float16": "halffloat"}[dtype]
    table = dataset.to_table()
    assert table.column("name").to_pylist() == files
    vectors = np.array(table.column("features").to_pylist(), dtype)
    np.testing.assert_array_equal(vectors, np.stack([rows_of(tmp_path / "store.lance")[name] for name in files]))
    nearest = dataset.to_table(nearest={"column": "features", "q": vectors[3].astype("float32"), "k": 1})
    assert nearest.column("name").to_pylist() == [files[3]]


def test_what_a_user_of_lance_does_to_it_is_understood(store: Path, tmp_path: Path) -> None:
    before = rows_of(store)
    (found,) = Collection.open(store).search(before[str(tmp_path / "photos" / "00003.png")], 1)
    dataset = lance.dataset(store)
    dataset.tags.create("mine", dataset.version)
    dataset.optimize.compact_files()
    assert len(Store.open(store).parts()) == 1
    after = rows_of(store)
    assert {name: row.tobytes() for name, row in after.items()} == {name: row.tobytes() for name, row in before.items()}
    assert Collection.open(store).search(before[found[0].name], 1) == [found]
    lance.dataset(store).delete(f"name = '{found[0].name}'")
    assert Collection.open(store).vector(found[0].name) is None and len(Collection.open(store)) == 19
    assert run(store, tmp_path).new == 1 and rows_of(store).keys() == before.keys()
    assert lance.dataset(store, version="mine").count_rows() == 20


def test_a_damaged_part_is_moved_away_and_its_rows_embedded_again(store: Path, tmp_path: Path) -> None:
    before = rows_of(store)
    part = Store.open(store).parts()[1].path
    whole = part.read_bytes()
    for damage in (whole[: len(whole) // 2], b"", bytes(len(whole))):
        part.write_bytes(damage)
        with pytest.raises(StoreError, match=rf"{part.name} is damaged.*Move it away and run `embed` again"):
            run(store, tmp_path)
        with pytest.raises(StoreError, match="is damaged"):
            Collection.open(store)
    part.rename(tmp_path / "moved away")
    with pytest.raises(StoreError, match=f"{part.name} is damaged"):
        Collection.open(store)
    outcome = run(store, tmp_path)
    assert (outcome.there, outcome.new) == (12, 8)
    assert {name: row.tobytes() for name, row in rows_of(store).items()} == {
        name: row.tobytes() for name, row in before.items()
    }


def test_many_rows_that_are_there_twice_are_removed(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lance_layout, "AT_ONCE", 3)
    opened = Store.open(store)
    ids = list(opened.ids())
    opened.layout.write(
        Rows([*ids[:8], b"n" * 16], ["image"] * 9, [f"again {number}" for number in range(9)], np.eye(9, 8))
    )
    run(store, tmp_path)
    assert sorted(Store.open(store).ids()) == sorted([*ids, b"n" * 16])


def test_a_pipe_in_a_data_set_is_not_read(store: Path) -> None:
    part = Store.open(store).parts()[0].path
    part.unlink()
    os.mkfifo(part)
    with pytest.raises(StoreError, match="is not a regular file"):
        Collection.open(store)


def test_a_data_set_that_cannot_be_opened_is_named(store: Path, tmp_path: Path) -> None:
    for manifest in (store / "_versions").glob("*.manifest"):
        manifest.write_bytes(b"nothing")
    for call in (lambda: run(store, tmp_path), lambda: Collection.open(store)):
        with pytest.raises(StoreError, match=r"The Lance data set in .*store\.lance cannot be opened: "):
            call()


def test_a_data_set_of_something_else_is_refused(store: Path, tmp_path: Path) -> None:
    import pyarrow as pa

    lance.write_dataset(pa.table({"id": [1]}), store, mode="overwrite")
    with pytest.raises(StoreError, match="cannot be opened: its columns are id"):
        run(store, tmp_path)
    lance.write_dataset(pa.table({"id": [1]}), tmp_path / "theirs.lance")
    with pytest.raises(StoreError, match="holds other files and is no store"):
        run(tmp_path / "theirs.lance", tmp_path)
    assert lance.dataset(tmp_path / "theirs.lance").count_rows() == 1


def test_what_a_kill_left_of_a_part_goes_once_nobody_can_be_writing_it(store: Path, tmp_path: Path) -> None:
    left = store / "data" / "0000.lance"
    left.write_bytes(b"half of it")
    run(store, tmp_path)
    assert left.exists(), "a worker of a cluster that lost its head may be writing it"
    long_ago = time.time() - lance_layout.ABANDONED - 1
    os.utime(left, (long_ago, long_ago))
    versions = len(lance.dataset(store).versions())
    run(store, tmp_path)
    assert not left.exists() and len(rows_of(store)) == 20
    assert len(lance.dataset(store).versions()) == versions


def test_a_part_that_cannot_be_written_leaves_nothing_to_be_seen(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(f"LanceError(IO): {os.strerror(errno.ENOSPC)} (os error 28), writer.rs:254")

    pictures(tmp_path / "photos", 3, first=20)
    with (
        monkeypatch.context() as patch,
        pytest.raises(OutputError, match=r"store.lance could not be written: no space"),
    ):
        patch.setattr(lance.LanceDataset, "commit", full)
        run(store, tmp_path)
    assert {path.name for path in (store / "data").iterdir()} == {part.path.name for part in Store.open(store).parts()}
    assert run(store, tmp_path).new == 3


def test_a_part_that_was_seen_before_the_run_was_stopped_stays(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = lance.LanceDataset.commit

    def stopped(*arguments: Any, **options: Any) -> None:
        commit(*arguments, **options)
        raise KeyboardInterrupt

    pictures(tmp_path / "photos", 3, first=20)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(lance.LanceDataset, "commit", stopped)
        run(store, tmp_path)
    assert len(rows_of(store)) == 23 and run(store, tmp_path).new == 0


def test_a_store_that_was_only_begun_holds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    pictures(tmp_path / "photos", 2)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(lance, "write_dataset", killed)
        run(tmp_path / "store.lance", tmp_path)
    with pytest.raises(StoreError, match="holds no vectors of images"):
        Collection.open(tmp_path / "store.lance")
    assert run(tmp_path / "store.lance", tmp_path).new == 2


def test_several_processes_may_append_at_once(tmp_path: Path) -> None:
    """As workers of a cluster do."""
    program = """
import sys
from pathlib import Path
import numpy as np
from mobileclip_keras.keras_models.tasks.embedding.lance_layout import LanceLayout
from mobileclip_keras.keras_models.tasks.embedding.parts import Rows
place, letter = sys.argv[1:]
for number in range(15):
    rows = Rows([letter.encode() * 15 + bytes([number])], ["image"], [f"{letter}{number}"], np.eye(1, 8))
    LanceLayout(Path(place), 8, "float32").write(rows)
"""
    with Store.for_writing(tmp_path / "store.lance", "model", 8, FINGERPRINT):
        pass
    running = [
        subprocess.Popen([sys.executable, "-c", program, tmp_path / "store.lance", each], cwd=ROOT) for each in "abcd"
    ]
    assert [each.wait() for each in running] == [0] * 4
    assert len(rows_of(tmp_path / "store.lance")) == 60


@pytest.fixture
def without_lance(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As where pylance is not installed."""
    monkeypatch.setitem(sys.modules, "lance", None)
    yield


def test_without_lance_one_sentence_says_what_to_install(store: Path, tmp_path: Path, without_lance: None) -> None:
    for call in (
        lambda: run(tmp_path / "new.lance", tmp_path),
        lambda: run(store, tmp_path),
        lambda: Collection.open(store),
    ):
        with pytest.raises(MissingPackageError, match=r"needs pylance: pip install .mobileclip-keras\[lance\]"):
            call()
    assert not (tmp_path / "new.lance").exists()
    assert run(tmp_path / "store", tmp_path).new == 20
