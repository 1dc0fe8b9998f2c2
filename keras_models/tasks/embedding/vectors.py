"""The vectors of a store in one piece, for searching: a file that is mapped into memory, and made anew when it must be.

Neither Parquet nor Lance can be mapped as an array. So the vectors of one kind are copied, as float32, below `search/`.
The copy's name follows from the parts that it was made of. It may be removed at any time.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ...store.writing.atomic import folder_placed_whole
from ...store.writing.output_errors import output_errors
from ...store.writing.staging import recover
from .errors import StoreError
from .parts import Part, damaged, vectors_of
from .store import Store

if TYPE_CHECKING:
    from numpy.typing import NDArray

KINDS = ("image", "text")
SEARCH_FOLDER = "search"
VECTORS_FILE, ROWS_FILE = "vectors.npy", "rows.npy"
GRAPH_ENDING = "-graph"
"""Of the name of an index: that of its copy, and this."""
ROUNDED = 0.01
"""How far from 1 the length of a vector may be that half precision rounded."""
TRIES = 5
"""To get a copy that nobody removes, while a store grows and several search it."""
_OWN_NAME = re.compile(rf"(image|text)-[0-9a-f]{{32}}({GRAPH_ENDING})?")


class Vectors(NamedTuple):
    """The vectors of one kind, mapped into memory, as the store was at one moment."""

    array: "NDArray[np.float32]"
    """(vectors, embed_dim), of length 1."""
    rows: "NDArray[np.int64]"
    """(vectors,): the row of the store that each vector is."""
    parts: "Sequence[Part]"
    """That the rows are counted in."""
    place: Path
    """Of the copy."""


def mapped(store: Store, kind: str = "image") -> Vectors:
    """The vectors of a kind, copied first where there is no copy of what the store holds now.

    Raises:
        StoreError: where a part is damaged, or there are no vectors of this kind.
        OutputError: where the copy cannot be written.
    """
    for _ in range(TRIES - 1):
        try:
            return _mapped(store, kind)
        except _Gone:  # the store grew meanwhile, and another search removed this copy for its own
            continue
        except StoreError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
    return _mapped(store, kind)


class _Gone(StoreError):
    """A copy was there and is not, or is damaged; the next try makes it again."""


def _mapped(store: Store, kind: str) -> Vectors:
    parts = store.parts()
    place = copy_place(store, kind, parts)
    if not place.exists():
        with output_errors(place):
            place.parent.mkdir(exist_ok=True)
            recover(place.parent)
            with folder_placed_whole(place, lambda there, thorough: None) as folder:
                _copy(store, kind, parts, folder)
    try:
        array, rows = (np.load(place / name, mmap_mode="r") for name in (VECTORS_FILE, ROWS_FILE))
    except (OSError, ValueError, EOFError) as error:
        shutil.rmtree(place, ignore_errors=True)
        raise _Gone(f"The copy in {place} cannot be read: {error}.") from error
    remove_others(store, kind, place)
    return Vectors(np.asarray(array), np.asarray(rows), parts, place)


def copy_place(store: Store, kind: str, parts: "Sequence[Part]") -> Path:
    """Where the copy of some parts lies."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(f"{part.state}\n".encode())
    return store.folder / SEARCH_FOLDER / f"{kind}-{digest.hexdigest()}"


def _copy(store: Store, kind: str, parts: "Sequence[Part]", folder: Path) -> None:
    count = sum(
        sum(each == kind for each in batch.column(0).to_pylist()) for part in parts for batch in part.columns("kind")
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
    for part in parts:
        for batch in part.columns("kind", "features"):
            wanted = np.flatnonzero(np.array(batch.column(0).to_pylist()) == kind)
            some = np.asarray(vectors_of(batch)[wanted], np.float32)
            lengths = np.linalg.norm(some, axis=1, keepdims=True)
            if not (abs(lengths - 1) < ROUNDED).all():  # also where a number is not finite
                raise damaged(part.path, ValueError("not all of its vectors have the length 1"))
            array[done : done + len(some)] = some / lengths
            rows[done : done + len(some)] = before + wanted
            done, before = done + len(some), before + len(batch)
    array.flush()
    rows.flush()


def remove_others(store: Store, kind: str, place: Path) -> None:
    """Removes copies and indexes of a kind but for one, and for those of what the store holds now."""
    kept = {place.name, copy_place(store, kind, store.parts()).name}
    for entry in os.scandir(store.folder / SEARCH_FOLDER):
        is_own = _OWN_NAME.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
        if is_own and entry.name.startswith(f"{kind}-") and entry.name.removesuffix(GRAPH_ENDING) not in kept:
            shutil.rmtree(entry.path, ignore_errors=True)


def names_of(parts: "Sequence[Part]", rows: "NDArray[np.int64]") -> list[str]:
    """The names of some rows. Only the parts that they lie in are read."""
    found: dict[int, str] = {}
    wanted, before = np.unique(rows), 0
    for part in parts:
        here = wanted[(wanted >= before) & (wanted < before + part.rows)]
        if len(here):
            names = [name for batch in part.columns("name") for name in batch.column(0).to_pylist()]
            found |= {int(row): names[row - before] for row in here}
        before += part.rows
    return [found[int(row)] for row in rows]


def row_of(parts: "Sequence[Part]", name: str) -> int | None:
    """The first row with a name; None where there is none."""
    before = 0
    for part in parts:
        for batch in part.columns("name"):
            names = batch.column(0).to_pylist()
            if name in names:
                return before + names.index(name)
            before += len(names)
    return None
