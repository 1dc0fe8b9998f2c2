"""Feed-forward blocks: the convolutional one of the mci towers and RepMixer blocks, the plain one of transformers."""

from typing import Any

import keras

from .. import kernels
from ..layers.base import Layer
from ..layers.convolution import ConvNorm, Convolution
from ..layers.dense import Linear
from ..layers.initializers import normal
from ..types import Shape, Tensor


@keras.saving.register_keras_serializable("mobileclip_keras")
class FeedForward(Layer):
    """Two dense layers over the last axis with an exact GELU between them.

    Args:
        hidden: units of the hidden layer.
    """

    def __init__(self, hidden: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.hidden = hidden

    def build(self, input_shape: Shape) -> None:
        dense = {"dtype": self.dtype_policy, "kernel_initializer": normal()}
        self.fc1 = Linear(self.hidden, activation=kernels.gelu, name="fc1", **dense)
        self.fc2 = Linear(input_shape[-1], name="fc2", **dense)
        self.fc1.build(input_shape)
        self.fc2.build((*input_shape[:-1], self.hidden))

    def call(self, inputs: Tensor) -> Tensor:
        return self.fc2(self.fc1(inputs))


@keras.saving.register_keras_serializable("mobileclip_keras")
class ConvFeedForward(Layer):
    """A depthwise convolution with batch norm, then a feed-forward over the channels of each position.

    Args:
        hidden: units of the hidden layer.
        kernel_size: (height, width) of the depthwise kernel.
        form: one of architectures.FORMS; in the inference form the batch norm is part of the convolution.

    Inputs and outputs are (batch, height, width, channels). With `columns`, only those of the width are computed.
    Source: FastViT (arXiv 2303.14189, section 3.3).
    """

    def __init__(self, hidden: int, kernel_size: tuple[int, int] = (7, 7), form: str = "train", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.hidden = hidden
        self.kernel_size = tuple(kernel_size)
        self.form = form

    def build(self, input_shape: Shape) -> None:
        conv: dict[str, Any] = {"filters": input_shape[-1], "kernel_size": self.kernel_size, "depthwise": True}
        if self.form == "inference":
            self.conv: Any = Convolution(**conv, use_bias=True, dtype=self.dtype_policy, name="conv")
        else:
            self.conv = ConvNorm(**conv, dtype=self.dtype_policy, name="conv")
        self.conv.build(input_shape)
        dense = {"dtype": self.dtype_policy, "kernel_initializer": normal()}
        self.fc1 = Linear(self.hidden, activation=kernels.gelu, name="fc1", **dense)
        self.fc2 = Linear(input_shape[-1], name="fc2", **dense)
        self.fc1.build(input_shape)
        self.fc2.build((*input_shape[:-1], self.hidden))

    def call(self, inputs: Tensor, training: bool | None = None, columns: slice | None = None) -> Tensor:
        mixed = self.conv(inputs, training=training)
        return self.fc2(self.fc1(mixed if columns is None else mixed[:, :, columns]))
