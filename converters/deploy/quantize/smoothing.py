"""Channels of what dense layers are given, brought nearer to each other, so that rounding costs less.

One step serves a whole row of inputs, and a few channels of a transformer are many times larger than the rest. So the
layer before divides each channel by a factor, and the dense layer's kernel is multiplied by it: "SmoothQuant: Accurate
and Efficient Post-Training Quantization for Large Language Models", arXiv 2211.10438, section 4. Factors are powers of
2, so in floats nothing changes at all.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from ....keras_models.blocks.attention import SelfAttention
from ....keras_models.blocks.blocks import TransformerBlock
from ....keras_models.blocks.feed_forward import ConvFeedForward
from ....keras_models.layers.normalization import LayerNorm
from ....keras_models.layers.paths import layers_by_path
from ....keras_models.store.variables import variables_by_name
from .means import Given, Means
from .weights import Weight

STRENGTHS = (0.25, 0.5, 0.75, 1.0)
"""How much of the difference between channels goes from the inputs into the kernel. They are tried, and the best is
taken."""
GAIN = 2.0
"""How many times smaller the inputs' error must become. Rounding one weight after the other makes up for much of the
kernel's error (compensation.py), and for less where the kernel was multiplied: so a small gain is none."""
LARGEST = 2.0**8
"""Factor, and one over the smallest: a channel that was hardly seen is not trusted further."""
LEVELS = 255
"""Between the ends of a row of inputs, and of an output's weights."""


@dataclass(frozen=True)
class Source:
    """Where a dense layer's inputs come from.

    Attributes:
        dense: the layer.
        divided: the variables that the factors divide, each with the axis, and the place from which on.
    """

    dense: Any
    divided: tuple[tuple[Any, int, int], ...]


def sources_of(encoder: Any) -> Iterator[Source]:
    """The dense layers of a tower whose inputs come from a layer that can take factors: a norm, a depthwise
    convolution, or the values of attention. GELU, behind which the others stand, cannot."""
    for _, layer in layers_by_path(encoder):
        if isinstance(layer, TransformerBlock):
            yield _behind_norm(layer.attn.qkv, layer.norm1)
            yield _behind_norm(layer.mlp.fc1, layer.norm2)
        elif isinstance(layer, SelfAttention):
            values = 2 * layer.proj.kernel.shape[0]  # behind queries and keys
            yield Source(layer.proj, tuple((each, -1, values) for each in _present(layer.qkv.kernel, layer.qkv.bias)))
        elif isinstance(layer, ConvFeedForward):
            yield Source(layer.fc1, ((layer.conv.kernel, 2, 0), (layer.conv.bias, 0, 0)))
    norm = getattr(encoder.backbone, "final_norm", None) or getattr(encoder.backbone, "norm", None)
    if isinstance(norm, LayerNorm):
        yield _behind_norm(encoder.projection, norm)


def _behind_norm(dense: Any, norm: Any) -> Source:
    return Source(dense, ((norm.gamma, 0, 0), (norm.beta, 0, 0)))


def _present(*variables: Any) -> list[Any]:
    return [each for each in variables if each is not None]


def smooth(model: Any, weights: list[Weight], means: Means) -> dict[str, np.ndarray]:
    """Divides and multiplies a model's variables, in place.

    Args:
        model: in its inference form.
        weights: of the layers that may be rounded.
        means: what these are given. Of layers whose inputs are divided it changes as they do.

    Returns:
        The variables that changed, by name, as they are now.
    """
    names = {id(variable): name for name, variable in variables_by_name(model).items()}
    own = {id(weight.layer): weight for weight in weights if weight.kind == "dense"}
    changed: dict[str, Any] = {}
    for encoder in filter(None, (model.image_encoder, model.text_encoder)):
        for source in sources_of(encoder):
            weight = own.get(id(source.dense))
            if weight is None or weight.name not in means:
                continue
            factors = factors_of(weight, means[weight.name])
            if np.all(factors == 1):
                continue
            means[weight.name] = means[weight.name].divided(factors)
            weight.variable.assign(weight.value() * factors[:, None])
            changed[weight.name] = weight.variable
            for variable, axis, place in source.divided:
                array = np.array(keras.ops.convert_to_numpy(variable))
                np.moveaxis(array, axis, -1)[..., place:] /= factors
                variable.assign(array)
                changed[names[id(variable)]] = variable
    return {name: np.asarray(keras.ops.convert_to_numpy(variable)) for name, variable in changed.items()}


def factors_of(weight: Weight, given: Given) -> np.ndarray:
    """What a dense layer's inputs are best divided by, float32 (inputs,), powers of 2.

    Args:
        weight: of the layer.
        given: what it is given.
    """
    kernel = weight.value()
    size = weight.group or len(kernel)
    assert given.sample is not None
    inputs, rows = _sizes(np.abs(given.sample).max(0)), _sizes(np.abs(kernel).max(1))
    plain = expected_errors(kernel, given.sample, np.ones(len(kernel)), size)
    best, least = np.ones(len(kernel)), sum(plain)
    for strength in STRENGTHS:
        wanted = inputs**strength / rows ** (1 - strength)
        factors = 2.0 ** np.rint(np.log2(wanted / np.median(wanted)))
        factors = np.clip(factors, 1 / LARGEST, LARGEST)
        errors = expected_errors(kernel, given.sample, factors, size)
        if sum(errors) < least and errors[1] <= plain[1] / GAIN:
            best, least = factors, sum(errors)
    return best.astype(np.float32)


def _sizes(largest: np.ndarray) -> np.ndarray:
    """Without 0, of which there is no logarithm."""
    return np.maximum(largest.astype(np.float64), max(float(largest.max()), 1e-30) / LARGEST**2)


def expected_errors(kernel: np.ndarray, sample: np.ndarray, factors: np.ndarray, size: int) -> tuple[float, float]:
    """The mean squared error of a dense layer's outputs, summed over these, when each number is rounded for itself.

    Args:
        kernel: float32 (inputs, outputs).
        sample: of what the layer is given, (positions, inputs).
        factors: that inputs are divided by, (inputs,).
        size: how many neighbours have a step of their own.

    Returns:
        What rounding the kernel costs, and what rounding the inputs does.
    """
    inputs, scaled = sample / factors, kernel * factors[:, None]
    of_kernel = of_inputs = 0.0
    for start in range(0, len(kernel), size):
        given, part = inputs[:, start : start + size], scaled[start : start + size]
        steps = 2 * np.abs(part).max(0) / LEVELS
        of_kernel += float(np.square(steps).sum() / 12 * np.square(given).sum(1).mean())
        steps_of_rows = (np.maximum(given.max(1), 0) - np.minimum(given.min(1), 0)) / LEVELS
        of_inputs += float(np.square(steps_of_rows).mean() / 12 * np.square(part).sum())
    return of_kernel, of_inputs
