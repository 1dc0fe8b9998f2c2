"""What layers are given: means, by which biases are corrected, second moments, by which rounding is, and samples.

A rounded kernel shifts the mean of what a layer puts out, and its bias takes that back ("Data-Free Quantization Through
Weight Equalization and Bias Correction", arXiv 1906.04721, section 4.2, with means that are measured).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from ....keras_models.models.image_encoder import ImageProjectionHead
from .weights import Weight

SAMPLED = 32
"""Positions of each row of a batch, or all where there are fewer."""


@dataclass
class Given:
    """What a layer was given.

    Attributes:
        rows: how many.
        mean: the mean input of each of a kernel's numbers, but for the channels that it puts out; of a table, how often
            each row is looked up, as parts of all.
        moment: (inputs, inputs): the sum of the products of two inputs of a dense layer, or of a convolution at one
            place; None for a depthwise one, and for a table.
        sample: (positions, inputs): some of what a dense layer was given, as it was; None for other layers.
    """

    rows: int
    mean: np.ndarray
    moment: np.ndarray | None
    sample: np.ndarray | None = None

    def add(self, other: "Given") -> "Given":
        """Both together."""
        rows = self.rows + other.rows
        mean = (self.rows * self.mean + other.rows * other.mean) / rows
        moment = None if self.moment is None or other.moment is None else self.moment + other.moment
        sample = None if self.sample is None or other.sample is None else np.concatenate([self.sample, other.sample])
        return Given(rows, mean, moment, sample)

    def divided(self, factors: np.ndarray) -> "Given":
        """As it would be if a dense layer's inputs, (inputs,), were divided by factors."""
        assert self.moment is not None and self.sample is not None
        moment = self.moment / np.outer(factors, factors)
        return Given(self.rows, self.mean / factors, moment, self.sample / factors)


Means = dict[str, Given]
"""By a weight's name."""


@contextmanager
def measuring(weights: list[Weight]) -> Iterator[Means]:
    """Within this context, calls of the layers add to what it gives."""
    found: Means = {}
    watched = [(weight, layer) for weight in weights for layer in (weight.layer, weight.attention) if layer is not None]
    for weight, layer in watched:
        layer.call = _recorded(weight, layer.call, found, picking=layer is weight.attention)
    try:
        yield found
    finally:
        for _, layer in watched:
            del layer.call  # the class's own comes back


def _recorded(weight: Weight, call: Callable[..., Any], found: Means, picking: bool) -> Callable[..., Any]:
    """A call that adds what it is given; an attention's does where it computes some positions, without its layer."""

    def recorded(inputs: Any, **options: Any) -> Any:
        if picking and options.get("picks") is None:
            return call(inputs, **options)
        numbers = np.asarray(keras.ops.convert_to_numpy(inputs))
        if isinstance(weight.layer, ImageProjectionHead) and numbers.ndim == 4:
            numbers = numbers.mean((1, 2))  # as it does
        given = Given(len(numbers), _mean(weight, numbers), _moment(weight, numbers), _sample(weight, numbers))
        found[weight.name] = found[weight.name].add(given) if weight.name in found else given
        return call(inputs, **options)

    return recorded


def _mean(weight: Weight, inputs: np.ndarray) -> np.ndarray:
    """Of a dense layer (inputs,), of a table (rows,), of a convolution (height, width, channels): a mean for each place
    of the kernel."""
    if weight.kind == "embedding":
        return np.bincount(inputs.reshape(-1), minlength=weight.variable.shape[0]) / inputs.size
    if weight.kind == "dense":
        return inputs.mean(tuple(range(inputs.ndim - 1)), dtype=np.float64)
    places = _places(weight, inputs.mean(0, dtype=np.float64)[None])
    return np.array([each.mean((0, 1, 2)) for each in places]).reshape(*weight.layer.kernel_size, -1)


def _moment(weight: Weight, inputs: np.ndarray) -> np.ndarray | None:
    if weight.kind in ("depthwise", "embedding"):
        return None
    if weight.kind == "convolution":
        inputs = np.concatenate(_places(weight, inputs), -1)
    flat = inputs.reshape(-1, inputs.shape[-1])
    return flat.T @ flat


def _sample(weight: Weight, inputs: np.ndarray) -> np.ndarray | None:
    if weight.kind != "dense":
        return None
    flat = inputs.reshape(-1, inputs.shape[-1])
    return flat[np.linspace(0, len(flat) - 1, min(SAMPLED * len(inputs), len(flat))).astype(int)]


def _places(weight: Weight, images: np.ndarray) -> list[np.ndarray]:
    """What each place of a convolution's kernel is multiplied with, (batch, height, width, channels) each."""
    layer = weight.layer
    images = np.pad(images, ((0, 0), *((size, size) for size in layer.margins), (0, 0)))
    step = layer.strides
    rows, columns = layer.kernel_size
    high, wide = ((total - size) // step + 1 for total, size in zip(images.shape[1:3], layer.kernel_size, strict=True))
    return [
        images[:, y : y + step * high : step, x : x + step * wide : step] for y in range(rows) for x in range(columns)
    ]


def shift(weight: Weight, change: np.ndarray, means: Means) -> np.ndarray | None:
    """What a change of a kernel adds to the mean of each channel; None where no mean was measured."""
    if weight.name not in means:
        return None
    mean = means[weight.name].mean
    if weight.kind in ("dense", "embedding"):
        return (mean @ change).astype(np.float32)
    pattern = "yxc,yxcm->cm" if weight.kind == "depthwise" else "yxc,yxcm->m"
    return np.einsum(pattern, mean, change).reshape(-1).astype(np.float32)
