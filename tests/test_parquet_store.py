"""Stores as Parquet files: how a part gets its name, takes its place, and goes again.

test_embedding_store.py and test_embedding_search.py have what holds for both layouts.
"""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from mobileclip_keras.keras_models.tasks.embedding.errors import StoreError
from mobileclip_keras.keras_models.tasks.embedding.filling import fill
from mobileclip_keras.keras_models.tasks.embedding.parquet_layout import ParquetPart
from mobileclip_keras.keras_models.tasks.embedding.parts import Rows
from mobileclip_keras.keras_models.tasks.embedding.searching import Collection
from mobileclip_keras.keras_models.tasks.embedding.store import Store
from tests.embedding_support import WIDTH, StubEmbedder, pictures, rows_of


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store of five pictures in one part."""
    pictures(tmp_path / "photos", 5)
    run(tmp_path / "store")
    return tmp_path / "store"


def run(store: Path) -> int:
    """How many inputs are new."""
    return fill(store, [str(store.with_name("photos"))], StubEmbedder()).new  # type: ignore[arg-type]


def rows(letters: str) -> Rows:
    features = np.eye(len(letters), WIDTH, dtype=np.float32)
    return Rows([each.encode() * 16 for each in letters], ["image"] * len(letters), list(letters), features)


def test_a_part_is_on_the_disk_before_it_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(tmp_path / "photos", 5)
    sync, seen = os.fsync, []

    def watched(file: int) -> None:
        seen.append((os.fstat(file).st_size, list((tmp_path / "store").glob("part-*"))))
        sync(file)

    monkeypatch.setattr(os, "fsync", watched)
    run(tmp_path / "store")
    (part,) = Store.open(tmp_path / "store").parts()
    assert seen == [(part.path.stat().st_size, [])]


def test_parts_that_begin_or_end_alike_are_two(store: Path) -> None:
    layout = Store.open(store).layout
    for letters in ("ab", "abc", "bc", "ab"):  # the last one is written twice, and is there once
        layout.write(rows(letters))
    assert len(Store.open(store).parts()) == 4 and len(Store.open(store)) == 5 + 2 + 3 + 2


def test_a_part_of_which_nothing_is_wanted_is_gone(store: Path) -> None:
    (part,) = Store.open(store).parts()
    shutil.copy(part.path, store / "part-copied.parquet")
    assert run(store) == 0
    (left,) = Store.open(store).parts()
    assert left.rows == 5 and rows_of(store).keys() == {str(path) for path in store.with_name("photos").iterdir()}


def test_the_rest_of_a_part_of_many_batches_is_kept(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ParquetPart.columns.__kwdefaults__, "rows_at_once", 2)
    right = rows_of(store)
    opened = Store.open(store)
    (part,) = opened.parts()
    opened.layout.keep(part, np.array([True, False, False, True, True]))
    found, names = rows_of(store), list(right)
    assert list(found) == [names[0], names[3], names[4]]
    assert all(np.array_equal(found[name], right[name]) for name in found)


def test_a_part_that_was_replaced_is_searched_as_it_is_now(store: Path) -> None:
    Collection.open(store)
    (part,) = Store.open(store).parts()
    other = Store.open(store).layout
    other.write(rows("abc"))
    (new,) = [each.path for each in Store.open(store).parts() if each.path != part.path]
    new.replace(part.path)
    assert [match.name for match in Collection.open(store).search(rows("abc").features[2], 1)[0]] == ["c"]


def test_a_pipe_among_the_parts_is_not_read(store: Path) -> None:
    os.mkfifo(store / "part-pipe.parquet")
    with pytest.raises(StoreError, match=r"part-pipe\.parquet is damaged.*is not a regular file"):
        run(store)
