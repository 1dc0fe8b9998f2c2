"""Multi-head self-attention."""

from typing import Any

import keras

from .. import kernels
from ..layers.base import Layer
from ..layers.dense import Linear
from ..layers.initializers import normal
from ..types import Shape, Tensor


@keras.saving.register_keras_serializable("mobileclip_keras")
class SelfAttention(Layer):
    """Multi-head self-attention with queries, keys and values from one packed dense layer.

    The packed output is ordered (query, key, value) x head x channel, as in timm and open_clip.

    Args:
        heads: number of heads; divides the channels.
        qkv_bias: whether the packed projection has a bias.
        causal: whether a position sees only itself and those before it.

    Inputs and outputs are (batch, length, channels). With `picks`, as for `kernels.at`, only the outputs at those
    positions of each row are computed: (batch, wanted, channels). Source: arXiv 1706.03762, section 3.2.
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

    def call(self, inputs: Tensor, picks: Any = None) -> Tensor:
        if picks is None:
            return self.proj(kernels.attention(self.qkv(inputs), self.heads, self.causal))
        if self.qkv.quantization_mode is not None:  # its kernel is no matrix of numbers to multiply with
            return kernels.at(self.call(inputs), picks)
        kernel = kernels.weight(self.qkv.kernel)
        bias = kernels.weight(self.qkv.bias) if self.qkv_bias else None
        return self.proj(kernels.attention_at(inputs, picks, kernel, bias, self.heads, self.causal))
