"""Feed-forward blocks: the convolutional one of the mci towers and RepMixer blocks, the plain one of transformers."""

from typing import Any

import keras
from keras import ops

from ..kernels.activation import gelu
from ..types import Shape, Tensor
from .convolution import ConvNorm, Convolution
from .dense import Linear
from .initializers import normal
from .inner import run


@keras.saving.register_keras_serializable("mobileclip_keras")
class FeedForward(keras.layers.Layer):
    """Two dense layers over the last axis with an exact GELU between them.

    Args:
        hidden: units of the hidden layer.
    """

    def __init__(self, hidden: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.hidden = hidden

    def build(self, input_shape: Shape) -> None:
        dense = {"dtype": self.dtype_policy, "kernel_initializer": normal()}
        self.fc1 = Linear(self.hidden, name="fc1", **dense)
        self.fc2 = Linear(input_shape[-1], name="fc2", **dense)
        self.fc1.build(input_shape)
        self.fc2.build((*input_shape[:-1], self.hidden))

    def call(self, inputs: Tensor) -> Tensor:
        return feed_forward(self.fc1, self.fc2, inputs)


@keras.saving.register_keras_serializable("mobileclip_keras")
class ConvFeedForward(keras.layers.Layer):
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
        self.fc1 = Linear(self.hidden, name="fc1", **dense)
        self.fc2 = Linear(input_shape[-1], name="fc2", **dense)
        self.fc1.build(input_shape)
        self.fc2.build((*input_shape[:-1], self.hidden))

    def call(self, inputs: Tensor, training: bool | None = None, columns: slice | None = None) -> Tensor:
        mixed = run(self.conv, inputs, training=training)
        return feed_forward(self.fc1, self.fc2, mixed if columns is None else mixed[:, :, columns])


def feed_forward(fc1: Linear, fc2: Linear, inputs: Tensor) -> Tensor:
    """Two dense layers over the last axis with an exact GELU between them.

    Of matrices, TensorFlow makes one operation of product, bias and GELU.
    """
    rows = ops.reshape(inputs, (-1, inputs.shape[-1])) if keras.backend.backend() == "tensorflow" else inputs
    outputs = run(fc2, gelu(run(fc1, rows)))
    return ops.reshape(outputs, (-1, *ops.shape(inputs)[1:-1], outputs.shape[-1])) if rows is not inputs else outputs
