"""What PreprocessingLayer computes with in a tf.data pipeline: TensorFlow's operations, named as in `keras.ops`.

Imported only when a tensor of TensorFlow comes along, as Keras may run on another backend.
"""

from typing import Any

import tensorflow as tf

arange = tf.range
cast = tf.cast
clip = tf.clip_by_value
einsum = tf.einsum
floor = tf.floor
round = tf.round
take = tf.gather


def shape(tensor: Any) -> tuple[Any, ...]:
    """Whole numbers where the size is known, else tensors."""
    sizes = tf.shape(tensor)
    return tuple(sizes[axis] if size is None else size for axis, size in enumerate(tensor.shape))


def swapaxes(tensor: Any, first: int, second: int) -> Any:
    axes = list(range(tensor.shape.rank))
    axes[first], axes[second] = axes[second], axes[first]
    return tf.transpose(tensor, axes)
