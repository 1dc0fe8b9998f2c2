"""Features of many images and texts: compiled once, run in batches of one size."""

from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from .. import kernels

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from .model import MobileClipModel

BATCH_SIZE = 32


class FeatureModel(keras.Model):
    """A MobileClipModel without the logits' scale and bias, scalars, which Keras cannot join along a batch.

    Compiled by Keras's own means, except on TensorFlow, where it is a plain graph: XLA takes several times
    longer to compile a tower, and its depthwise convolutions then run several times slower on CPUs.

    Args:
        model: whose features.
        normalize: whether they are scaled to length 1.
    """

    def __init__(self, model: "MobileClipModel", normalize: bool = True) -> None:
        super().__init__(name="features")
        self.model = model
        self.normalize = normalize
        self.built = True
        weights = list(model.weights)
        self._weights_known = lambda: weights  # hidden, or Keras would count them as weights of this model, too
        if not kernels.XLA_IS_FAST:
            self.jit_compile = False

    def is_current(self) -> bool:
        """Whether the model has the variables that it had: quantising and adapters change them.

        What Keras compiled for `predict` reads no others.
        """
        return [*map(id, self._weights_known())] == [*map(id, self.model.weights)]

    def call(self, inputs: Any, training: bool | None = None) -> dict[str, Any]:
        if not self.normalize:
            towers = {"image": self.model.image_encoder, "text": self.model.text_encoder}
            return {f"{key}_features": towers[key](batch, training=training) for key, batch in inputs.items()}
        outputs = self.model(inputs, training=training)
        return {name: features for name, features in outputs.items() if name.endswith("_features")}


def encode(
    model: "MobileClipModel", key: str, inputs: "ArrayLike", batch_size: int = BATCH_SIZE, fill: bool = False
) -> "NDArray[np.floating]":
    """Features of length 1.

    Of several batches, the last is filled up with copies to the size of the others: every new size is
    compiled.

    Args:
        model: with the tower that is asked for.
        key: "image" or "text".
        inputs: what that tower takes: preprocessed images or tokens.
        batch_size: rows that are computed at once.
        fill: whether a lone batch is filled up, too, because others of that size come before or after it.

    Returns:
        NumPy float32, or float64 where the model computes in it, (len(inputs), embed_dim).
    """
    rows = np.asarray(inputs)
    dtype = np.float64 if model.compute_dtype == "float64" else np.float32
    tower = model.image_encoder if key == "image" else model.text_encoder
    features = np.empty((len(rows), tower.embed_dim), dtype)
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        filled = np.resize(batch, (batch_size, *batch.shape[1:])) if fill or len(rows) > batch_size else batch
        outputs = model.feature_model().predict_on_batch({key: filled})
        features[start : start + batch_size] = np.asarray(outputs[f"{key}_features"])[: len(batch)]
    # In half precision the model's own lengths are rounded.
    return features / np.maximum(np.linalg.norm(features, axis=-1, keepdims=True), 1e-12)


def logit_scale(model: "MobileClipModel") -> float:
    """What similarities are multiplied with: after exp, at most 100."""
    return float(keras.ops.convert_to_numpy(model.scale()))


def logit_bias(model: "MobileClipModel") -> float | None:
    """What is added to the logits; None for a model without."""
    return None if model.logit_bias is None else float(keras.ops.convert_to_numpy(model.logit_bias))
