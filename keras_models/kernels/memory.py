"""NumPy arrays that become the memory of variables, so that a large array is copied once at most.

Left to itself, TensorFlow copies every array that it is given, PyTorch copies it twice, and JAX copies what is not
aligned. Each backend's file has its way of sharing an array.
"""

import gc
import math
import mmap
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import keras
import numpy as np

from . import hand_over as _hand_over
from . import is_on_host

ALIGNMENT = 64
"""Bytes. TensorFlow and JAX share only memory that begins at a multiple of it."""

OWN_PAGES = 2**20
"""Bytes. Larger arrays get pages of their own, filled with zeros, from the system. NumPy would ask for pages of 2 MB
each, which a virtual machine may have to get back from its host first: 0.2 s for the token embedding, not 0.05."""

STRIP = 32
"""Numbers of the last axis that are copied at a time where a copy exchanges the axes.

Along the whole axis, each number read would lie in another page than the one before. A strip's pages stay at hand.
"""


@contextmanager
def no_collection() -> Iterator[None]:
    """Within this context Python does not look for circles of garbage.

    While thousands of objects are made, Python looks again and again at all that the frameworks keep: 0.2 s a look.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def quick_collections() -> Iterator[None]:
    """Within this context, whoever has Python look for garbage has it look among new objects alone.

    Keras does for each weight that it takes from a layer: 0.3 s, for each of the hundred layers that are quantised.
    """
    frozen = gc.get_freeze_count() > 0  # by somebody else
    if not frozen:
        gc.freeze()
    try:
        yield
    finally:
        if not frozen:
            gc.unfreeze()


def empty(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """An uninitialised array that backends can share."""
    return _aligned(np.empty, shape, dtype)


def zeros(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """An array of zeros that backends can share. A large one takes memory only where somebody writes to it."""
    return _aligned(np.zeros, shape, dtype)


def _aligned(allocate: Callable[..., np.ndarray], shape: tuple[int, ...], dtype: str) -> np.ndarray:
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size >= OWN_PAGES:
        # "Copy": a process forked later gets a copy of its own.
        return np.frombuffer(mmap.mmap(-1, size, access=mmap.ACCESS_COPY), dtype).reshape(shape)
    memory = allocate(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def fill(variable: keras.Variable, array: np.ndarray) -> None:
    """`variable.assign(array)` with one copy. The array may be a view of any strides and dtype."""
    dtype = keras.backend.standardize_dtype(variable.dtype)
    if not _can_share(variable, dtype, array.shape):
        variable.assign(array)
        return
    memory = empty(array.shape, dtype)
    copy(memory, array)
    hand_over(variable, memory)


def copy(memory: np.ndarray, array: np.ndarray) -> None:
    """`memory[...] = array`, ten times as fast where the copy exchanges the axes of a large array."""
    with np.errstate(over="ignore"):  # what is too large becomes infinite, as in every backend
        if array.flags.c_contiguous:
            memory[...] = array
        else:
            for start in range(0, array.shape[-1], STRIP):
                memory[..., start : start + STRIP] = array[..., start : start + STRIP]


def hand_over(variable: keras.Variable, array: np.ndarray) -> None:
    """Gives an array of `empty` to a variable of its dtype, as its memory. Nobody may write to it afterwards."""
    if _can_share(variable, str(array.dtype), array.shape):
        _hand_over(variable, array)
    else:
        variable.assign(array)


def _can_share(variable: keras.Variable, dtype: str, shape: tuple[int, ...]) -> bool:
    """Whether a variable can take over host memory. NumPy does not export bfloat16."""
    if dtype not in ("float16", "float32", "float64") or dtype != keras.backend.standardize_dtype(variable.dtype):
        return False
    return tuple(shape) == tuple(variable.shape) and is_on_host(variable)
