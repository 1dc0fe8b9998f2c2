"""Weights rounded to few levels for each output channel, as floats that a file can store as integers without a loss."""

import numpy as np

BITS = {"int8": 8, "int4": 4}
SMALLEST = 1024
"""Weights with fewer numbers stay float32: their scales would take what their levels save."""
SMALLEST_PART = 256
"""The same of the arrays of a file, which may hold a weight in parts."""
HALF_ERROR = 2.0**-10
"""Twice the largest relative error of a number that float16 has all its digits for."""
_STEPS = 8
"""Of the search for the best clipping; it settles after five."""
_ON_LEVEL = 1e-3
"""How far from a level a number may be, in steps: it was multiplied by a float32 once or twice."""
_SAMPLE = 64
"""Channels that are looked at before all are."""

Axes = tuple[int, ...]


def rounded(array: np.ndarray, channels: Axes, bits: int) -> np.ndarray:
    """The nearest of 2 ** bits - 1 levels, even and around 0, that have a scale for each channel.

    Numbers beyond the outermost level are clipped to it. Where that lies follows from the least squared error ("Optimal
    Clipping and Magnitude-aware Differentiation", arXiv 2206.06501, equation 6); a channel that gains nothing by it is
    not clipped.

    Args:
        array: float32.
        channels: the axes that count channels; none for a table that has one scale, which is not clipped: most of its
            rows are of words that hardly anybody uses, and their error would say how much those in use lose.
        bits: of a level.

    Returns:
        Float32 of the same shape. Each channel has a number at its outermost level, so the scale can be read off it.
    """
    if not channels:
        return _to_levels(array, np.abs(array).max(), 2 ** (bits - 1) - 1)
    rows, shape = _by_channel(array, channels)
    made = np.empty_like(rows)
    size = max((1 << 22) // max(rows.shape[1], 1), 1)  # rows that the processor's cache holds
    for start in range(0, len(rows), size):
        made[start : start + size] = _rounded_rows(rows[start : start + size], bits)
    return _back(made, shape, channels)


def _rounded_rows(rows: np.ndarray, bits: int) -> np.ndarray:
    levels = 2 ** (bits - 1) - 1
    sizes = np.abs(rows)
    largest = sizes.max(1, keepdims=True)
    limit = sizes.mean(1, keepdims=True)
    for _ in range(_STEPS):
        beyond = sizes > limit
        within = (sizes > 0).sum(1, keepdims=True) - beyond.sum(1, keepdims=True)
        limit = (sizes * beyond).sum(1, keepdims=True) / np.maximum(
            within * 4.0**-bits / 3 + beyond.sum(1, keepdims=True), 1e-30
        )
    clipped, plain = (_to_levels(rows, each, levels) for each in (np.minimum(limit, largest), largest))
    better = np.square(clipped - rows).sum(1) < np.square(plain - rows).sum(1)
    return np.where(better[:, None], clipped, plain)


def _to_levels(rows: np.ndarray, limit: np.ndarray, levels: int) -> np.ndarray:
    scale = np.where(limit > 0, limit / levels, 1).astype(np.float32)
    return np.clip(np.rint(rows / scale), -levels, levels).astype(np.float32) * scale


def to_half(array: np.ndarray) -> np.ndarray:
    """The nearest numbers of float16, as float32. What would leave its range stays at its end."""
    limits = np.finfo(np.float16)
    return np.clip(array, limits.min, limits.max).astype(np.float16).astype(np.float32)


def fits_half(array: np.ndarray) -> bool:
    """Whether float16 holds an array with the relative error that it has for most numbers.

    It does not where numbers are beyond its range, or most are so small that it has few digits for them.
    """
    wide = array.astype(np.float64)
    return bool(np.linalg.norm(to_half(array) - wide) <= HALF_ERROR * np.linalg.norm(wide))


def smallest_type(array: np.ndarray, channels: Axes, allowed: tuple[str, ...] = ("int4", "int8")) -> str:
    """The smallest of "int4", "int8", "float16" and "float32" that holds an array as it is.

    Args:
        array: float32.
        channels: the axes that count channels.
        allowed: the integers that may be told.
    """
    if array.size < SMALLEST_PART:
        return "float32"
    rows, _ = _by_channel(array, channels)
    for name in allowed:
        if _on_levels(rows[:_SAMPLE], BITS[name]) and _on_levels(rows, BITS[name]):
            return name
    with np.errstate(over="ignore"):
        return "float16" if np.array_equal(array.astype(np.float16).astype(np.float32), array) else "float32"


def how_stored(array: np.ndarray, channels: Axes, allowed: tuple[str, ...] = ("int4", "int8")) -> tuple[str, Axes]:
    """The smallest type that holds an array as it is, and the axes that count its scales: none where all share one.

    Args:
        array: float32.
        channels: the axes that count channels.
        allowed: the integers that may be told.
    """
    for axes in ((), channels):  # one scale is the least to keep
        kind = smallest_type(array, axes, allowed)
        if kind in BITS:
            return kind, axes
    return kind, channels


def to_integers(array: np.ndarray, channels: Axes, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """What `rounded` made, as integers and their scales.

    Returns:
        int8 of the array's shape, and float32 (channels,).
    """
    rows, shape = _by_channel(array, channels)
    scale = _scale(rows, bits)
    return _back(np.rint(rows / scale).astype(np.int8), shape, channels), scale[:, 0]


def _scale(rows: np.ndarray, bits: int) -> np.ndarray:
    largest = np.abs(rows).max(1, keepdims=True)
    return np.where(largest > 0, largest / (2 ** (bits - 1) - 1), 1).astype(np.float32)


def _on_levels(rows: np.ndarray, bits: int) -> bool:
    levels = rows / _scale(rows, bits)
    return bool(np.all(np.abs(levels - np.rint(levels)) < _ON_LEVEL))


def _by_channel(array: np.ndarray, channels: Axes) -> tuple[np.ndarray, tuple[int, ...]]:
    """A row for each channel, and the shape before the rows were made."""
    moved = np.moveaxis(array, channels, range(len(channels)))
    count = int(np.prod(moved.shape[: len(channels)]))
    return np.ascontiguousarray(moved).reshape(count, -1), moved.shape


def _back(rows: np.ndarray, shape: tuple[int, ...], channels: Axes) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(rows.reshape(shape), range(len(channels)), channels))
