"""Multi-head self-attention."""

from typing import Any

import keras
from keras import ops

from ..types import Shape, Tensor
from .initializers import normal


@keras.saving.register_keras_serializable("mobileclip_keras")
class SelfAttention(keras.layers.Layer):
    """Multi-head self-attention with queries, keys and values from one packed dense layer.

    The packed output is ordered (query, key, value) x head x channel, as in timm and open_clip.

    Args:
        heads: number of heads; divides the channels.
        qkv_bias: whether the packed projection has a bias.
        causal: whether a position sees only itself and those before it.

    Inputs and outputs are (batch, length, channels). Source: arXiv 1706.03762, section 3.2.
    """

    def __init__(self, heads: int, qkv_bias: bool = True, causal: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.heads = heads
        self.qkv_bias = qkv_bias
        self.causal = causal

    def build(self, input_shape: Shape) -> None:
        channels = input_shape[-1]
        dense = {"dtype": self.dtype_policy, "kernel_initializer": normal()}
        self.qkv = keras.layers.Dense(3 * channels, use_bias=self.qkv_bias, name="qkv", **dense)
        self.proj = keras.layers.Dense(channels, name="proj", **dense)
        self.qkv.build(input_shape)
        self.proj.build(input_shape)
        self.head_dim = channels // self.heads

    def call(self, inputs: Tensor) -> Tensor:
        length = ops.shape(inputs)[1]
        packed = ops.reshape(self.qkv(inputs), (-1, length, 3, self.heads, self.head_dim))
        query, key, value = (ops.transpose(packed[:, :, part], (0, 2, 1, 3)) for part in range(3))
        scores = ops.matmul(query * self.head_dim**-0.5, ops.transpose(key, (0, 1, 3, 2)))
        if self.causal:
            position = ops.arange(length)
            scores = ops.where(position[None, :] > position[:, None], -float("inf"), scores)
        attended = ops.matmul(ops.softmax(scores, axis=-1), value)
        merged = ops.reshape(ops.transpose(attended, (0, 2, 1, 3)), (-1, length, self.heads * self.head_dim))
        return self.proj(merged)
