"""Multi-head self-attention."""

from typing import Any

import keras
from keras import ops

from ..kernels import torch as torch_functions
from ..types import Shape, Tensor
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

    Inputs and outputs are (batch, length, channels). With `positions`, integers (batch, wanted), only the outputs at
    those positions of each row are computed: (batch, wanted, channels). Source: arXiv 1706.03762, section 3.2.
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

    def call(self, inputs: Tensor, positions: Tensor | None = None) -> Tensor:
        if positions is not None:
            return self._call_at(inputs, positions)
        packed = run(self.qkv, inputs)
        if keras.backend.backend() == "torch":
            return run(self.proj, torch_functions.attention(packed, self.heads, self.causal))
        length, channels = ops.shape(inputs)[1], inputs.shape[-1]
        packed = ops.reshape(packed, (-1, length, 3, self.heads, self.head_dim))
        # Written out, which graph compilers arrange best.
        query, key, value = (ops.transpose(packed[:, :, part], (0, 2, 1, 3)) for part in range(3))
        scores = ops.matmul(query * self.head_dim**-0.5, ops.transpose(key, (0, 1, 3, 2)))
        if self.causal:
            place = ops.arange(length)
            scores = ops.where(place[None, :] <= place[:, None], scores, -float("inf"))
        attended = ops.transpose(ops.matmul(ops.softmax(scores, axis=-1), value), (0, 2, 1, 3))
        return run(self.proj, ops.reshape(attended, (-1, length, channels)))

    def _call_at(self, inputs: Tensor, positions: Tensor) -> Tensor:
        """For few positions, without the keys and values of all.

        A query times a key, q (K x), is (q K) x, and a weighted sum of values, sum of a (V x), is V (sum of a x): so
        both products are with what the positions wanted have in place of what all have. The keys' bias adds the same
        to all scores of a query, which changes no weight.
        """
        if getattr(self.qkv, "quantization_mode", None) is not None:  # its kernel is no matrix of numbers to multiply
            return at(self.call(inputs), positions)
        channels = inputs.shape[-1]
        split = (channels, 3, self.heads, self.head_dim)
        to_query, to_key, to_value = ops.unstack(ops.reshape(ops.convert_to_tensor(self.qkv.kernel), split), axis=1)
        query = ops.einsum("bnc,chd->bnhd", at(inputs, positions), to_query)
        if self.qkv_bias:
            query_bias, _, value_bias = ops.unstack(ops.reshape(ops.convert_to_tensor(self.qkv.bias), split[1:]))
            query += query_bias
        scores = ops.einsum("bnhd,chd->bhnc", query * self.head_dim**-0.5, to_key)
        scores = ops.einsum("bhnc,blc->bhnl", scores, inputs)
        if self.causal:
            seen = ops.arange(ops.shape(inputs)[1]) <= positions[:, None, :, None]
            scores = ops.where(seen, scores, -float("inf"))
        attended = ops.einsum("bhnl,blc->bhnc", ops.softmax(scores, axis=-1), inputs)
        attended = ops.einsum("bhnc,chd->bnhd", attended, to_value)
        if self.qkv_bias:
            attended += value_bias
        return run(self.proj, ops.reshape(attended, (-1, ops.shape(positions)[1], channels)))


def at(states: Tensor, positions: Tensor) -> Tensor:
    """(batch, wanted, channels): what stands at some positions of each row.

    Args:
        states: (batch, length, channels).
        positions: integers, (batch, wanted).
    """
    return ops.take_along_axis(states, positions[:, :, None], axis=1)
