"""What PyTorch computes in its own operations, where keras.ops passes over memory more often than PyTorch would.

Measured on two cores, s2's inference form: convolution with padding and bias in one pass, attention of views and
layer norms without Keras' casts took 10 to 15 % off the image towers and 1.5 of 5 ms off Keras' work for one text
(benchmarks/inference.py).
"""

from typing import Any

import keras
import numpy as np
import torch

from ..types import Tensor
from . import plain


def gelu(inputs: Any) -> Tensor:
    """One operation in place of four passes over the largest tensors there are."""
    return torch.nn.functional.gelu(inputs)


def convolve(
    inputs: Any,
    kernel: Any,
    bias: Any = None,
    *,
    strides: int = 1,
    padding: tuple[int, int] = (0, 0),
    depthwise: bool = False,
    training: bool = False,
) -> Tensor:
    """One pass: PyTorch pads and adds the bias while it convolves. Keras copies each feature map to channels first."""
    if strides > 1 and tuple(kernel.shape[:2]) == (1, 1) and not any(padding):
        # As in plain.py: oneDNN, which PyTorch uses, too.
        inputs, strides = inputs[:, ::strides, ::strides], 1
    groups = inputs.shape[-1] if depthwise else 1
    if depthwise:
        kernel = kernel.reshape(*kernel.shape[:2], 1, -1)
    # Transposed, a channels-last tensor is one of PyTorch's memory format of that name: nothing moves.
    images, filters = inputs.permute(0, 3, 1, 2), kernel.permute(3, 2, 0, 1)
    return torch.conv2d(images, filters, bias, strides, padding, 1, groups).permute(0, 2, 3, 1)


def dense(inputs: Any, kernel: Any, bias: Any = None, activation: Any = None) -> Tensor:
    """Product and bias as one operation."""
    if bias is None:
        outputs = inputs @ kernel
    else:
        outputs = bias.addmm(inputs.reshape(-1, inputs.shape[-1]), kernel)
        outputs = outputs.reshape(*inputs.shape[:-1], kernel.shape[-1])
    return outputs if activation is None else activation(outputs)


def attention(packed: Any, heads: int, causal: bool) -> Tensor:
    """The one kernel that never writes the scores to memory, given views, not copies."""
    batch, length, channels = packed.shape
    split = packed.reshape(batch, length, 3, heads, channels // 3 // heads)
    query, key, value = split.permute(2, 0, 3, 1, 4)
    attended = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=causal)
    return attended.transpose(1, 2).reshape(batch, length, channels // 3)


def layer_norm(inputs: Any, gamma: Any, beta: Any, epsilon: float) -> Tensor:
    """One operation, where all three are of one dtype."""
    if not inputs.dtype == gamma.dtype == beta.dtype:
        return plain.layer_norm(inputs, gamma, beta, epsilon)
    return torch.layer_norm(inputs, gamma.shape, gamma, beta, epsilon)


def is_on_host(variable: keras.Variable) -> bool:
    return variable.value.device.type == "cpu"


def tensor(array: np.ndarray) -> Tensor:
    """Keras' own function copies the array twice."""
    return torch.from_numpy(array)


def hand_over(variable: keras.Variable, array: np.ndarray) -> None:
    variable.value.data = tensor(array)


def view(variable: keras.Variable) -> np.ndarray | None:
    value = variable.value
    if value.device.type != "cpu" or value.dtype == torch.bfloat16:
        return None
    return value.detach().numpy()
