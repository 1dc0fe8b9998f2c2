"""Initial values, and how to skip them where they will be overwritten at once."""

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import cache
from typing import Any

import keras

from ..kernels import memory

_overwritten: ContextVar[bool] = ContextVar("overwritten", default=False)


@contextmanager
def to_be_overwritten() -> Iterator[None]:
    """Within this context floating-point weights start as zeros that cost neither time nor memory.

    For weights that a file will replace. Drawing random numbers takes seconds, and so do mere zeros: memory is
    filled, and on JAX a program is compiled for each shape.
    """
    _install()
    token = _overwritten.set(True)
    try:
        yield
    finally:
        _overwritten.reset(token)


def normal(stddev: float = 0.02) -> keras.initializers.Initializer:
    """A normal distribution cut at two standard deviations, as MobileCLIP's convolutions and dense layers start."""
    return keras.initializers.TruncatedNormal(stddev=stddev)


@cache
def _install() -> None:
    """Makes Keras' variables heed the context. Outside of it, and in other threads, they start as ever.

    Keras has no place to say this once for every layer, its own included.
    """
    usual = keras.Variable._initialize_with_initializer

    def initialize(variable: Any, initializer: Any) -> None:
        # Whole numbers are seeds and counters, and cheap.
        if _overwritten.get() and variable._dtype in ("float16", "float32", "float64"):
            with _without_scope():
                usual(variable, _zeros)
        else:
            usual(variable, initializer)

    keras.Variable._initialize_with_initializer = initialize


def _without_scope() -> AbstractContextManager[None]:
    """Within this context, TensorFlow's own name of a new variable is without the layers it lies in.

    TensorFlow makes a program for each name and shape, which takes half a millisecond: a second for a model whose
    variables all have names of their own, a tenth where all kernels are called "kernel". Keras' paths stay whole.
    """
    if keras.backend.backend() == "tensorflow":
        return sys.modules["tensorflow"].name_scope("")
    return nullcontext()


def _zeros(shape: tuple[int, ...], dtype: str) -> Any:
    return memory.tensor(memory.zeros(shape, dtype))
