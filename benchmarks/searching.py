"""Time of exact search beside faiss' flat index, and time and recall of usearch's index: `python searching.py`.

Vectors are random and of length 1. Queries are copies of some of them with noise. Exact search reads a file that is
mapped into memory, faiss a copy in memory of its own. Both run with as many threads as they take, in turns.
"""

import os
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from arguments import JSON
from rich.console import Console
from rich.table import Table
from samples import keep

from mobileclip_keras.keras_models.tasks.embedding.exact import nearest


def data(place: Path, count: int, width: int) -> np.ndarray:
    """A file of vectors, mapped into memory."""
    array = np.lib.format.open_memmap(place, mode="w+", dtype=np.float32, shape=(count, width))
    generator = np.random.default_rng(0)
    for start in range(0, count, 65_536):
        rows = generator.standard_normal((min(65_536, count - start), width), np.float32)
        array[start : start + len(rows)] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    array.flush()
    return np.asarray(np.load(place, mmap_mode="r"))


def asked(array: np.ndarray, count: int) -> np.ndarray:
    """Queries near some of the vectors."""
    generator = np.random.default_rng(1)
    rows = array[generator.integers(0, len(array), count)]
    rows = rows + generator.standard_normal(rows.shape, np.float32) / rows.shape[1] ** 0.5
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def best(run: Any, times: int) -> float:
    """The least time of a call, in ms."""
    found = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        found.append(time.perf_counter() - start)
    return min(found) * 1000


def main(
    count: Annotated[int, typer.Option(help="Vectors.")] = 1_000_000,
    width: Annotated[int, typer.Option(help="Numbers of each.")] = 512,
    times: Annotated[int, typer.Option(help="How often each is run; the least time counts.")] = 5,
    top_k: Annotated[int, typer.Option(help="How many are looked for.")] = 10,
    graph: Annotated[bool, typer.Option(help="Build usearch's index too, which takes minutes.")] = False,
    results: Annotated[Path | None, JSON] = None,
) -> None:
    """Compares ways to search."""
    import faiss

    kept: dict[str, Any] = {"vectors": count, "width": width, "cores": os.cpu_count()}
    table = Table("queries", "faiss flat, ms", "ours, ms", "ratio (bound 1.2)")
    with tempfile.TemporaryDirectory() as scratch:
        array = data(Path(scratch) / "vectors.npy", count, width)
        flat = faiss.IndexFlatIP(width)
        flat.add(np.ascontiguousarray(array))
        for queries in (1, 10, 100):
            wanted = asked(array, queries)
            assert (flat.search(wanted, top_k)[1] == nearest(array, wanted, top_k)[0]).mean() > 0.99
            # In turns, so that what else runs on the machine is in both.
            pairs = [
                (best(lambda w=wanted: flat.search(w, top_k), 1), best(lambda w=wanted: nearest(array, w, top_k), 1))
                for _ in range(times)
            ]
            theirs, ours = (min(column) for column in zip(*pairs, strict=True))
            table.add_row(str(queries), f"{theirs:.1f}", f"{ours:.1f}", f"{ours / theirs:.2f}")
            kept[f"{queries} queries"] = {"faiss_ms": theirs, "ours_ms": ours}
        if graph:
            kept["usearch"] = indexed(array, asked(array, 200), top_k)
    Console().print(table)
    if graph:
        Console().print(kept["usearch"])
    if results is not None:
        keep(results, kept)


def indexed(array: np.ndarray, wanted: np.ndarray, top_k: int) -> dict[str, float]:
    """What usearch's index takes and finds."""
    from usearch.index import Index

    from mobileclip_keras.keras_models.tasks.embedding.graph import EXPANSION_ADD, EXPANSION_SEARCH, search

    start = time.perf_counter()
    index = Index(
        ndim=array.shape[1], metric="ip", dtype="f16", expansion_add=EXPANSION_ADD, expansion_search=EXPANSION_SEARCH
    )
    for first in range(0, len(array), 16_384):
        some = array[first : first + 16_384]
        index.add(np.arange(first, first + len(some), dtype=np.uint64), some)
    built = time.perf_counter() - start
    right, found = nearest(array, wanted, top_k)[0], search(index, wanted, top_k)[0]
    shares = [len({*one} & {*other}) / top_k for one, other in zip(right.tolist(), found.tolist(), strict=True)]
    took = best(lambda: search(index, wanted, top_k), 3) / len(wanted)
    return {"build_s": built, "recall": float(np.mean(shares)), "query_ms": took}


if __name__ == "__main__":
    typer.run(main)
