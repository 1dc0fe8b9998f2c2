"""A model with all that stands before it: from pictures and texts to vectors."""

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ...inputs.preprocessing import ImagePreprocessor
from ...inputs.tokenizer import Tokenizer
from ...models.features import BATCH_SIZE, encode
from ..zero_shot import preprocessor_of
from .errors import DataError
from .fingerprint import Fingerprint
from .fingerprinting import fingerprint_of

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from ...models.model import MobileClipModel


class Embedder:
    """Makes vectors of pictures and texts, and knows what made them.

    Every batch that is computed has `batch_size` rows: a smaller one is filled up with copies. So one program computes
    all vectors, whatever the number of inputs.

    Args:
        model: with the towers that are needed.
        preprocessor: of pictures; None for that of the model's variant, in the size of its image tower.
        tokenizer: of texts; None for MobileCLIP's.
        batch_size: inputs that are computed at once.
        origin: the model's name, as `from_pretrained` takes it.

    Raises:
        ValueError: where the model is of no variant and there is no preprocessor, or for a batch of no rows.

    Example:
        >>> embedder = Embedder.from_pretrained("s2")
        >>> embedder.images(["cat.jpg", "dog.jpg"]).shape
        (2, 512)
    """

    def __init__(
        self,
        model: "MobileClipModel",
        preprocessor: ImagePreprocessor | None = None,
        tokenizer: Tokenizer | None = None,
        batch_size: int = BATCH_SIZE,
        origin: str = "",
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more, not {batch_size}.")
        self.model = model
        self.batch_size = batch_size
        self.origin = origin
        self.preprocessor = preprocessor
        if preprocessor is None and model.image_encoder is not None:
            self.preprocessor = preprocessor_of(model)
        self.tokenizer = tokenizer
        if tokenizer is None and model.text_encoder is not None:
            self.tokenizer = Tokenizer(model.text_encoder.context_length)

    @classmethod
    def from_pretrained(
        cls, name: str | Path, *, towers: str | None = None, batch_size: int = BATCH_SIZE, **options: Any
    ) -> Self:
        """An embedder of a converted folder, a repository on the Hub, or a variant.

        Args:
            name: as for `MobileClipModel.from_pretrained`.
            towers: "both", "image" or "text"; None for what is there.
            batch_size: inputs that are computed at once.
            options: what else `MobileClipModel.from_pretrained` takes.

        Raises:
            MobileClipError: as `MobileClipModel.from_pretrained`.
        """
        from ...models.model import MobileClipModel

        model = MobileClipModel.from_pretrained(name, towers=towers, **options)
        where = {key: each for key, each in options.items() if key in ("revision", "token", "cache_dir")}
        preprocessor = None if model.image_encoder is None else ImagePreprocessor.from_pretrained(name, **where)
        origin = str(Path(name).absolute()) if Path(name).is_dir() else str(name)
        return cls(model, preprocessor, batch_size=batch_size, origin=origin)

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """What makes the vectors. Computed once, which reads every weight."""
        return fingerprint_of(self.model, self.preprocessor, self.tokenizer)

    @property
    def width(self) -> int:
        """Numbers of a vector."""
        tower = self.model.text_encoder if self.model.image_encoder is None else self.model.image_encoder
        return int(tower.embed_dim)

    def prepare(self, image: Any) -> "NDArray[np.float32]":
        """One picture as the tower takes it, (height, width, 3). May be called by several threads.

        Args:
            image: what `ImagePreprocessor` takes.

        Raises:
            ImageError: it cannot be read.
            DataError: the model has no image tower.
        """
        if self.preprocessor is None:
            raise DataError("Pictures need a model with its image tower.")
        return self.preprocessor([image])[0]

    def pixels(self, batch: "ArrayLike") -> "NDArray[np.floating]":
        """Vectors of length 1 of prepared pictures: (pictures, height, width, 3) to (pictures, embed_dim)."""
        return self._encode("image", batch)

    def images(self, images: Sequence[Any]) -> "NDArray[np.floating]":
        """Vectors of length 1, (len(images), embed_dim). Of as many pictures as there are, one batch is in memory.

        Args:
            images: what `ImagePreprocessor` takes.

        Raises:
            ImageError: naming the picture that cannot be read.
            DataError: the model has no image tower.
        """
        return self._in_batches(images, lambda some: self.pixels(np.stack([self.prepare(each) for each in some])))

    def texts(self, texts: Sequence[str]) -> "NDArray[np.floating]":
        """Vectors of length 1, (len(texts), embed_dim).

        Raises:
            DataError: the model has no text tower.
        """
        if self.tokenizer is None:
            raise DataError("Texts need a model with its text tower.")
        tokenize = self.tokenizer
        return self._in_batches(texts, lambda some: self._encode("text", tokenize(list(some))))

    def _in_batches(
        self, inputs: Sequence[Any], make: "Callable[[Sequence[Any]], NDArray[np.floating]]"
    ) -> "NDArray[np.floating]":
        starts = range(0, len(inputs), self.batch_size)
        made = [make(inputs[start : start + self.batch_size]) for start in starts]
        return np.concatenate(made) if made else np.empty((0, self.width), np.float32)

    def _encode(self, key: str, batch: "ArrayLike") -> "NDArray[np.floating]":
        return encode(self.model, key, batch, self.batch_size, fill=True)
