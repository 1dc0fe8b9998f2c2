"""What each weight may become: its numbers and its layer's bias, in each precision."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..runtimes.registry import Runtime
from .compensation import compensated
from .means import Means, shift
from .rounding import BITS, rounded, to_half
from .row_scales import by_rows
from .weights import KINDS, Weight

Plan = Mapping[str, str]
"""A precision for each weight, by name: one of PRECISIONS."""
PRECISIONS = ("int4", "int8", "float16", "float32")
"""From the smallest to the largest."""


@dataclass(frozen=True)
class Option:
    """A weight in one precision.

    Attributes:
        kernel: its numbers, as float32.
        bias: the layer's bias, which takes back the shift of the means, or the error of a table's commonest row; None
            where it stays.
        bytes: that a file takes for it.
        stored: of a table whose rows have factors, its numbers without them, and the factors; None for `kernel` itself.
    """

    kernel: np.ndarray
    bias: np.ndarray | None
    bytes: float
    stored: tuple[np.ndarray, np.ndarray] | None = None


Options = dict[str, dict[str, Option]]
"""By weight and precision."""


def option(weight: Weight, precision: str, means: Means) -> Option:
    """A weight in a precision."""
    value = weight.value()
    if precision == "float32":
        return Option(value, None, 4 * value.size)
    if precision == "float16":
        return Option(to_half(value), None, 2 * value.size)
    bits = BITS[precision]
    if weight.kind == "embedding":
        return _table(weight, value, means, bits)
    kernel = _on_levels(weight, value, means, bits)
    apart = len(weight.parts) or len(value) // (weight.group or len(value))
    scales = apart * int(np.prod([value.shape[axis] for axis in weight.channels]))
    moved, bias = shift(weight, kernel - value, means), weight.bias_value()
    corrected = None if moved is None or bias is None else bias - moved
    return Option(kernel, corrected, value.size * bits / 8 + 4 * scales)


def _table(weight: Weight, value: np.ndarray, means: Means, bits: int) -> Option:
    """A table of embeddings. The row that is looked up most often has no error.

    That is the row of padding, which stands at most positions of most texts. Its error is the same at all of them and
    adds up to more than that of all other rows: docs/deploy.md has the numbers. So it is taken off all rows before they
    are rounded, and the embeddings of positions, which are floats, give it back.
    """
    positions = weight.bias_value()
    measured = weight.name in means and positions is not None  # else nothing could give the error back
    often = int(means[weight.name].mean.argmax()) if measured else None
    if weight.channels:
        kernel, stored, scales = rounded(value, weight.channels, bits), None, 4 * len(value)
        if often is not None:
            kernel = rounded(value - (value[often] - kernel[often]), weight.channels, bits)
    else:
        table, factors = by_rows(value, bits, often)
        kernel, stored, scales = table * factors, (table, factors), len(value)
    given_back = None if often is None or positions is None else positions + (value[often] - kernel[often])
    return Option(kernel, given_back, value.size * bits / 8 + scales, stored)


def _on_levels(weight: Weight, value: np.ndarray, means: Means, bits: int) -> np.ndarray:
    """A weight's numbers on levels; where its layer's inputs were measured, they make up for each other's error."""
    if weight.parts:
        kernel = value.copy()
        for part in weight.parts:
            kernel[part] = rounded(value[part], weight.channels, bits)
        return kernel
    moment = means[weight.name].moment if weight.name in means else None
    size = weight.group or len(value)
    if moment is None:
        parts = [rounded(value[start : start + size], weight.channels, bits) for start in range(0, len(value), size)]
        return np.concatenate(parts)
    flat = value.reshape(-1, value.shape[-1])
    size = weight.group or len(flat)
    places = [slice(start, start + size) for start in range(0, len(flat), size)]
    return np.concatenate([compensated(flat[each], moment[each, each], bits) for each in places]).reshape(value.shape)


def precisions(weight: Weight, runtime: Runtime) -> tuple[str, ...]:
    """Those that a weight may have in a runtime's files, from the smallest."""
    held = {"int4": runtime.int4, "int8": runtime.int8}
    return tuple(each for each in PRECISIONS if weight.kind in held.get(each, KINDS))


def uniform_plan(weights: list[Weight], precision: str, runtime: Runtime) -> dict[str, str]:
    """One precision for all, or the next larger where a weight cannot have it."""
    larger = PRECISIONS[PRECISIONS.index(precision) :]
    return {each.name: next(one for one in larger if one in precisions(each, runtime)) for each in weights}
