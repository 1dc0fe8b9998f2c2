"""The dense layers of every tower, and the embedding of token ids."""

from typing import Any

import keras
from keras import ops

from .. import kernels
from ..types import Tensor
from .adapters import Adaptable
from .base import TowerLayer


class _Quantizable(TowerLayer, Adaptable):
    @property
    def _needs_keras(self) -> bool:
        layer: Any = self
        return layer.quantization_mode is not None or super()._needs_keras


class _Dense(_Quantizable, keras.layers.Dense):
    MATRIX = "kernel"
    SCALED_AXIS = 0


@keras.saving.register_keras_serializable("mobileclip_keras")
class Linear(_Dense):
    """keras.layers.Dense with product, bias and activation in as few passes over memory as the backend allows.

    Inputs: float (..., inputs), outputs: float (..., units). Arguments are those of keras.layers.Dense.
    """

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        bias = None if self.bias is None else kernels.weight(self.bias)
        return kernels.dense(inputs, kernels.weight(self.kernel), bias, self.activation)


@keras.saving.register_keras_serializable("mobileclip_keras")
class VectorLinear(_Dense):
    """keras.layers.Dense for inputs without positions, such as pooled ones, by `kernels.dense_of_vectors`.

    Inputs: float (batch, inputs), outputs: float (batch, units). Arguments are those of keras.layers.Dense.
    """

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        bias = None if self.bias is None else kernels.weight(self.bias)
        outputs = kernels.dense_of_vectors(inputs, kernels.weight(self.kernel), bias)
        return outputs if self.activation is None else self.activation(outputs)


@keras.saving.register_keras_serializable("mobileclip_keras")
class TokenEmbedding(_Quantizable, keras.layers.Embedding):
    """keras.layers.Embedding whose adapters are kept in files, and which can be quantised.

    Inputs: integers (...), outputs: float (..., output_dim). Arguments are those of keras.layers.Embedding.
    """

    MATRIX = "embeddings"
    SCALED_AXIS = -1

    def call(self, inputs: Tensor) -> Tensor:
        return ops.cast(kernels.embed(kernels.weight(self.embeddings), inputs), self.compute_dtype)
