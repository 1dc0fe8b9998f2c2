"""Finding images by texts or by other images, among features that were computed before."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..errors import MobileClipError
from ..inputs.tokenizer import Tokenizer

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from ..models.model import MobileClipModel


class Match(NamedTuple):
    """An image that was found, and its cosine similarity to the query."""

    name: str
    score: float


class SearchError(MobileClipError, ValueError):
    """These features and queries cannot be compared."""


class EmbeddingIndex:
    """Features of images with their names, to be searched by texts or by other features, exactly.

    Args:
        names: of the images.
        features: (len(names), embed_dim), of any length but 0.
        model: the one that the features come from, with its text tower; needed for texts alone.
        tokenizer: None for MobileCLIP's.

    Raises:
        SearchError: where names, features and model do not go together; also a ValueError.

    Example:
        >>> stored = Embeddings.load("photos.npz")
        >>> EmbeddingIndex(stored.names, stored.features, model).search("a red car", top_k=1)
        [[Match(name='car.jpg', score=...)]]
    """

    def __init__(
        self,
        names: Sequence[str],
        features: "ArrayLike",
        model: "MobileClipModel | None" = None,
        tokenizer: Callable[[list[str]], "ArrayLike"] | None = None,
    ) -> None:
        self.names = tuple(names)
        self.features = unit_rows(np.asarray(features, np.float32))
        if len(self.features) != len(self.names):
            raise SearchError(f"There are {len(self.names)} names for {len(self.features)} features.")
        if model is not None and model.text_encoder is None:
            raise SearchError("Searching by texts needs a model with its text tower.")
        self.model = model
        self.tokenizer = tokenizer or Tokenizer()

    def search(self, queries: Any, top_k: int = 5) -> list[list[Match]]:
        """The images most similar to each query, the most similar first.

        Args:
            queries: a text, a list of texts, or features (queries, embed_dim) or (embed_dim,).
            top_k: how many; all of them where there are fewer.

        Returns:
            A list of `Match`es for each query, also for a single one.
        """
        if top_k < 1:
            raise ValueError(f"top_k must be 1 or more, not {top_k}.")
        wanted = self._query_features(queries)
        if wanted.shape[1] != self.features.shape[1]:
            raise SearchError(
                f"The queries have {wanted.shape[1]} features, the images {self.features.shape[1]}: "
                "they come from different models."
            )
        scores = wanted @ self.features.T
        best = np.argsort(-scores, axis=-1, kind="stable")[:, :top_k]
        return [
            [Match(self.names[index], float(row[index])) for index in order]
            for row, order in zip(scores, best, strict=True)
        ]

    def _query_features(self, queries: Any) -> "NDArray[np.float32]":
        texts = [queries] if isinstance(queries, str) else queries
        if not (isinstance(texts, list | tuple) and texts and isinstance(texts[0], str)):
            return unit_rows(np.atleast_2d(np.asarray(queries, np.float32)))
        if self.model is None:
            raise SearchError("Searching by texts needs the model that the features come from.")
        from ..models.features import encode

        return encode(self.model, "text", self.tokenizer(list(texts))).astype(np.float32)


def unit_rows(features: "NDArray[np.float32]") -> "NDArray[np.float32]":
    """Vectors scaled to length 1, (rows, embed_dim).

    Raises:
        SearchError: where they are no finite numbers of this shape.
    """
    if features.ndim != 2 or not np.isfinite(features).all():
        raise SearchError(f"Features must be finite numbers (rows, embed_dim), not of shape {features.shape}.")
    return features / np.maximum(np.linalg.norm(features, axis=-1, keepdims=True), 1e-12)
