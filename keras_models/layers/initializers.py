"""Initial values, and how to skip them where a file will replace them at once."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import keras
import numpy as np

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
    """keras.initializers.TruncatedNormal that heeds `to_be_overwritten`, in Keras' own layers too.

    NumPy draws the numbers: JAX would compile a program for each shape, most of a second each. So a seed gives the
    same weights on every backend.
    """

    def __call__(self, shape: tuple[int, ...], dtype: Any = None) -> Any:
        dtype = keras.backend.standardize_dtype(dtype or keras.config.floatx())
        if (initial := starts_as(dtype)) is not None:
            return initial(shape, dtype)
        if not isinstance(self.seed, int):  # a SeedGenerator has a state that the backend keeps
            return super().__call__(shape, dtype)
        return keras.ops.convert_to_tensor(self.mean + self.stddev * _truncated_normal(shape, self.seed), dtype)


def _truncated_normal(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Float32 numbers of the standard normal distribution, drawn again where they are beyond two."""
    generator = np.random.default_rng(seed)
    drawn = generator.standard_normal(shape, np.float32)
    while (beyond := np.abs(drawn) > 2).any():
        drawn[beyond] = generator.standard_normal(np.count_nonzero(beyond), np.float32)
    return drawn


def normal(stddev: float = 0.02) -> keras.initializers.Initializer:
    """A normal distribution cut at two standard deviations, as MobileCLIP's convolutions and dense layers start."""
    return WeightInitializer(stddev=stddev)
