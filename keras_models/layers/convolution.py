"""Two-dimensional convolution, and convolution followed by batch normalisation."""

from typing import Any

import keras

from .. import kernels
from ..types import Shape, Tensor
from .base import Layer
from .initializers import normal
from .normalization import BatchNorm


@keras.saving.register_keras_serializable("mobileclip_keras")
class Convolution(Layer):
    """A convolution over (batch, height, width, channels) that pads both sides alike, as PyTorch does.

    Keras' own "same" padding puts the odd pixel of a strided convolution on the far side only, which shifts
    every feature map by one pixel against the published weights.

    Args:
        filters: output channels.
        kernel_size: (height, width).
        strides: step in both directions.
        padding: pixels added on each of the four sides; None means half the kernel (rounded down) in each
            direction.
        depthwise: whether each input channel is convolved on its own; `filters` is then a multiple of the
            input channels, and output channel c * multiplier + m comes from input channel c.
        use_bias: whether a bias is added.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: tuple[int, int],
        strides: int = 1,
        padding: int | None = None,
        depthwise: bool = False,
        use_bias: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.filters = filters
        self.kernel_size = tuple(kernel_size)
        self.strides = strides
        self.padding = padding
        self.depthwise = depthwise
        self.use_bias = use_bias
        # Keras compiles by XLA what it trains or predicts with, where every layer allows it.
        self.supports_jit = kernels.XLA_IS_FAST or not depthwise

    def build(self, input_shape: Shape) -> None:
        channels = input_shape[-1]
        last = (channels, self.filters // channels) if self.depthwise else (channels, self.filters)
        self.kernel = self.add_weight(name="kernel", shape=(*self.kernel_size, *last), initializer=normal())
        self.bias = None
        if self.use_bias:  # of folded forms, and a few others
            self.bias = self.add_weight(name="bias", shape=(self.filters,), initializer="zeros")
            kernels.lay_out_as_convolved(self.kernel, self.depthwise)

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        kernel = kernels.weight(self.kernel)
        bias = None if self.bias is None else kernels.weight(self.bias)
        options: dict[str, Any] = {"strides": self.strides, "padding": self.margins, "depthwise": self.depthwise}
        return kernels.convolve(inputs, kernel, bias, training=bool(training), **options)

    @property
    def margins(self) -> tuple[int, int]:
        """Zeros above and below, and left and right."""
        rows, columns = (size // 2 if self.padding is None else self.padding for size in self.kernel_size)
        return rows, columns

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        sizes = []
        for size, kernel, pad in zip(input_shape[1:3], self.kernel_size, self.margins, strict=True):
            sizes.append(None if size is None else (size + 2 * pad - kernel) // self.strides + 1)
        return (input_shape[0], *sizes, self.filters)


@keras.saving.register_keras_serializable("mobileclip_keras")
class ConvNorm(Layer):
    """A convolution without bias, then batch normalisation. Arguments are those of `Convolution`."""

    def __init__(
        self,
        filters: int,
        kernel_size: tuple[int, int],
        strides: int = 1,
        padding: int | None = None,
        depthwise: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.conv = Convolution(filters, kernel_size, strides, padding, depthwise, dtype=self.dtype_policy, name="conv")
        self.bn = BatchNorm(dtype=self.dtype_policy, name="bn")

    def build(self, input_shape: Shape) -> None:
        self.conv.build(input_shape)
        self.bn.build(self.conv.compute_output_shape(input_shape))

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        return self.bn(self.conv(inputs, training=training), training=training)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return self.conv.compute_output_shape(input_shape)
