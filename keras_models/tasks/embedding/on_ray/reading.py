"""What a collection holds, as a source of Ray's: each read task gives the inputs of some units, with their contents."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ....inputs.image_reading import ImageError, read_image
from ...embedding_readers import pyarrow
from ..finding import Unit
from ..items import ID_SIZE, Item
from ..reading import read_unit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..store import Store

ROWS_OF_A_BLOCK = 256
"""Inputs that a read task gives at once, at most."""
BYTES_OF_A_BLOCK = 32 << 20
"""Of contents, about."""
TASKS = 10_000
"""Read tasks of a run, at most. Ray's scheduler holds all of them."""


class Place(NamedTuple):
    """How a node finds the inputs as the machine does that began the run."""

    folder: str
    """That relative paths begin in."""
    column: str | None
    """As `read_unit`."""


def source(ray: Any, units: Sequence[Unit], done: "NDArray[np.uint64]", place: Place) -> Any:
    """The inputs of a collection that are not in a store yet.

    Args:
        ray: the package.
        units: of the collection.
        done: as `ids_of` gives it.
        place: where the units are found.

    Returns:
        A `ray.data.Datasource` of rows of "id" (hexadecimal), "kind", "name", "reason" and "content".
    """
    from ray.data.block import BlockMetadata

    size = -(-len(units) // TASKS)

    class Units(ray.data.Datasource):
        def estimate_inmemory_data_size(self) -> int | None:
            return None

        def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[Any]:
            known = ray.put(done)
            unknown = BlockMetadata(num_rows=None, size_bytes=None, exec_stats=None, input_files=None)
            return [
                ray.data.ReadTask(partial(_read, list(units[start : start + size]), known, place), unknown, _schema())
                for start in range(0, len(units), size)
            ]

    return Units()


def ids_of(store: "Store") -> "NDArray[np.uint64]":
    """The ids of a store as sorted pairs of numbers, (rows, 2), 16 bytes each: what every node gets."""
    ids = [
        np.frombuffer(b"".join(batch.column(0).to_pylist()), ">u8").astype(np.uint64).reshape(-1, ID_SIZE // 8)
        for part in store.parts()
        for batch in part.columns("id")
    ]
    pairs = np.concatenate(ids) if ids else np.empty((0, 2), np.uint64)
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


def is_among(identity: bytes, ids: "NDArray[np.uint64]") -> bool:
    """Whether an id is one of those that `ids_of` gave."""
    high, low = np.frombuffer(identity, ">u8").astype(np.uint64)
    start, end = np.searchsorted(ids[:, 0], high, "left"), np.searchsorted(ids[:, 0], high, "right")
    return bool((ids[start:end, 1] == low).any())


def _read(units: Sequence[Unit], done: Any, place: Place) -> Iterator[Any]:
    """Blocks of the inputs that are not done: called on a node."""
    import ray

    arrow, _ = pyarrow()
    known = ray.get(done)
    rows: list[dict[str, Any]] = []
    size = 0
    with _in(place, units):
        for item in (item for unit in units for item in read_unit(unit, place.column)):
            if is_among(item.id, known):
                continue
            rows.append(row_of(item))
            size += len(rows[-1]["content"])
            if len(rows) == ROWS_OF_A_BLOCK or size >= BYTES_OF_A_BLOCK:
                yield arrow.Table.from_pylist(rows, schema=_schema())
                rows, size = [], 0
        yield arrow.Table.from_pylist(rows, schema=_schema())


def _in(place: Place, units: Sequence[Unit]) -> "contextlib.AbstractContextManager[Any]":
    """A task has its process for itself. Where all paths are absolute, a node need not have the folder."""
    is_relative = any(not os.path.isabs(path) for unit in units for path in unit.paths)
    return contextlib.chdir(place.folder) if is_relative else contextlib.nullcontext()


def _schema() -> Any:
    arrow, _ = pyarrow()
    texts = [(name, arrow.string()) for name in ("id", "kind", "name", "reason")]
    return arrow.schema([*texts, ("content", arrow.large_binary())])


def row_of(item: Item) -> dict[str, Any]:
    """An input as a row: with its content, or with the reason why there is none, the same as on one machine."""
    content, reason = b"", item.reason
    if item.load is not None:
        try:
            content = _content(item.load(), item.kind)
        except ImageError as error:
            reason = str(error)
        except (OSError, ValueError) as error:
            reason = f"{item.name} cannot be read: {error}"
    return {"id": item.id.hex(), "kind": item.kind, "name": item.name, "reason": reason, "content": content}


def _content(loaded: str | bytes, kind: str) -> bytes:
    if isinstance(loaded, bytes):
        return loaded
    if kind == "text":
        return loaded.encode("utf-8")
    try:
        return Path(loaded).read_bytes()
    except OSError:
        read_image(loaded, loaded)  # raises, and says what is wrong
        raise
