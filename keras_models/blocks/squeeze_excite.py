"""Squeeze-and-excite (arXiv 1709.01507)."""

from typing import Any

import keras
from keras import ops

from .. import kernels
from ..layers.base import Layer
from ..layers.dense import VectorLinear
from ..layers.initializers import normal
from ..types import Shape, Tensor


@keras.saving.register_keras_serializable("mobileclip_keras")
class SqueezeExcite(Layer):
    """Scales each channel by a gate computed from every channel's mean over the positions.

    Args:
        channels: channels of the hidden layer: a quarter of the input's in downsampling convolutions, a
            sixteenth in the final convolution.

    Inputs and outputs are (batch, height, width, channels).
    """

    def __init__(self, channels: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.channels = channels

    def build(self, input_shape: Shape) -> None:
        dense = {"dtype": self.dtype_policy, "kernel_initializer": normal()}
        self.fc1 = VectorLinear(self.channels, activation="relu", name="fc1", **dense)
        self.fc2 = VectorLinear(input_shape[-1], activation="sigmoid", name="fc2", **dense)
        self.fc1.build((None, input_shape[-1]))
        self.fc2.build((None, self.channels))

    def call(self, inputs: Tensor) -> Tensor:
        gate = self.fc2(self.fc1(kernels.mean_over_positions(inputs)))
        return inputs * ops.reshape(gate, (-1, 1, 1, gate.shape[-1]))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape
