"""The vectors of a store in one piece, for searching: a file that is mapped into memory, and made anew when it must be.

A Parquet file cannot be mapped as an array. So the vectors of one kind are copied, as float32, below `search/`. The
copy's name follows from the parts that it was made of. It may be removed at any time.
"""

import hashlib
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ...store.writing.atomic import folder_placed_whole
from ...store.writing.output_errors import output_errors
from ...store.writing.staging import recover
from .errors import StoreError
from .parts import vectors_of
from .store import Store

if TYPE_CHECKING:
    from numpy.typing import NDArray

KINDS = ("image", "text")
SEARCH_FOLDER = "search"
VECTORS_FILE, ROWS_FILE = "vectors.npy", "rows.npy"
_OWN_NAME = re.compile(r"(image|text)-[0-9a-f]{32}(-graph)?")


class Vectors(NamedTuple):
    """The vectors of one kind, mapped into memory."""

    array: "NDArray[np.float32]"
    """(vectors, embed_dim), of length 1."""
    rows: "NDArray[np.int64]"
    """(vectors,): the row of the store that each vector is."""


def mapped(store: Store, kind: str = "image") -> Vectors:
    """The vectors of a kind, copied first where there is no copy of what the store holds now.

    Raises:
        StoreError: where a part is damaged, or there are no vectors of this kind.
        OutputError: where the copy cannot be written.
    """
    place = copy_place(store, kind)
    if not place.exists():
        with output_errors(place):
            place.parent.mkdir(exist_ok=True)
            recover(place.parent)
            with folder_placed_whole(place, lambda there, thorough: None) as folder:
                _copy(store, kind, folder)
        remove_others(store, kind)
    array, rows = (np.load(place / name, mmap_mode="r") for name in (VECTORS_FILE, ROWS_FILE))
    return Vectors(np.asarray(array), np.asarray(rows))


def copy_place(store: Store, kind: str) -> Path:
    """Where the copy lies of what the store holds now."""
    digest = hashlib.blake2b(digest_size=16)
    for path in store.part_paths():
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
    return store.folder / SEARCH_FOLDER / f"{kind}-{digest.hexdigest()}"


def _copy(store: Store, kind: str, folder: Path) -> None:
    count = sum(
        sum(each == kind for each in batch.column(0).to_pylist())
        for part in store.parts()
        for batch in part.columns("kind")
    )
    if count == 0:
        raise StoreError(f"{store.folder} holds no vectors of {kind}s.")
    array, rows = (
        np.lib.format.open_memmap(folder / name, mode="w+", dtype=dtype, shape=shape)
        for name, dtype, shape in (
            (VECTORS_FILE, np.float32, (count, store.width)),
            (ROWS_FILE, np.int64, (count,)),
        )
    )
    done = before = 0
    for part in store.parts():
        for batch in part.columns("kind", "features"):
            wanted = np.flatnonzero(np.array(batch.column(0).to_pylist()) == kind)
            some = _unit(np.asarray(vectors_of(batch)[wanted], np.float32))
            if not np.isfinite(some).all():
                raise StoreError(f"{part.path} is damaged: not all of its numbers are finite.")
            array[done : done + len(some)] = some
            rows[done : done + len(some)] = before + wanted
            done, before = done + len(some), before + len(batch)
    array.flush()
    rows.flush()


def _unit(rows: "NDArray[np.float32]") -> "NDArray[np.float32]":
    """Of length 1 again: float16 rounds it away."""
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def remove_others(store: Store, kind: str) -> None:
    """Removes copies and indexes of a kind that were made of other parts."""
    current = copy_place(store, kind).name
    for entry in os.scandir(store.folder / SEARCH_FOLDER):
        is_own = _OWN_NAME.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
        if is_own and entry.name.startswith(f"{kind}-") and not entry.name.startswith(current):
            shutil.rmtree(entry.path, ignore_errors=True)


def names_of(store: Store, rows: "NDArray[np.int64]") -> list[str]:
    """The names of some rows of a store. Only the parts that they lie in are read."""
    found: dict[int, str] = {}
    wanted, before = np.unique(rows), 0
    for part in store.parts():
        here = wanted[(wanted >= before) & (wanted < before + part.rows)]
        if len(here):
            names = [name for batch in part.columns("name") for name in batch.column(0).to_pylist()]
            found |= {int(row): names[row - before] for row in here}
        before += part.rows
    return [found[int(row)] for row in rows]


def row_of(store: Store, name: str) -> int | None:
    """The first row with a name; None where there is none."""
    before = 0
    for part in store.parts():
        for batch in part.columns("name"):
            names = batch.column(0).to_pylist()
            if name in names:
                return before + names.index(name)
            before += len(names)
    return None
