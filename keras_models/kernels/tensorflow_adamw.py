"""A step of AdamW in one operation for each variable, and two for its decay. Keras' own takes some fifteen."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf


def update_by_adamw(
    optimizer: Any,
    gradients: Sequence[Any],
    variables: Sequence[keras.Variable],
    momentums: Sequence[keras.Variable],
    velocities: Sequence[keras.Variable],
    decayed: Sequence[bool],
) -> bool:
    """By TensorFlow's own operation for Adam, which goes through a variable and its averages once.

    Not under a strategy that spreads variables over devices, nor where a variable and its averages are of two dtypes.
    """
    columns = [[variable.value for variable in column] for column in (variables, momentums, velocities)]
    if tf.distribute.has_strategy() or any(
        len({value.dtype for value in row}) > 1 for row in zip(*columns, strict=True)
    ):
        return False
    taken = optimizer.iterations.value + 1
    for value, momentum, velocity, gradient, decays in zip(*columns, gradients, decayed, strict=True):
        rate, one = tf.cast(optimizer.learning_rate, value.dtype), tf.ones((), value.dtype)
        if decays:
            value.assign_sub(value * (rate * tf.cast(optimizer.weight_decay, value.dtype)), read_value=False)
        power = tf.cast(taken, value.dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=value.handle,
            m=momentum.handle,
            v=velocity.handle,
            beta1_power=tf.pow(one * optimizer.beta_1, power),
            beta2_power=tf.pow(one * optimizer.beta_2, power),
            lr=rate,
            beta1=one * optimizer.beta_1,
            beta2=one * optimizer.beta_2,
            epsilon=one * optimizer.epsilon,
            grad=tf.cast(tf.convert_to_tensor(gradient), value.dtype),
        )
    return True
