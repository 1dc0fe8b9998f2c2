"""Exact search: one product of the queries with all vectors, block by block."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SCORES = 1 << 22
"""Scores that are in memory at once: 16 MiB."""
LARGEST_BLOCK = 1 << 16
"""Vectors of a block."""


def nearest(
    array: "NDArray[np.float32]", queries: "NDArray[np.float32]", count: int
) -> "tuple[NDArray[np.int64], NDArray[np.float32]]":
    """The vectors with the largest scalar products with each query, the largest first; of equal ones, the first.

    Args:
        array: (vectors, width).
        queries: (queries, width).
        count: how many; all of them where there are fewer.

    Returns:
        Indices and scores, (queries, count) each.
    """
    count = min(count, len(array))
    queries = np.ascontiguousarray(queries, np.float32)
    indices = np.zeros((len(queries), count), np.int64)
    scores = np.full((len(queries), count), -np.inf, np.float32)
    size = max(1, min(LARGEST_BLOCK, SCORES // max(1, len(queries))))
    for start in range(0, len(array), size):
        products = queries @ array[start : start + size].T
        is_better = products > scores[:, -1:]
        for query in np.flatnonzero(is_better.any(axis=1)):
            found = np.flatnonzero(is_better[query])
            values = products[query, found]
            if len(found) > 4 * count:  # sorting takes longer than finding the limit first
                is_best = values >= np.partition(values, -count)[-count]
                found, values = found[is_best], values[is_best]
            found = np.concatenate([indices[query], start + found])
            values = np.concatenate([scores[query], values])
            order = np.argsort(-values, kind="stable")[:count]
            indices[query], scores[query] = found[order], values[order]
    return indices, scores


def groups(
    array: "NDArray[np.float32]", near: float, progress: Callable[[int], None] = lambda rows: None
) -> "list[list[tuple[int, float]]]":
    """Vectors that are near each other, in groups: each has a neighbour in its group, and none outside.

    Compares all pairs: a million vectors of 512 numbers take 5e14 multiplications.

    Args:
        array: (vectors, width), of length 1.
        near: the smallest scalar product of neighbours.
        progress: called with the number of vectors that were just compared with all before them.

    Returns:
        Groups of two or more, each of indices, in order, with the largest scalar product with another of its group.
    """
    parent = np.arange(len(array))
    best = np.full(len(array), -np.inf, np.float32)
    size = 2048
    for start in range(0, len(array), size):
        rows = array[start : start + size]
        for other in range(0, start + 1, size):
            columns = array[other : other + size]
            products = rows @ columns.T
            if other == start:
                np.fill_diagonal(products, -np.inf)
            best[start : start + size] = np.maximum(best[start : start + size], products.max(axis=1))
            best[other : other + size] = np.maximum(best[other : other + size], products.max(axis=0))
            is_near = products >= near
            for row in np.flatnonzero(is_near.any(axis=1)):
                neighbours = np.unique(parent[other + np.flatnonzero(is_near[row])])
                _join(parent, start + int(row), neighbours)
        progress(len(rows))
    found: dict[int, list[tuple[int, float]]] = {}
    for index in np.flatnonzero(best >= near):
        found.setdefault(_root(parent, int(index)), []).append((int(index), float(best[index])))
    return [found[root] for root in sorted(found)]


def _join(parent: "NDArray[np.int64]", one: int, others: "NDArray[np.int64]") -> None:
    """Makes one group of all, under the first of them."""
    roots = {_root(parent, one), *(_root(parent, int(other)) for other in others)}
    parent[list(roots)] = min(roots)


def _root(parent: "NDArray[np.int64]", index: int) -> int:
    root = index
    while parent[root] != root:
        root = int(parent[root])
    while parent[index] != root:
        parent[index], index = root, int(parent[index])
    return root
