"""A Keras model as what an evaluation asks of."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...keras_models.inputs.preprocessing import ImagePreprocessor
from ...keras_models.inputs.tokenizer import Tokenizer
from ...keras_models.models.features import encode
from .encoder import differences

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ...keras_models.models.model import MobileClipModel


class KerasEncoder:
    """A Keras model.

    Args:
        model: with both towers.
        preprocess: of its images.
        identity: as `Encoder.identity`.
        batch_size: images, or texts, that are computed at once.

    Raises:
        ValueError: where a tower is missing.
    """

    def __init__(
        self, model: "MobileClipModel", preprocess: ImagePreprocessor, identity: dict[str, Any], batch_size: int
    ) -> None:
        if model.image_encoder is None or model.text_encoder is None:
            raise ValueError("An evaluation needs a model with both towers.")
        self.identity = identity
        self.differences = differences(preprocess, identity.get("variant"))
        self.batch_size = batch_size
        self.width = model.image_encoder.embed_dim
        self._model = model
        self._preprocess = preprocess
        self._tokenize = Tokenizer(model.text_encoder.context_length)

    def prepare(self, image: bytes) -> "NDArray[np.float32]":
        """As `Encoder`: float32 (px, px, 3)."""
        return self._preprocess(image)[0]

    def encode_images(self, prepared: "Sequence[NDArray[Any]]") -> "NDArray[np.float32]":
        """As `Encoder`."""
        return self._encode("image", np.stack(prepared))

    def encode_texts(self, texts: Sequence[str]) -> "NDArray[np.float32]":
        """As `Encoder`."""
        return self._encode("text", self._tokenize(list(texts)))

    def _encode(self, key: str, rows: Any) -> "NDArray[np.float32]":
        return encode(self._model, key, rows, self.batch_size, fill=True).astype(np.float32, copy=False)
