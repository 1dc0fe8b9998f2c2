"""The dense layer of every tower."""

from typing import Any

import keras
from keras import ops

from ..types import Tensor

ROWS_FOR_CONVOLUTION = 1024
"""From this many rows on, PyTorch's convolution by one pixel is faster on CPUs than its matrix product: it is
another library's (oneDNN's, not MKL's). With fewer rows, rearranging the kernel for it takes longer than it saves."""


@keras.saving.register_keras_serializable("mobileclip_keras")
class Linear(keras.layers.Dense):
    """keras.layers.Dense, with product and bias in as few passes over memory as the backend allows.

    Inputs: float (..., inputs), outputs: float (..., units). Arguments are those of keras.layers.Dense.
    """

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        if self.bias is None or keras.backend.backend() != "torch":
            return super().call(inputs, training=training)
        outputs = _affine(inputs, ops.convert_to_tensor(self.kernel), ops.convert_to_tensor(self.bias))
        return outputs if self.activation is None else self.activation(outputs)


def _affine(inputs: Any, kernel: Any, bias: Any) -> Tensor:
    """inputs @ kernel + bias, of PyTorch's tensors."""
    rows = inputs.reshape(-1, inputs.shape[-1])
    if rows.device.type == "cpu" and rows.shape[0] >= ROWS_FOR_CONVOLUTION:
        # An image one pixel wide, in the memory format that PyTorch calls channels-last.
        image = rows.reshape(1, -1, 1, rows.shape[-1]).permute(0, 3, 1, 2)
        outputs = ops.conv(image, kernel[None, None], data_format="channels_first").permute(0, 2, 3, 1)
        outputs += bias  # in place
    else:
        outputs = bias.addmm(rows, kernel)
    return outputs.reshape(*inputs.shape[:-1], kernel.shape[-1])
