"""An approximate index of a store, beyond a million vectors: the graph of usearch (HNSW, arXiv 1603.09320)."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import MissingPackageError
from ...store.foreign.json_fields import fields, number, problems, whole
from ...store.foreign.json_file import read_json
from ...store.writing.atomic import folder_placed_whole
from ...store.writing.output_errors import output_errors
from .errors import StoreError
from .exact import nearest
from .store import Store
from .vectors import GRAPH_ENDING, Vectors, mapped, remove_others

if TYPE_CHECKING:
    from numpy.typing import NDArray

INDEX_FILE, RECALL_FILE = "index.usearch", "recall.json"
AT_ONCE = 16_384
"""Vectors that are added at once."""
QUERIES = 200
"""Vectors of the store that recall is measured with."""
NEIGHBOURS = 10
EXPANSION_ADD, EXPANSION_SEARCH = 128, 256
"""How many candidates are kept while a vector is added, and while one is searched."""


@dataclass(frozen=True)
class Recall:
    """How good an index is, measured on vectors of the store, each of which leaves itself out."""

    recall: float
    """The share of the ten nearest that the index finds, 0 to 1."""
    queries: int
    vectors: int
    exact_ms: float
    """Of one query, exactly."""
    index_ms: float
    """Of one query, by the index."""


def build(store: Store, kind: str = "image", progress: Callable[[int], None] = lambda rows: None) -> Recall:
    """Makes the index of what a store holds now, and compares it with exact search.

    Args:
        store: to be indexed.
        kind: "image" or "text".
        progress: called with the number of vectors that were just added.

    Raises:
        MissingPackageError: without usearch.
        StoreError: where there are no vectors of this kind, or a part is damaged.
        OutputError: where the index cannot be written.
    """
    _usearch()  # before the vectors are copied
    vectors = mapped(store, kind)
    index = new_index(store.width)
    add(index, vectors.array, progress)
    measured = _recall(index, vectors)
    place = _place(vectors)
    with output_errors(place), folder_placed_whole(place, lambda there, thorough: None) as folder:
        index.save(folder / INDEX_FILE)
        (folder / RECALL_FILE).write_text(json.dumps(asdict(measured), indent=2) + "\n", encoding="utf-8")
    remove_others(store, kind, vectors.place)
    return measured


def new_index(width: int) -> Any:
    """An empty index of vectors of length 1, in half precision.

    Raises:
        MissingPackageError: without usearch.
    """
    options = {"expansion_add": EXPANSION_ADD, "expansion_search": EXPANSION_SEARCH}
    return _usearch().Index(ndim=width, metric="ip", dtype="f16", **options)


def add(index: Any, array: "NDArray[np.float32]", progress: Callable[[int], None] = lambda rows: None) -> None:
    """Adds vectors, (vectors, width), to an empty index. Their numbers are their keys."""
    for start in range(0, len(array), AT_ONCE):
        some = array[start : start + AT_ONCE]
        index.add(np.arange(start, start + len(some), dtype=np.uint64), some)
        progress(len(some))


def _recall(index: Any, vectors: Vectors) -> Recall:
    array, count = vectors.array, min(QUERIES, len(vectors.array))
    chosen = np.sort(np.random.default_rng(0).choice(len(array), count, replace=False))
    queries = np.ascontiguousarray(array[chosen])
    start = time.perf_counter()
    exact, _ = nearest(array, queries, NEIGHBOURS + 1)
    middle = time.perf_counter()
    found, _ = search(index, queries, NEIGHBOURS + 1)
    end = time.perf_counter()
    shares = []
    for itself, right, approximate in zip(chosen, exact, found, strict=True):
        wanted = set(right[right != itself][:NEIGHBOURS].tolist())
        shares.append(len(wanted & set(approximate.tolist())) / max(1, len(wanted)))
    times = ((middle - start) * 1000 / count, (end - middle) * 1000 / count)
    return Recall(float(np.mean(shares)), count, len(array), *times)


def search(index: Any, queries: "NDArray[np.float32]", count: int) -> "tuple[NDArray[np.int64], NDArray[np.float32]]":
    """As `exact.nearest`, from an index: nearly always the same vectors, with scores that half precision rounds."""
    found = index.search(np.ascontiguousarray(queries, np.float32), min(count, len(index)))
    keys = np.atleast_2d(np.asarray(found.keys)).astype(np.int64)
    return keys, 1 - np.atleast_2d(np.asarray(found.distances, np.float32))


def find(vectors: Vectors) -> tuple[Any, Recall] | None:
    """The index of some vectors, mapped into memory, with its measurement; None where there is none.

    Raises:
        MissingPackageError: where there is one, and usearch is not installed.
        StoreError: where it is damaged.
    """
    place, width = _place(vectors), vectors.array.shape[1]
    if not (place / INDEX_FILE).exists():
        return None
    _usearch()
    try:
        record = read_json(place / RECALL_FILE, folder=place)
        wrong = problems(record, _FIELDS)
        if wrong:
            raise ValueError("; ".join(wrong))
        index = new_index(width)
        index.view(str(place / INDEX_FILE))
        if len(index) != record["vectors"] or index.ndim != width:
            raise ValueError(f"it holds {len(index):,} vectors of {index.ndim} numbers")
    except Exception as error:  # usearch raises RuntimeError, the file others
        raise StoreError(f"The index in {place} is damaged: {error}. Make it again with `index`.") from error
    return index, Recall(**{name: record[name] for name in Recall.__dataclass_fields__})


_FIELDS = fields(
    {
        "recall": number(0, 1),
        "queries": whole(0, 10**9),
        "vectors": whole(1, 10**15),
        "exact_ms": number(0, 1e9),
        "index_ms": number(0, 1e9),
    }
)


def _place(vectors: Vectors) -> Path:
    return vectors.place.with_name(vectors.place.name + GRAPH_ENDING)


def _usearch() -> Any:
    try:
        import usearch.index
    except ImportError as error:
        raise MissingPackageError('An index needs usearch: pip install "mobileclip-keras[index]".') from error
    return usearch.index
