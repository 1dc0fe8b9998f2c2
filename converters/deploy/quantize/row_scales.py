"""A table of embeddings with a scale for each row, where a file keeps one for all.

LiteRT keeps 4 bytes for each scale, which is much of a narrow row. So rows are brought to one range, and what the
look-up gives is multiplied by the row's own factor, which is looked up, too: one byte a row.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from .rounding import rounded

NAME = "/row_scales"
"""Behind the name of a table: the name of its factors."""
_LEVELS = 127
"""Of the factors, even and above 0: a file stores them in 8 bits without a loss."""


def by_rows(table: np.ndarray, bits: int, exact: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """A table on levels, each row with a factor of its own.

    Args:
        table: float32 (rows, numbers).
        bits: of a level.
        exact: a row whose error is taken off all rows before they are rounded, and added after the look-up; None for
            none.

    Returns:
        Float32 (rows, numbers) from -1 to 1, all of one scale, and float32 (rows, 1). Their product is near the table,
        less that error.
    """
    levels = 2 ** (bits - 1) - 1
    limits = np.abs(rounded(table, (0,), bits)).max(1, keepdims=True)
    step = max(float(limits.max()), 1e-30) / _LEVELS
    factors = (np.clip(np.ceil(limits / step - 1e-4), 1, _LEVELS) * step).astype(np.float32)

    def to_levels(rows: np.ndarray, factors: np.ndarray) -> np.ndarray:
        return np.clip(np.rint(rows / factors * levels), -levels, levels).astype(np.float32) / levels

    if exact is not None:
        table = table - (table[exact] - to_levels(table[exact], factors[exact]) * factors[exact])
    return to_levels(table, factors), factors


@contextmanager
def multiplied(layer: Any, factors: np.ndarray) -> Iterator[None]:
    """Within this context, an embedding layer multiplies what it looks up by the factors of the rows."""
    from ....keras_models import kernels

    look_up = layer.call

    def call(ids: Any, **options: Any) -> Any:
        return look_up(ids, **options) * kernels.embed(np.asarray(factors), ids)

    layer.call = call
    try:
        yield
    finally:
        del layer.call  # the class's own comes back
