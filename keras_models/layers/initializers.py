"""Initial values, and how to skip them where a file will replace them at once."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import keras

from .. import kernels
from ..kernels import memory

_overwritten: ContextVar[bool] = ContextVar("overwritten", default=False)


@contextmanager
def to_be_overwritten() -> Iterator[None]:
    """Within this context, in this thread, the floating-point weights of towers start as zeros that cost nothing.

    Use it where a file will replace them. Random numbers take seconds to draw. Plain zeros take seconds, too: they
    fill memory, and JAX compiles a program for each shape.
    """
    token = _overwritten.set(True)
    try:
        yield
    finally:
        _overwritten.reset(token)


def starts_as(dtype: Any) -> Callable[..., Any] | None:
    """The initialiser that `to_be_overwritten` wants for a weight of a dtype; None for the layer's own."""
    # Whole numbers are counters, and cheap. NumPy has no bfloat16.
    if not _overwritten.get() or keras.backend.standardize_dtype(dtype) not in ("float16", "float32", "float64"):
        return None
    return _zeros


def _zeros(shape: tuple[int, ...], dtype: Any = None) -> Any:
    return kernels.tensor(memory.zeros(tuple(shape), keras.backend.standardize_dtype(dtype)))


class WeightInitializer(keras.initializers.TruncatedNormal):
    """keras.initializers.TruncatedNormal that heeds `to_be_overwritten`, in Keras' own layers too."""

    def __call__(self, shape: tuple[int, ...], dtype: Any = None) -> Any:
        initial = starts_as(dtype or keras.config.floatx())
        return super().__call__(shape, dtype) if initial is None else initial(shape, dtype)


def normal(stddev: float = 0.02) -> keras.initializers.Initializer:
    """A normal distribution cut at two standard deviations, as MobileCLIP's convolutions and dense layers start."""
    return WeightInitializer(stddev=stddev)
