"""How much features depend on what a table of embeddings gives, by which the rounding of its rows makes up for itself.

A dense layer's numbers are rounded by what it is given (`compensation`). What a look-up gives goes straight on, so its
numbers are rounded by what comes of them: an error that features depend on little is traded for one that they depend on
much. To second order, the squared error of features is a form of a row's error, with this matrix.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from .weights import Weight

DIRECTIONS = 4
"""Of features, at random, for each row of inputs. Each gives as many derivatives as a text has tokens."""


def sensitivity(encode: Callable[[Any], Any], batches: list[np.ndarray], table: Weight) -> np.ndarray:
    """The sum of the products of the features' derivatives by two numbers of what the table gives.

    Args:
        encode: from a batch to features of length 1. TensorFlow must be Keras' backend.
        batches: of tokens, (batch, length) each.
        table: whose layer `encode` calls once.

    Returns:
        Float64 (width, width), over all tokens and some directions of features.
    """
    import tensorflow as tf

    chance = np.random.default_rng(0)
    look_up = table.layer.call
    width = table.variable.shape[1]
    found = np.zeros((width, width))
    try:
        for batch in batches:
            for _ in range(DIRECTIONS):
                with tf.GradientTape(watch_accessed_variables=False) as tape:
                    given: list[Any] = []

                    def watched(ids: Any, tape: Any = tape, given: list[Any] = given, **options: Any) -> Any:
                        given.append(look_up(ids, **options))
                        tape.watch(given[-1])
                        return given[-1]

                    table.layer.call = watched
                    features = encode(tf.constant(batch))
                    direction = tf.constant(chance.standard_normal(features.shape), features.dtype)
                    along = tf.reduce_sum(features * direction)
                slopes = tape.gradient(along, given[0]).numpy().reshape(-1, width).astype(np.float64)
                found += slopes.T @ slopes
    finally:
        del table.layer.call  # the class's own comes back
    return found
