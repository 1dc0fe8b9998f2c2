"""The dense layers of every tower."""

import math
from typing import Any

import keras
from keras import ops

from ..kernels.convolve import is_xla_on_cpu
from ..types import Tensor

LONGEST_SUM = 512
"""XLA's matrix products on CPUs that add up more terms than this are taken in parts."""

TERMS_OF_PART = 256
"""At most so many terms are added up one after the other in each of those parts."""

TERMS_OF_GROUP = 64
"""At most so many products are added up one after the other in `product_of_vectors`."""


@keras.saving.register_keras_serializable("mobileclip_keras")
class Linear(keras.layers.Dense):
    """keras.layers.Dense, with product and bias in as few passes over memory as the backend allows.

    Inputs: float (..., inputs), outputs: float (..., units). Arguments are those of keras.layers.Dense.
    """

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        kernel = ops.convert_to_tensor(self.kernel)
        if keras.backend.backend() == "jax":
            outputs = _product_in_jax(inputs, kernel)
            if self.bias is not None:
                outputs += ops.convert_to_tensor(self.bias)
        elif self.bias is None:
            outputs = ops.matmul(inputs, kernel)
        else:
            affine = _affine_in_torch if keras.backend.backend() == "torch" else _affine_in_tensorflow
            outputs = affine(inputs, kernel, ops.convert_to_tensor(self.bias))
        return outputs if self.activation is None else self.activation(outputs)


@keras.saving.register_keras_serializable("mobileclip_keras")
class VectorLinear(keras.layers.Dense):
    """keras.layers.Dense for what is left of an input once its positions are pooled, by `product_of_vectors`.

    Inputs: float (batch, inputs), outputs: float (batch, units). Arguments are those of keras.layers.Dense.
    """

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        outputs = product_of_vectors(inputs, ops.convert_to_tensor(self.kernel))
        if self.bias is not None:
            outputs += ops.convert_to_tensor(self.bias)
        return outputs if self.activation is None else self.activation(outputs)


def product_of_vectors(inputs: Tensor, kernel: Tensor) -> Tensor:
    """inputs @ kernel, added up in groups: less than half the rounding error of one long sum.

    Pooling averages the rounding errors of positions away, so that those of the few products after it decide how
    exact the features of a whole tower are. PyTorch's library takes short sums there too.

    Args:
        inputs: float (batch, inputs).
        kernel: float (inputs, units).
    """
    length, units = kernel.shape
    group = math.gcd(length, TERMS_OF_GROUP)
    if group < 8 or group == length:  # many small groups would be one long sum again
        return ops.matmul(inputs, kernel)
    parts = ops.transpose(ops.reshape(inputs, (-1, length // group, group)), (1, 0, 2))
    return ops.sum(ops.matmul(parts, ops.reshape(kernel, (length // group, group, units))), axis=0)


def _product_in_jax(inputs: Tensor, kernel: Tensor) -> Tensor:
    """inputs @ kernel, on CPUs as the sum of shorter products.

    On processors without AVX-512, XLA adds up all that a product sums one after the other. The errors of the longest,
    at the end of each feed-forward, made features 1.8 times as wrong as PyTorch's, whose library adds up in parts, too.
    Products that are not as long are left whole: their kernels would be copied, which takes as long as one text.
    """
    length = kernel.shape[0]
    if length <= LONGEST_SUM or not is_xla_on_cpu():
        return ops.matmul(inputs, kernel)
    starts = range(0, length, TERMS_OF_PART)
    parts = [ops.matmul(inputs[..., i : i + TERMS_OF_PART], kernel[i : i + TERMS_OF_PART]) for i in starts]
    return sum(parts[1:], start=parts[0])


def _affine_in_tensorflow(inputs: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    """inputs @ kernel + bias, of matrices: of them alone, TensorFlow makes one operation of it."""
    if len(inputs.shape) == 2:
        return ops.add(ops.matmul(inputs, kernel), bias)
    outputs = _affine_in_tensorflow(ops.reshape(inputs, (-1, inputs.shape[-1])), kernel, bias)
    return ops.reshape(outputs, (-1, *ops.shape(inputs)[1:-1], kernel.shape[-1]))


def _affine_in_torch(inputs: Any, kernel: Any, bias: Any) -> Tensor:
    """inputs @ kernel + bias."""
    outputs = bias.addmm(inputs.reshape(-1, inputs.shape[-1]), kernel)
    return outputs.reshape(*inputs.shape[:-1], kernel.shape[-1])
