"""NumPy arrays that become the memory of variables, so that a large array is copied once at most.

Each backend copies what it is given in its own way: TensorFlow every array, PyTorch twice, JAX what is not aligned.
"""

import gc
import math
import mmap
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

ALIGNMENT = 64
"""Bytes; TensorFlow and JAX share no memory that begins elsewhere than at a multiple of it."""

OWN_PAGES = 2**20
"""Bytes; larger arrays get pages of their own, zeros, from the system. NumPy would ask for pages of 2 MB each, which a
virtual machine may have to get back from its host first: 0.2 s for the token embedding, in place of 0.05."""

STRIP = 32
"""Numbers of the last axis that are copied at a time where the axes are exchanged on the way.

Along all of it, each number read lies in another page than the one before; a strip's pages stay at hand.
"""


@contextmanager
def no_collection() -> Iterator[None]:
    """Within this context Python does not look for circles of garbage.

    Making thousands of objects has it look again and again, at all that the frameworks keep as well: 0.2 s a look.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def empty(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """An array that backends can share, of whatever numbers."""
    return _aligned(np.empty, shape, dtype)


def zeros(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """An array of zeros that backends can share. A large one takes memory only where it is written to."""
    return _aligned(np.zeros, shape, dtype)


def _aligned(allocate: Callable[..., np.ndarray], shape: tuple[int, ...], dtype: str) -> np.ndarray:
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size >= OWN_PAGES:
        # "Copy": a process forked later gets a copy of its own.
        return np.frombuffer(mmap.mmap(-1, size, access=mmap.ACCESS_COPY), dtype).reshape(shape)
    memory = allocate(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def tensor(array: np.ndarray) -> Any:
    """A tensor that shares the memory of an array of `empty` or `zeros`, where the backend can."""
    # By Keras' own function, TensorFlow and PyTorch copy it. Keras has imported them.
    if keras.backend.backend() == "tensorflow":
        return sys.modules["tensorflow"].experimental.dlpack.from_dlpack(array.__dlpack__())
    if keras.backend.backend() == "torch":
        return sys.modules["torch"].from_numpy(array)
    return keras.ops.convert_to_tensor(array, dtype=str(array.dtype))


def fill(variable: keras.Variable, array: np.ndarray) -> None:
    """`variable.assign(array)`, with one copy. The array may be a view of any strides and dtype."""
    dtype = keras.backend.standardize_dtype(variable.dtype)
    if not _can_share(variable, dtype, array.shape):
        variable.assign(array)
        return
    memory = empty(array.shape, dtype)
    copy(memory, array)
    hand_over(variable, memory)


def copy(memory: np.ndarray, array: np.ndarray) -> None:
    """`memory[...] = array`, ten times as fast where a large array's axes were exchanged."""
    with np.errstate(over="ignore"):  # as in every backend, what is too large becomes infinite
        if array.flags.c_contiguous:
            memory[...] = array
        else:
            for start in range(0, array.shape[-1], STRIP):
                memory[..., start : start + STRIP] = array[..., start : start + STRIP]


def hand_over(variable: keras.Variable, array: np.ndarray) -> None:
    """Gives the memory of an array of `empty` to a variable of its dtype; nobody may write to it afterwards."""
    if not _can_share(variable, str(array.dtype), array.shape):
        variable.assign(array)
    elif keras.backend.backend() == "torch":
        variable.value.data = tensor(array)
    elif keras.backend.backend() == "tensorflow":
        variable.value.assign(tensor(array), read_value=False)  # Keras lets it make something to read it by
    else:
        variable.assign(tensor(array))


def _can_share(variable: keras.Variable, dtype: str, shape: tuple[int, ...]) -> bool:
    """Whether a variable can take over host memory. NumPy does not export bfloat16."""
    if dtype not in ("float16", "float32", "float64") or dtype != keras.backend.standardize_dtype(variable.dtype):
        return False
    if keras.backend.backend() == "torch" and variable.value.device.type != "cpu":
        return False
    return tuple(shape) == tuple(variable.shape)


def view(variable: keras.Variable) -> np.ndarray | None:
    """The value of a variable, for reading at once; None where it would have to be copied from a device."""
    value, array = variable.value, None
    if keras.backend.backend() == "tensorflow":
        if "CPU" in value.device and value.dtype.name != "bfloat16":
            array = np.asarray(memoryview(value.value()))
    elif keras.backend.backend() == "torch":
        if value.device.type == "cpu" and str(value.dtype) != "torch.bfloat16":
            array = value.detach().numpy()
    elif {device.platform for device in value.devices()} == {"cpu"}:
        array = np.asarray(value)
    return array
