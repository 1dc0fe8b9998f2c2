"""Normalisation and layer scale."""

from typing import Any

import keras
from keras import ops

from ..kernels import torch as torch_functions
from ..types import Shape, Tensor

BATCH_NORM_EPSILON = 1e-5


@keras.saving.register_keras_serializable("mobileclip_keras")
class BatchNorm(keras.layers.BatchNormalization):
    """Batch normalisation over the last axis with PyTorch's defaults, counting its training steps as PyTorch does.

    Epsilon is 1e-5 and the moving averages keep 0.9 of their value per step (PyTorch's momentum of 0.1). The
    counter `num_batches_tracked` has no influence on outputs; it is kept so that a checkpoint converts back whole.
    """

    def __init__(self, **kwargs: Any) -> None:
        kwargs = {"epsilon": BATCH_NORM_EPSILON, "momentum": 0.9, **kwargs}
        super().__init__(**kwargs)

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        self.num_batches_tracked = self.add_weight(
            name="num_batches_tracked", shape=(), dtype="int", initializer="zeros", trainable=False
        )

    def call(self, inputs: Tensor, training: bool | None = None, mask: Tensor = None) -> Tensor:
        if training and self.trainable:
            self.num_batches_tracked.assign_add(ops.ones((), dtype=self.num_batches_tracked.dtype))
        elif keras.backend.backend() == "tensorflow":
            return self._normalize(inputs)
        return super().call(inputs, training=training, mask=mask)

    def _normalize(self, inputs: Tensor) -> Tensor:
        """By the moving averages. TensorFlow's rsqrt, which Keras takes, is 2e-8 too small in the mean on CPUs, the
        same way in every layer: over a tower that adds up to twice the error of the features."""
        dtype = keras.backend.result_type(inputs.dtype, "float32")
        variables = (self.moving_variance, self.moving_mean, self.gamma, self.beta)
        variance, mean, gamma, beta = (ops.cast(variable, dtype) for variable in variables)
        scale = gamma / ops.sqrt(variance + self.epsilon)
        outputs = ops.cast(inputs, dtype) * scale + (beta - mean * scale)
        return ops.cast(outputs, self.compute_dtype)


@keras.saving.register_keras_serializable("mobileclip_keras")
class LayerNorm(keras.layers.LayerNormalization):
    """keras.layers.LayerNormalization over the last axis; on PyTorch, of one dtype, without Keras' work around it."""

    def call(self, inputs: Tensor) -> Tensor:
        dtype = keras.backend.standardize_dtype(inputs.dtype)
        if keras.backend.backend() == "torch" and dtype == self.compute_dtype == self.variable_dtype:
            return torch_functions.layer_norm(inputs, self.gamma.value, self.beta.value, self.epsilon)
        return super().call(inputs)


@keras.saving.register_keras_serializable("mobileclip_keras")
class LayerScale(keras.layers.Layer):
    """Multiplies each channel (the last axis) by a learned factor that starts small.

    Source: CaiT (arXiv 2103.17239), section 2.1; the initial value is FastViT's.
    """

    def __init__(self, initial_value: float = 1e-5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.initial_value = initial_value

    def build(self, input_shape: Shape) -> None:
        self.gamma = self.add_weight(
            name="gamma",
            shape=(input_shape[-1],),
            initializer=keras.initializers.Constant(self.initial_value),
        )

    def call(self, inputs: Tensor) -> Tensor:
        return inputs * self.gamma
