"""Time of exact search beside faiss' flat index, and time and recall of usearch's index: `python searching.py`.

Vectors are made up, like features of pictures: all lie on one side, in clusters of all sizes, in directions that become
narrower. Two of them have a cosine of 0.56 in the mean, and the ten nearest of one 0.89 among 100,000. `--clusters 0`
makes all directions equally likely, the worst case, which no index can make use of. Queries are copies of some vectors
with noise. Exact search reads a file that is mapped into memory, faiss a copy in memory of its own. All run with as
many threads as they take, in turns.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from arguments import JSON
from rich.console import Console
from rich.table import Table
from samples import keep

from mobileclip_keras.keras_models.tasks.embedding.exact import nearest
from mobileclip_keras.keras_models.tasks.embedding.graph import add, new_index, search


def data(place: Path, count: int, width: int, clusters: int) -> np.ndarray:
    """A file of vectors, mapped into memory."""
    make = clustered(width, clusters) if clusters else everywhere(width)
    array = np.lib.format.open_memmap(place, mode="w+", dtype=np.float32, shape=(count, width))
    for start in range(0, count, 65_536):
        rows = make(min(65_536, count - start))
        array[start : start + len(rows)] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    array.flush()
    return np.asarray(np.load(place, mmap_mode="r"))


def everywhere(width: int) -> Callable[[int], np.ndarray]:
    """Rows in all directions."""
    generator = np.random.default_rng(0)
    return lambda count: generator.standard_normal((count, width), np.float32)


def clustered(width: int, clusters: int) -> Callable[[int], np.ndarray]:
    """Rows about centres, twenty of which lie near each other: cluster number k in size holds a share of 1 / k."""
    generator = np.random.default_rng(0)
    widths = np.arange(1, width + 1, dtype=np.float32) ** -0.5

    def normal(*shape: int) -> np.ndarray:
        return generator.standard_normal((*shape, width), np.float32) * widths

    common, topics = 1.2 * normal(), 0.7 * normal(-(-clusters // 20))
    centres = common + np.repeat(topics, 20, axis=0)[:clusters] + 0.5 * normal(clusters)
    shares = generator.permutation(1 / np.arange(1, clusters + 1))
    shares /= shares.sum()
    return lambda count: centres[generator.choice(clusters, count, p=shares)] + 0.6 * normal(count)


def asked(array: np.ndarray, count: int) -> np.ndarray:
    """Queries near some of the vectors."""
    generator = np.random.default_rng(1)
    rows = array[generator.integers(0, len(array), count)]
    noise = generator.standard_normal(rows.shape, np.float32)
    rows = rows + 0.3 * noise * rows.std(axis=0)  # as wide in each direction as the vectors are
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
    clusters: Annotated[int, typer.Option(help="Of the vectors; 0: all directions are equally likely.")] = 4000,
    graph: Annotated[
        Path | None, typer.Option(help="usearch's index of the same vectors: built there if missing, in minutes.")
    ] = None,
    results: Annotated[Path | None, JSON] = None,
) -> None:
    """Compares ways to search."""
    import faiss

    kept: dict[str, Any] = {"vectors": count, "width": width, "clusters": clusters, "cores": os.cpu_count()}
    with tempfile.TemporaryDirectory() as scratch:
        array = data(Path(scratch) / "vectors.npy", count, width, clusters)
        ways: dict[str, Callable[[np.ndarray], tuple[Any, Any]]] = {}
        if graph is not None:
            index, kept["build_s"] = index_of(array, graph)
            kept["file_bytes"] = graph.stat().st_size
            ways["usearch"] = lambda wanted: search(index, wanted, top_k)
        flat = faiss.IndexFlatIP(width)
        flat.add(np.ascontiguousarray(array))
        ways |= {
            "faiss flat": lambda wanted: flat.search(wanted, top_k)[::-1],
            "exact": lambda wanted: nearest(array, wanted, top_k),
        }
        table = Table("queries at once", *(f"{name}, ms" for name in ways), "exact / faiss (bound 1.2)")
        for queries in (1, 10, 100):
            wanted = asked(array, queries)
            # In turns, so that what else runs on the machine is in all.
            runs = [{name: best(partial(run, wanted), 1) for name, run in ways.items()} for _ in range(times)]
            least = {name: min(each[name] for each in runs) for name in ways}
            ratio = least["exact"] / least["faiss flat"]
            table.add_row(str(queries), *(f"{each:.1f}" for each in least.values()), f"{ratio:.2f}")
            kept[f"{queries} queries"] = {f"{name}_ms": each for name, each in least.items()}
        wanted = asked(array, 200)
        kept["recall of exact search"] = recall(ways, wanted)
    Console().print(table)
    Console().print(kept)
    if results is not None:
        keep(results, {f"{count} vectors, {clusters} clusters": kept})


def recall(ways: "dict[str, Callable[[np.ndarray], tuple[Any, Any]]]", wanted: np.ndarray) -> dict[str, float]:
    """The share of what exact search finds that each of the others finds, too."""
    right = ways["exact"](wanted)[0].tolist()
    found = {name: run(wanted)[0].tolist() for name, run in ways.items() if name != "exact"}
    return {
        name: float(np.mean([len({*one} & {*other}) / len(one) for one, other in zip(right, rows, strict=True)]))
        for name, rows in found.items()
    }


def index_of(array: np.ndarray, place: Path) -> tuple[Any, float | None]:
    """usearch's index, and the seconds that building it took; None where it was there."""
    index = new_index(array.shape[1])
    if place.exists():
        index.load(str(place))
        return index, None
    start = time.perf_counter()
    add(index, array, lambda rows: print(f"{len(index):,} after {time.perf_counter() - start:.0f} s", file=sys.stderr))
    index.save(str(place))
    return index, time.perf_counter() - start


if __name__ == "__main__":
    typer.run(main)
