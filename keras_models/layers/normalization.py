"""Normalisation and layer scale."""

from typing import Any

import keras
from keras import ops

from .. import kernels
from ..types import Shape, Tensor
from .base import Layer, TowerLayer

BATCH_NORM_EPSILON = 1e-5


@keras.saving.register_keras_serializable("mobileclip_keras")
class BatchNorm(TowerLayer, keras.layers.BatchNormalization):
    """Batch normalisation over the last axis with PyTorch's defaults, counting its training steps as PyTorch does.

    Epsilon is 1e-5 and the moving averages keep 0.9 of their value per step (PyTorch's momentum of 0.1). As in PyTorch,
    and not in Keras, what moves the average variance is the batch's unbiased one. The counter `num_batches_tracked` has
    no influence on outputs; it is kept so that a checkpoint converts back whole.
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
            self.num_batches_tracked.assign_add(1)
            if mask is not None:
                return super().call(inputs, training=training, mask=mask)
        variables = (self.gamma, self.beta, self.moving_mean, self.moving_variance)
        gamma, beta, mean, variance = map(kernels.weight, variables)
        if training and self.trainable:
            outputs, mean, variance = kernels.batch_norm_in_training(
                inputs, gamma, beta, mean, variance, self.momentum, self.epsilon
            )
            self.moving_mean.assign(mean)
            self.moving_variance.assign(variance)
        else:
            outputs = kernels.batch_norm(inputs, mean, variance, gamma, beta, self.epsilon)
        return ops.cast(outputs, self.compute_dtype)


def sum_of_norms_in_training(inputs: Tensor, norms: list[tuple[BatchNorm, Tensor | None, int]]) -> Tensor:
    """What several batch norms of the same inputs add up to in a step of training. All have one momentum and epsilon.

    Args:
        inputs: float (..., channels).
        norms: of each the layer, what each channel is multiplied by before, (channels,) or None, and the sign, 1 or -1,
            that its output has in the sum.

    Returns:
        Float (..., channels).
    """
    layers, factors, signs = zip(*norms, strict=True)
    gammas, betas, means, variances = (
        [kernels.weight(getattr(layer, name)) for layer in layers]
        for name in ("gamma", "beta", "moving_mean", "moving_variance")
    )
    outputs, means, variances = kernels.sum_of_batch_norms_in_training(
        inputs, signs, factors, gammas, betas, means, variances, layers[0].momentum, layers[0].epsilon
    )
    for layer, mean, variance in zip(layers, means, variances, strict=True):
        layer.num_batches_tracked.assign_add(1)
        layer.moving_mean.assign(mean)
        layer.moving_variance.assign(variance)
    return ops.cast(outputs, layers[0].compute_dtype)


@keras.saving.register_keras_serializable("mobileclip_keras")
class LayerNorm(TowerLayer, keras.layers.LayerNormalization):
    """keras.layers.LayerNormalization over the last axis."""

    def call(self, inputs: Tensor) -> Tensor:
        gamma, beta = kernels.weight(self.gamma), kernels.weight(self.beta)
        return ops.cast(kernels.layer_norm(inputs, gamma, beta, self.epsilon), self.compute_dtype)


def norm_each(norm: LayerNorm, states: Tensor) -> Tensor:
    """A LayerNorm that was built for (batch, channels), of every position: (batch, length, channels)."""
    return ops.reshape(norm(ops.reshape(states, (-1, states.shape[-1]))), ops.shape(states))


@keras.saving.register_keras_serializable("mobileclip_keras")
class LayerScale(Layer):
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
        return inputs * kernels.weight(self.gamma)
