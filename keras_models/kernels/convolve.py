"""One convolution, computed the way that is fast on the backend in use. All ways give the same sums.

Keras' own channels-last convolution is exact everywhere but not fast everywhere: on PyTorch it copies every
feature map to channels-first and back, pads and adds the bias in passes of their own, and XLA compiles depthwise
kernels for CPUs to code that runs some 25 times slower than the arithmetic takes. Measured by benchmarks/inference.py.
"""

from functools import cache
from typing import Any

import keras
from keras import ops
from keras.src.utils.jax_utils import is_in_jax_tracing_scope

from ..types import Tensor
from . import torch as torch_functions


def convolve(
    inputs: Tensor,
    kernel: Tensor,
    strides: int,
    padding: tuple[int, int],
    depthwise: bool,
    bias: Tensor | None,
    training: bool,
) -> Tensor:
    """A convolution, padded with zeros on both sides alike.

    Args:
        inputs: float (batch, height, width, channels).
        kernel: float (kernel height, kernel width, channels, filters); where depthwise, (kernel height, kernel
            width, channels, multiplier).
        strides: step in both directions.
        padding: (rows above and below, columns left and right).
        depthwise: whether each channel is convolved on its own. Output channel c * multiplier + m then comes from
            input channel c.
        bias: float (filters,), if there is one.
        training: whether gradients will be asked for. They are right in any case, but those of sums of shifted
            inputs take XLA minutes to compile.
    """
    if keras.backend.backend() == "torch":
        return _convolve_in_torch(inputs, kernel, strides, padding, depthwise, bias)
    if depthwise and not training and is_xla_on_cpu() and is_in_jax_tracing_scope(inputs):
        outputs = _sum_of_shifted(inputs, kernel, strides, padding)
    else:
        outputs = _convolve_in_keras(inputs, kernel, strides, padding, depthwise)
    return outputs if bias is None else outputs + bias


def _convolve_in_torch(
    inputs: Tensor, kernel: Tensor, strides: int, padding: tuple[int, int], depthwise: bool, bias: Tensor | None
) -> Tensor:
    if strides > 1 and tuple(kernel.shape[:2]) == (1, 1) and not any(padding):
        # PyTorch's backward pass of this convolution, over images of three channels, writes outside its memory.
        inputs, strides = inputs[:, ::strides, ::strides], 1
    groups = inputs.shape[-1] if depthwise else 1
    if depthwise:
        kernel = kernel.reshape(*kernel.shape[:2], 1, -1)
    return torch_functions.conv2d(inputs, kernel, bias, strides, padding, groups)


def _convolve_in_keras(
    inputs: Tensor, kernel: Tensor, strides: int, padding: tuple[int, int], depthwise: bool
) -> Tensor:
    is_same = strides == 1 and all(2 * pad + 1 == size for pad, size in zip(padding, kernel.shape[:2], strict=True))
    if not is_same and any(padding):
        inputs = ops.pad(inputs, [(0, 0), *((pad, pad) for pad in padding), (0, 0)])
    operation = ops.depthwise_conv if depthwise else ops.conv
    options = {"strides": strides, "padding": "same" if is_same else "valid"}
    return operation(inputs, kernel, data_format="channels_last", **options)


@cache
def is_xla_on_cpu() -> bool:
    """Whether XLA compiles for CPUs what layers compute."""
    return keras.backend.backend() == "jax" and keras.distribution.list_devices()[0].startswith("cpu")


def _sum_of_shifted(inputs: Tensor, kernel: Tensor, strides: int, padding: tuple[int, int]) -> Tensor:
    """A depthwise convolution as the sum of the shifted input times each of the kernel's weights.

    Compiled, that is one loop over the output, which XLA vectorises over the channels. Run operation by operation
    it would be slow.
    """
    tall, wide = kernel.shape[:2]
    height, width = (
        (size + 2 * pad - length) // strides + 1
        for size, pad, length in zip(inputs.shape[1:3], padding, (tall, wide), strict=True)
    )
    # One row more than needed, dropped at the end: the middle one of the shifted inputs would else be the input
    # itself, which XLA would compute anew, and with it all that is added up along a residual path.
    rows, columns = padding
    inputs = ops.pad(inputs, [(0, 0), (rows, rows + strides), (columns, columns), (0, 0)])
    multiplier = kernel.shape[-1]
    if multiplier > 1:
        inputs = ops.repeat(inputs, multiplier, axis=-1)
    weights = ops.reshape(kernel, (tall, wide, -1))
    total: Any = 0.0
    for y in range(tall):
        for x in range(wide):
            seen = inputs[:, y : y + strides * height + 1 : strides, x : x + strides * (width - 1) + 1 : strides]
            total = total + seen * weights[y, x]
    return total[:, :height]
