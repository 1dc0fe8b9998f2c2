"""The embedder as a class for Ray Data's `map_batches`. Nothing here needs Ray itself."""

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ....errors import MobileClipError
from ....models.features import BATCH_SIZE
from ..embedder import Embedder
from ..errors import DataError
from ..fingerprint import Fingerprint

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

KINDS = ("image", "text")


class RayEmbedder:
    """Embeds batches of a Ray data set: for `Dataset.map_batches`, which keeps one model in each actor.

    Args:
        model: as `MobileClipModel.from_pretrained` takes it. Every node must be able to read it.
        column: of the data set: pictures as `ImagePreprocessor` takes them (bytes of a file, a path, an array of
            (height, width, 3)), or texts.
        kind: what is in the column: "image" or "text".
        batch_size: inputs that the tower computes at once. Give `map_batches` a few times as many: then pictures are
            read while others are computed.
        fingerprint: of what must make the vectors; None for anything.

    Raises:
        MobileClipError: as `Embedder.from_pretrained`.
        FingerprintError: where the model, or the device of this node, would make other vectors.
        ValueError: for another kind.

    Example:
        >>> images = ray.data.read_images("s3://bucket/photos", include_paths=True)
        >>> embedded = images.map_batches(
        ...     RayEmbedder, fn_constructor_kwargs={"model": "s2", "column": "image"}, concurrency=2, batch_size=128
        ... )
        >>> embedded.drop_columns(["image"]).write_parquet("s3://bucket/vectors")
    """

    def __init__(
        self,
        model: str,
        column: str = "image",
        kind: str = "image",
        batch_size: int = BATCH_SIZE,
        fingerprint: Fingerprint | None = None,
    ) -> None:
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {kind!r}.")
        self._column = column
        self._kind = kind
        self._vectors = VectorMaker(Embedder.from_pretrained(model, towers=kind, batch_size=batch_size))
        if fingerprint is not None:
            fingerprint.check(self._vectors.fingerprint, "the collection")

    def __call__(self, batch: "dict[str, NDArray[Any]]") -> "dict[str, NDArray[Any]]":
        """The batch with two more columns.

        Returns:
            "features": float32 (rows, embed_dim), of length 1, or zeros where the input could not be read. "reason":
            says why it could not, and is empty for all others.

        Raises:
            DataError: where the data set has no such column.
        """
        if self._column not in batch:
            raise DataError(f"There is no column {self._column!r}; the columns are {', '.join(batch)}.")
        made = self._vectors.of(self._kind, list(batch[self._column]))
        return {**batch, "features": made.features, "reason": np.array(made.reasons, dtype=str)}


class Made(NamedTuple):
    """What came of some inputs."""

    features: "NDArray[np.float32]"
    """(inputs, embed_dim); zeros where there is a reason."""
    reasons: list[str]
    """Why an input could not be read; empty for all others."""


class VectorMaker:
    """An embedder that notes what it cannot read, and goes on."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._pool = ThreadPoolExecutor(os.cpu_count() or 1)

    @property
    def fingerprint(self) -> Fingerprint:
        """What makes the vectors."""
        return self._embedder.fingerprint

    @property
    def width(self) -> int:
        """Numbers of a vector."""
        return self._embedder.width

    def of(self, kind: str, inputs: "Sequence[Any]") -> Made:
        """The vectors of pictures or texts. Some pictures are read while others are computed.

        Raises:
            DataError: where the model lacks the tower.
        """
        made = Made(np.zeros((len(inputs), self._embedder.width), np.float32), [""] * len(inputs))
        prepare: Callable[[Any], Any]
        compute: Callable[[list[Any]], Any]
        if kind == "image":
            prepare, compute = self._embedder.prepare, lambda some: self._embedder.pixels(np.stack(some))
        else:
            prepare, compute = _text, self._embedder.texts
        ready: list[tuple[int, Any]] = []
        for row, future in enumerate([self._pool.submit(prepare, each) for each in inputs]):
            try:
                ready.append((row, future.result()))
            except DataError:
                raise
            except (MobileClipError, TypeError) as error:
                made.reasons[row] = str(error)
            if len(ready) == self._embedder.batch_size or (ready and row == len(inputs) - 1):
                rows, values = zip(*ready, strict=True)
                made.features[list(rows)] = compute(list(values))
                ready.clear()
        return made


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if not isinstance(value, str):
        raise TypeError(f"A text must be a str, not {type(value).__name__}.")
    return value
