"""Variables that take over memory, lend it and are filled in, on every backend."""

from typing import Any

import keras
import numpy as np
import pytest

from mobileclip_keras.keras_models import kernels
from mobileclip_keras.keras_models.kernels import memory, plain_runtime

pytestmark = pytest.mark.backend

RANDOM = np.random.default_rng(0)


def test_variables_take_over_memory_that_is_aligned() -> None:
    array, variable = memory.empty((300, 50), "float32"), keras.Variable(np.zeros((300, 50), "float32"))
    array[...] = RANDOM.normal(size=array.shape)
    memory.hand_over(variable, array)
    assert np.array_equal(keras.ops.convert_to_numpy(variable), array)
    seen = kernels.view(variable)
    assert seen is not None and seen.ctypes.data == array.ctypes.data


@pytest.mark.parametrize(("shape", "depthwise"), [((3, 3, 4, 8), False), ((7, 7, 16, 1), True), ((7, 7, 16, 2), True)])
def test_a_kernel_that_is_laid_out_keeps_its_numbers_and_takes_new_ones(
    shape: tuple[int, ...], depthwise: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = (RANDOM.random(shape, "float32") for _ in range(3))
    variable = keras.Variable(first)
    kernels.lay_out_as_convolved(variable, depthwise)
    assert np.array_equal(keras.ops.convert_to_numpy(variable), first)
    memory.fill(variable, second)
    assert np.array_equal(keras.ops.convert_to_numpy(variable), second)
    variable.assign(third)
    assert np.array_equal(keras.ops.convert_to_numpy(variable), third)
    if keras.backend.backend() == "torch":
        import torch

        seen: list[bool] = []

        def convolve(images: Any, filters: Any, *others: Any) -> Any:
            seen.append(filters.is_contiguous() or filters.is_contiguous(memory_format=torch.channels_last))
            assert filters.untyped_storage().data_ptr() == variable.value.untyped_storage().data_ptr()
            return original(images, filters, *others)

        original = torch.conv2d
        monkeypatch.setattr(torch, "conv2d", convolve)
        kernels.convolve(keras.ops.ones((1, 9, 9, shape[2])), variable.value, depthwise=depthwise)
        assert seen == [True], "PyTorch would copy it for each image"


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16"])
def test_filled_variables_hold_what_assigned_ones_do(axes: tuple[int, ...], dtype: str) -> None:
    array = RANDOM.random((2 * memory.STRIP + 1, 3, memory.STRIP + 1), "float32").transpose(axes)
    filled, assigned = (keras.Variable(np.zeros(array.shape), dtype=dtype) for _ in range(2))
    memory.fill(filled, array)
    assigned.assign(array)
    assert np.array_equal(keras.ops.convert_to_numpy(filled), keras.ops.convert_to_numpy(assigned))


def test_numbers_are_filled_in() -> None:
    variable = keras.Variable(np.zeros(()), dtype="float32")
    memory.fill(variable, np.array(3.5))
    assert float(keras.ops.convert_to_numpy(variable)) == 3.5


@pytest.mark.parametrize("name", ["tensor", "hand_over", "view", "is_on_host"])
def test_the_plain_ways_of_sharing_memory_work_on_every_backend(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend without ways of its own copies."""
    array, variable = memory.empty((30, 5), "float32"), keras.Variable(np.zeros((30, 5), "float32"))
    array[...] = RANDOM.normal(size=array.shape)
    monkeypatch.setattr(kernels, name, getattr(plain_runtime, name))
    plain_runtime.hand_over(variable, array)
    assert np.array_equal(keras.ops.convert_to_numpy(variable), array)
    assert np.array_equal(keras.ops.convert_to_numpy(plain_runtime.tensor(array)), array)
    assert plain_runtime.view(variable) is None
