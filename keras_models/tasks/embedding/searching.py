"""Finding things in a store or in a file of embeddings: by vectors, by a name, and what is there twice."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ..embedding_files import Embeddings
from ..retrieval import Match, SearchError, unit_rows
from . import graph
from .exact import groups, nearest
from .store import Store, is_store
from .vectors import mapped, names_of, row_of

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

EXACT_UP_TO = 1_000_000
"""Vectors. Beyond, an index is used where there is one."""


ROUNDING = 1e-6
"""How far below 1 the product of a vector of length 1 with itself may come out."""


class Collection:
    """The vectors of one kind of a collection, to be searched.

    Args:
        array: (vectors, embed_dim), of length 1.
        names: gives the names of some of them.
        find: gives the index of a name, or None.
        index: one of usearch, to be used in place of exact search.
    """

    def __init__(
        self,
        array: "NDArray[np.float32]",
        names: "Callable[[NDArray[np.int64]], Sequence[str]]",
        find: Callable[[str], int | None],
        index: Any = None,
    ) -> None:
        self.array = array
        self._names, self._find, self._index = names, find, index

    @classmethod
    def open(cls, path: str | Path, kind: str = "image", *, exact: bool = False) -> Self:
        """The vectors of a store, or of a file that `Embeddings.save` wrote.

        Args:
            path: the folder or the file.
            kind: "image" or "text".
            exact: whether to search exactly, even where an index is there and there are more than a million vectors.

        Raises:
            MobileClipError: where there are none, or they are damaged.
        """
        if not is_store(path) and Path(path).suffix in (".npz", ".parquet"):
            return cls._of_file(Embeddings.load(path), kind)
        vectors = mapped(Store.open(path), kind)
        use_graph = len(vectors.array) > EXACT_UP_TO and not exact
        found = graph.find(vectors) if use_graph else None

        def find(name: str) -> int | None:
            row = row_of(vectors.parts, name)
            if row is None:
                return None
            place = int(np.searchsorted(vectors.rows, row))
            return place if place < len(vectors.rows) and vectors.rows[place] == row else None

        return cls(
            vectors.array,
            lambda indices: names_of(vectors.parts, vectors.rows[indices]),
            find,
            found[0] if found else None,
        )

    @classmethod
    def _of_file(cls, stored: Embeddings, kind: str) -> Self:
        pairs = {"image": (stored.names, stored.features), "text": (stored.texts, stored.text_features)}
        names, features = pairs[kind]
        if not names:
            raise SearchError(f"The file holds no vectors of {kind}s.")
        return cls(
            unit_rows(features),
            lambda indices: [names[index] for index in indices],
            lambda name: names.index(name) if name in names else None,
        )

    def __len__(self) -> int:
        return len(self.array)

    @property
    def is_exact(self) -> bool:
        """Whether searches compare every vector."""
        return self._index is None

    def search(self, queries: "ArrayLike", top_k: int = 5) -> list[list[Match]]:
        """The vectors most similar to each query, the most similar first.

        Args:
            queries: (queries, embed_dim) or (embed_dim,), of any length but 0.
            top_k: how many; all of them where there are fewer.

        Raises:
            SearchError: where the vectors do not fit.
        """
        if top_k < 1:
            raise ValueError(f"top_k must be 1 or more, not {top_k}.")
        wanted = unit_rows(np.atleast_2d(np.asarray(queries, np.float32)))
        if wanted.shape[1] != self.array.shape[1]:
            raise SearchError(f"The queries have {wanted.shape[1]} numbers, the collection {self.array.shape[1]}.")
        found = nearest(self.array, wanted, top_k) if self._index is None else graph.search(self._index, wanted, top_k)
        return [self._matches(*each) for each in zip(*found, strict=True)]

    def vector(self, name: str) -> "NDArray[np.float32] | None":
        """The vector with a name, (embed_dim,); None where there is none."""
        index = self._find(name)
        return None if index is None else np.asarray(self.array[index])

    def neighbours(self, name: str, top_k: int = 5) -> list[Match]:
        """The vectors most similar to one that is in the collection, without itself.

        Raises:
            SearchError: where there is none of this name.
        """
        vector = self.vector(name)
        if vector is None:
            raise SearchError(f"{name} is not in the collection.")
        (found,) = self.search(vector, top_k + 1)
        others = [match for match in found if match.name != name]
        return others[:top_k]

    def duplicates(self, near: float = 0.95, progress: Callable[[int], None] = lambda rows: None) -> list[list[Match]]:
        """Groups of what is nearly the same. Compares all pairs.

        Args:
            near: the smallest cosine similarity, above 0, at most 1.
            progress: called with the number of vectors that were just compared with all before them.

        Returns:
            For each group its names, each with its largest similarity to another of the group.

        Raises:
            SearchError: where `near` is out of range.
        """
        if not 0 < near <= 1:
            raise SearchError(f"near must be above 0 and at most 1, not {near}.")
        found = groups(self.array, near - ROUNDING, progress)
        return [self._matches(*np.array(group).T) for group in found]

    def _matches(self, indices: "NDArray[Any]", scores: "NDArray[Any]") -> list[Match]:
        names = self._names(np.asarray(indices, np.int64))
        return [Match(name, float(score)) for name, score in zip(names, scores, strict=True)]


def weighted(features: "NDArray[np.floating]", weights: Sequence[float]) -> "NDArray[np.floating]":
    """One query of several: the sum of vectors of length 1, each times its weight, (embed_dim,).

    Args:
        features: (queries, embed_dim), of texts and images alike.
        weights: one for each; a negative one leads away from it.

    Raises:
        SearchError: where there are not as many weights, or nothing is left of the sum.
    """
    if len(weights) != len(features):
        raise SearchError(f"There are {len(weights)} weights for {len(features)} queries.")
    total = np.asarray(weights, np.float64) @ unit_rows(np.asarray(features, np.float32))
    if not np.isfinite(total).all() or np.linalg.norm(total) < 1e-6:
        raise SearchError("These weights leave nothing to search for.")
    return total / np.linalg.norm(total)
