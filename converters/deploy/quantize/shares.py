"""Each layer's share of the error of the features, for every precision that its weight may have.

To first order, the error of an image's features is a sum of one term for each layer: the features' derivative by the
weight, times the change of the weight. One backward pass from a random direction gives the derivatives by all weights
at once. The mean over directions of the squared term is the squared length of the layer's error.

A layer that computes in integers has one term more: the derivative by what it is given, times what rounding changes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .options import Option
from .rounded_inputs import rounded_inputs
from .rounding import BITS
from .weights import Weight

PROBED = 6
"""Rows that are looked at, spread over those that there are."""
DIRECTIONS = 2
"""For each of them."""

Shares = dict[str, dict[str, float]]
"""By weight and precision: the mean squared error of features, relative to how far these are from their mean."""


@dataclass(frozen=True)
class Measured:
    """What rounding costs.

    Attributes:
        weights: the shares of weights alone.
        inputs: of layers that may compute in integers, by their weight: the share of what they are given. A layer that
            is never called is not among them: another computes with its weight.
        products: of the same: how many numbers they multiply for one row of inputs.
    """

    weights: Shares
    inputs: dict[str, float]
    products: dict[str, int]

    def of(self, precisions: Mapping[str, Sequence[str]], integers: bool) -> Shares:
        """The shares of some precisions.

        Args:
            precisions: by weight.
            integers: whether layers compute in integers where their weights are integers, and what they are given is
                rounded, too.
        """
        return {
            name: {
                each: self.weights[name][each] + (self.inputs.get(name, 0.0) if integers and each in BITS else 0.0)
                for each in some
            }
            for name, some in precisions.items()
        }


def measure_shares(
    encode: Callable[[Any], Any],
    rows: np.ndarray,
    features: np.ndarray,
    weights: list[Weight],
    options: Mapping[str, Mapping[str, Option]],
    dynamic: Sequence[Weight] = (),
) -> Measured:
    """Runs one row after the other, forward and backward. TensorFlow must be Keras' backend.

    Args:
        encode: from a batch to features of length 1.
        rows: inputs.
        features: of those.
        weights: of one tower.
        options: by weight and precision.
        dynamic: those whose layers may compute in integers where they are integers.
    """
    import tensorflow as tf

    chance = np.random.default_rng(0)
    spread = np.square(features - features.mean(0)).sum(1) if len(features) > 1 else np.ones(1)
    found: Shares = {weight.name: dict.fromkeys(options[weight.name], 0.0) for weight in weights}
    found_of_inputs: dict[str, float] = {}
    products: dict[str, int] = {}
    variables = [each.value for weight in weights for each in (weight.variable, weight.bias) if each is not None]
    kernel_sizes = {weight.name: int(np.prod(weight.variable.shape)) for weight in dynamic}
    picked = np.unique(np.linspace(0, len(rows) - 1, PROBED).astype(int))
    for row in picked:
        for _ in range(DIRECTIONS):
            direction = tf.constant(chance.standard_normal(features.shape[1:]), tf.float32)
            given: dict[str, tuple[Any, Any]] = {}
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(variables)
                with rounded_inputs(dynamic, _watched(tape, given)):
                    along = tf.reduce_sum(encode(tf.constant(rows[row : row + 1]))[0] * direction)
            inputs = [each for each, _ in given.values()]
            slopes_of = tape.gradient(along, [*variables, *inputs])
            slopes = dict(zip(map(id, [*variables, *inputs]), slopes_of, strict=True))
            parts = max(float(spread[row]), 1e-12) * len(picked) * DIRECTIONS
            for weight in weights:
                kernel = _numbers(slopes[id(weight.variable.value)])
                bias = None if weight.bias is None else _numbers(slopes[id(weight.bias.value)])
                for precision, option in options[weight.name].items():
                    term = _change(kernel, option.kernel, weight.value())
                    term += _change(bias, option.bias, weight.bias_value())
                    found[weight.name][precision] += term**2 / parts
            for name, (inputs_of_layer, rounded) in given.items():
                term = _change_of_inputs(slopes, inputs_of_layer, rounded)
                found_of_inputs[name] = found_of_inputs.get(name, 0.0) + term**2 / parts
                products[name] = int(np.prod(inputs_of_layer.shape[:-1])) * kernel_sizes[name]
    return Measured(found, found_of_inputs, products)


def _watched(tape: Any, given: dict[str, tuple[Any, Any]]) -> Callable[[Weight, Any, Any], Any]:
    """Notes what layers are given, and that rounded; lets them compute with what they are given."""

    def note(weight: Weight, inputs: Any, rounded: Any) -> Any:
        tape.watch(inputs)
        given[weight.name] = inputs, rounded
        return inputs

    return note


def _change_of_inputs(slopes: Mapping[int, Any], inputs: Any, rounded: Any) -> float:
    """To first order, what rounding a layer's inputs adds."""
    return _change(_numbers(slopes[id(inputs)]), rounded.numpy(), inputs.numpy())


def _numbers(slope: Any) -> np.ndarray | None:
    """A derivative as an array; None where the features do not depend on the weight."""
    import tensorflow as tf

    return None if slope is None else tf.convert_to_tensor(slope).numpy()


def _change(slope: np.ndarray | None, new: np.ndarray | None, old: np.ndarray | None) -> float:
    """To first order, what a new value of a variable adds."""
    return 0.0 if slope is None or new is None or old is None else float(np.vdot(slope, new - old))
