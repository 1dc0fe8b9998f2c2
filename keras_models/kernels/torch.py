"""PyTorch's own operations, where keras.ops has it pass over memory more often than it would.

Keras has imported PyTorch where it is the backend; nothing here imports it, and nothing here runs on another one.
"""

import sys
from typing import Any

from ..types import Tensor


def conv2d(inputs: Any, kernel: Any, bias: Any, strides: int, padding: tuple[int, int], groups: int) -> Tensor:
    """A convolution of channels-last images in one pass: PyTorch pads and adds the bias while it convolves.

    Args:
        inputs: (batch, height, width, channels).
        kernel: (kernel height, kernel width, channels / groups, filters).
        bias: (filters,) or None.
        strides: step in both directions.
        padding: (rows above and below, columns left and right).
        groups: groups of channels that are convolved on their own.
    """
    # Transposed, a channels-last tensor is one of PyTorch's memory format of that name: nothing moves.
    outputs = sys.modules["torch"].conv2d(
        inputs.permute(0, 3, 1, 2), kernel.permute(3, 2, 0, 1), bias, strides, padding, 1, groups
    )
    return outputs.permute(0, 2, 3, 1)


def attention(packed: Any, heads: int, causal: bool) -> Tensor:
    """Scaled dot-product attention by the one kernel that never writes the scores to memory, of views, not copies.

    Args:
        packed: (batch, length, 3 x channels), ordered (query, key, value) x head x channel.
        heads: attention heads.
        causal: whether a position sees only itself and those before it.

    Returns:
        (batch, length, channels).
    """
    batch, length, channels = packed.shape
    split = packed.reshape(batch, length, 3, heads, channels // 3 // heads)
    query, key, value = split.permute(2, 0, 3, 1, 4)
    functional = sys.modules["torch"].nn.functional
    attended = functional.scaled_dot_product_attention(query, key, value, is_causal=causal)
    return attended.transpose(1, 2).reshape(batch, length, channels // 3)


def layer_norm(inputs: Any, gamma: Any, beta: Any, epsilon: float) -> Tensor:
    """Layer normalisation over the last axis."""
    return sys.modules["torch"].layer_norm(inputs, gamma.shape, gamma, beta, epsilon)
