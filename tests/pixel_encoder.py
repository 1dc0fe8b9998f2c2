"""A model without a framework: an image's features are its few pixels, a text's follow from its letters."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from mobileclip_keras.keras_models.inputs.preprocessing import ImagePreprocessor

SIZE = 4


class PixelEncoder:
    """Counts what it computes.

    Args:
        batch_size: images at once.
        weights: what stands for a hash of weights.
    """

    def __init__(self, batch_size: int = 3, weights: str = "ab" * 32) -> None:
        self.identity: dict[str, Any] = {
            "kind": "Keras",
            "name": "pixels",
            "variant": "mobileclip_s0",
            "weights_sha256": weights,
        }
        self.differences: tuple[str, ...] = ()
        self.batch_size = batch_size
        self.width = SIZE * SIZE * 3
        self.images = self.texts = 0
        self._preprocess = ImagePreprocessor(SIZE)

    def prepare(self, image: bytes) -> np.ndarray:
        return self._preprocess(image)[0]

    def encode_images(self, prepared: Sequence[np.ndarray]) -> np.ndarray:
        assert 0 < len(prepared) <= self.batch_size
        self.images += len(prepared)
        return _units(np.stack(prepared).reshape(len(prepared), -1) - np.float32(0.5))

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        self.texts += len(texts)
        seeds = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) for text in texts]
        return _units(np.stack([np.random.default_rng(seed).normal(size=self.width) for seed in seeds]))


def _units(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)
