"""Tensors beside a model's own that carry nothing: what they are is told by their values."""

import math

import numpy as np

from .formats.tensor_file import CheckpointError, TensorFile

CAUSAL, NO_MASK = "a causal mask", "a mask of nothing"
LONGEST_MASK = 4096


def carries_nothing(tensors: TensorFile, name: str) -> str | None:
    """What a tensor is, if a model can be built without it; None where it carries something.

    Counters, the numbers 0, 1, 2 ... of positions, and masks of attention carry nothing. A causal mask says that a
    text tower is causal, though.
    """
    shape, dtype = tensors.shapes[name], tensors.dtypes[name]
    whole = "int" in dtype and not dtype.startswith("q")
    if (whole or dtype == "bool") and math.prod(shape) == 1:
        return "a counter"
    if whole and 0 < math.prod(shape) <= LONGEST_MASK:
        values = _values(tensors, name)
        return "the numbers of positions" if values is not None and _counts(values) else None
    if "mask" in name.rpartition(".")[2] and len(shape) >= 2 and 1 < shape[-1] == shape[-2] <= LONGEST_MASK:
        return _mask(_values(tensors, name)) if math.prod(shape[:-2]) == 1 else None
    return None


def _values(tensors: TensorFile, name: str) -> np.ndarray | None:
    try:
        return tensors.read(name).reshape(tensors.shapes[name])
    except (CheckpointError, ValueError, TypeError, RuntimeError):
        return None


def _counts(values: np.ndarray) -> bool:
    return values.size == values.shape[-1] and bool(np.array_equal(values.reshape(-1), np.arange(values.size)))


def _mask(values: np.ndarray | None) -> str | None:
    """Which mask a square array is: of booleans that say what is hidden, or of numbers that are added."""
    if values is None or values.dtype.kind not in "bf":
        return None
    square = values.reshape(values.shape[-2:])
    later = np.triu(np.ones(square.shape, bool), 1)
    # Some code writes the lowest number in place of minus infinity.
    hidden = square if square.dtype.kind == "b" else square <= -1e4
    shown = ~square if square.dtype.kind == "b" else square == 0
    if not (hidden ^ shown).all():
        return None
    if np.array_equal(hidden, later):
        return CAUSAL
    return NO_MASK if not hidden.any() else None
