"""Initial values, and how to skip them where they will be overwritten at once."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import keras

_overwritten: ContextVar[bool] = ContextVar("overwritten", default=False)


@contextmanager
def to_be_overwritten() -> Iterator[None]:
    """Within this context weights start as zeros: nothing random is drawn for values that a file will replace."""
    token = _overwritten.set(True)
    try:
        yield
    finally:
        _overwritten.reset(token)


def normal(stddev: float = 0.02) -> keras.initializers.Initializer:
    """A normal distribution cut at two standard deviations, as MobileCLIP's convolutions and dense layers start."""
    if _overwritten.get():
        return keras.initializers.Zeros()
    return keras.initializers.TruncatedNormal(stddev=stddev)
