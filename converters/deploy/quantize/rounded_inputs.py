"""Layers that compute in integers: what they are given is rounded at every call.

A runtime rounds each row to 8 bits between its own least and largest number, or 0 where that lies beyond. This is what
XNNPACK does, which computes for LiteRT: `qd8` in the names of its programs.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from keras import ops

from ....keras_models import kernels
from ....keras_models.models.image_encoder import ImageProjectionHead
from ..runtimes.registry import Runtime
from .options import Plan
from .rounding import BITS
from .weights import Weight

STEPS = 255
"""Between the least and the largest number of a row."""
OTHER_STEPS = (248, 262, 269)
"""With so many, errors are as large, and each number has another one."""

Given = Callable[[Weight, Any, Any], Any]
"""Of a layer's weight, its inputs and these rounded: what the layer shall compute with."""


def to_bytes(rows: Any, size: int, steps: int = STEPS) -> Any:
    """Rows rounded to 8 bits.

    Args:
        rows: float (..., inputs).
        size: how many neighbours in a row have levels of their own; it divides the row.
        steps: between the least and the largest of them.

    Returns:
        Float of the same shape. 0 stays 0.
    """
    parts = ops.reshape(rows, (-1, size))
    least = ops.minimum(ops.min(parts, -1, keepdims=True), 0.0)
    largest = ops.maximum(ops.max(parts, -1, keepdims=True), 0.0)
    step = (largest - least) / steps
    step = ops.where(step > 0, step, ops.ones_like(step))
    first = ops.round(least / step)
    levels = ops.clip(ops.round(parts / step), first, first + steps)
    return ops.reshape(levels * step, ops.shape(rows))


def in_integers(weights: Iterable[Weight], plan: Plan, runtime: Runtime) -> list[Weight]:
    """The weights whose layers compute in integers in a runtime's file."""
    return [each for each in weights if each.kind in runtime.integers and plan[each.name] in BITS]


def as_rounded(weight: Weight, inputs: Any, rounded: Any) -> Any:
    """What a runtime computes with."""
    return rounded


@contextmanager
def rounded_inputs(weights: Iterable[Weight], given: Given = as_rounded, steps: int = STEPS) -> Iterator[None]:
    """Within this context, layers round what they are given.

    Args:
        weights: of these dense layers.
        given: what they compute with instead of the rounded inputs.
        steps: between the least and the largest number of a row.
    """
    watched = list(weights)
    for weight in watched:
        weight.layer.call = _rounding(weight, weight.layer.call, given, steps)
    try:
        yield
    finally:
        for weight in watched:
            del weight.layer.call  # the class's own comes back


def _rounding(weight: Weight, call: Callable[..., Any], given: Given, steps: int) -> Callable[..., Any]:
    size = weight.group or int(np.prod(weight.variable.shape[:-1]))

    def rounding(inputs: Any, **options: Any) -> Any:
        if isinstance(weight.layer, ImageProjectionHead) and len(inputs.shape) == 4:
            inputs = kernels.mean_over_positions(inputs)  # as it does
        return call(given(weight, inputs, to_bytes(inputs, size, steps)), **options)

    return rounding
