"""Multi-head self-attention."""

from typing import Any

import keras
from keras import ops

from ..types import Shape, Tensor
from . import torch_functions
from .dense import Linear
from .initializers import normal
from .inner import run


@keras.saving.register_keras_serializable("mobileclip_keras")
class SelfAttention(keras.layers.Layer):
    """Multi-head self-attention with queries, keys and values from one packed dense layer.

    The packed output is ordered (query, key, value) x head x channel, as in timm and open_clip.

    Args:
        heads: number of heads; divides the channels.
        qkv_bias: whether the packed projection has a bias.
        causal: whether a position sees only itself and those before it.

    Inputs and outputs are (batch, length, channels). With `position`, (batch, 1) integers, only the output at that
    position of each row is computed: (batch, 1, channels). Source: arXiv 1706.03762, section 3.2.
    """

    def __init__(self, heads: int, qkv_bias: bool = True, causal: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.heads = heads
        self.qkv_bias = qkv_bias
        self.causal = causal

    def build(self, input_shape: Shape) -> None:
        channels = input_shape[-1]
        dense = {"dtype": self.dtype_policy, "kernel_initializer": normal()}
        self.qkv = Linear(3 * channels, use_bias=self.qkv_bias, name="qkv", **dense)
        self.proj = Linear(channels, name="proj", **dense)
        self.qkv.build(input_shape)
        self.proj.build(input_shape)
        self.head_dim = channels // self.heads

    def call(self, inputs: Tensor, position: Tensor | None = None) -> Tensor:
        packed = run(self.qkv, inputs)
        if keras.backend.backend() == "torch" and position is None:
            return run(self.proj, torch_functions.attention(packed, self.heads, self.causal))
        length = ops.shape(inputs)[1]
        packed = ops.reshape(packed, (-1, length, 3, self.heads, self.head_dim))
        query, key, value = (packed[:, :, part] for part in range(3))
        mask = None
        if position is not None:
            query = at(query, position)
            if self.causal:
                mask = (ops.arange(length)[None, :] <= position)[:, None, None, :]
        attended = self._attend(query, key, value, mask, self.causal and position is None)
        return run(self.proj, ops.reshape(attended, (-1, ops.shape(query)[1], self.heads * self.head_dim)))

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Any, causal: bool) -> Tensor:
        """Written out, which graph compilers arrange best. All are (batch, length, heads, channels of a head)."""
        query, key, value = (ops.transpose(part, (0, 2, 1, 3)) for part in (query, key, value))
        scores = ops.matmul(query * self.head_dim**-0.5, ops.transpose(key, (0, 1, 3, 2)))
        if causal:
            place = ops.arange(ops.shape(scores)[-1])
            mask = place[None, :] <= place[:, None]
        if mask is not None:
            scores = ops.where(mask, scores, -float("inf"))
        return ops.transpose(ops.matmul(ops.softmax(scores, axis=-1), value), (0, 2, 1, 3))


def at(states: Tensor, position: Tensor) -> Tensor:
    """(batch, 1, ...): what stands at one position of each row.

    Args:
        states: (batch, length, ...).
        position: integers, (batch, 1).
    """
    return ops.take_along_axis(states, ops.reshape(position, (-1, *(1,) * (len(states.shape) - 1))), axis=1)
