"""Memory of a step: the same for many chunks as for a few, and only their inputs for blocks that run again."""

import ctypes
import gc
import multiprocessing
import weakref
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from mobileclip_keras.keras_models import kernels

STATUS, FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")

pytestmark = pytest.mark.backend

WIDTH, OPERATIONS, ROWS = 512, 100, 16
FEW, MANY = 4, 68
BLOCKS = 10
KIB, MIB = 1 << 10, 1 << 20
BATCH = MANY * ROWS * WIDTH * 4
"""Bytes of the larger batch."""
KEPT = OPERATIONS * BATCH
"""Bytes that a gradient of the whole batch keeps."""
INPUTS = BLOCKS * BATCH + KEPT // BLOCKS
"""Bytes that a gradient needs if blocks run again: the inputs of all, and all that one of them keeps."""


Function = Callable[[Any, Any], Any]
"""From a weight and a batch to features."""


def run(weights: list[Any], state: list[Any], rows: Any) -> tuple[Any, list[Any]]:
    """As many operations as a few blocks have, each of which keeps its outputs for the gradient."""
    for _ in range(OPERATIONS):
        rows = keras.ops.tanh(rows * weights[0])
    return rows[:, :4], [state[0] + keras.ops.mean(rows)]


def in_chunks(weight: Any, rows: Any, size: int) -> Any:
    return kernels.in_chunks(run, [weight], [keras.ops.zeros(())], rows, size)[0]


def in_blocks(weight: Any, rows: Any, blocks: int) -> Any:
    for _ in range(blocks):
        rows, _ = kernels.recomputed(block, [weight], [keras.ops.zeros(())], rows)
    return rows


def block(weights: list[Any], state: list[Any], rows: Any) -> tuple[Any, list[Any]]:
    for _ in range(OPERATIONS // BLOCKS):
        rows = keras.ops.tanh(rows * weights[0])
    return rows, [state[0] + keras.ops.mean(rows)]


def read(name: str) -> int:
    (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * KIB


def grown(step: Callable[[], Any]) -> int:
    """By how many bytes a step raises the peak of this process."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # else what was freed before is used again, and not seen
    before = read("VmRSS")
    FORGET.write_text("5")
    step()
    return read("VmHWM") - before


def torch_peaks(function: Function, counts: tuple[int, ...]) -> list[int]:
    import torch

    def step(rows: Any) -> None:
        weight = torch.ones(WIDTH, requires_grad=True)
        (function(weight, rows) ** 2).sum().backward()

    step(torch.ones(2 * ROWS, WIDTH))
    batches = [torch.ones(count * ROWS, WIDTH) for count in counts]
    return [grown(lambda rows=rows: step(rows)) for rows in batches]


def tensorflow_peaks(function: Function, counts: tuple[int, ...]) -> list[int]:
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec((None, WIDTH))])
    def step(rows: Any) -> Any:
        weight = tf.ones(WIDTH)
        with tf.GradientTape() as tape:
            tape.watch(weight)
            value = tf.reduce_sum(function(weight, rows) ** 2)
        return tape.gradient(value, weight)

    step(tf.ones((2 * ROWS, WIDTH)))
    batches = [tf.ones((count * ROWS, WIDTH)) for count in counts]
    return [grown(lambda rows=rows: step(rows)) for rows in batches]


def jax_peaks(function: Function, counts: tuple[int, ...]) -> list[int]:
    """What XLA says of the program."""
    import jax

    def peak(count: int) -> int:
        rows = np.ones((count * ROWS, WIDTH), np.float32)
        program = jax.jit(jax.grad(lambda weight, rows: (function(weight, rows) ** 2).sum()))
        analysis = program.lower(np.ones(WIDTH, np.float32), rows).compile().memory_analysis()
        return int(analysis.temp_size_in_bytes)

    return [peak(count) for count in counts]


def torch_tensors(function: Function, counts: tuple[int, ...]) -> list[int]:
    """Of all tensors that are there at once, to the byte. The allocator keeps what it has, and large parts of it."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class Counting(TorchDispatchMode):
        now = most = 0

        def __init__(self) -> None:
            super().__init__()
            self.known: dict[int, int] = {}

        def leave_out(self, tensor: Any) -> None:
            self.known[tensor.untyped_storage()._cdata] = 0

        def __torch_dispatch__(self, operation: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
            results = operation(*args, **(kwargs or {}))
            for tensor in keras.tree.flatten(results):
                storage = tensor.untyped_storage() if isinstance(tensor, torch.Tensor) else None
                if storage is not None and storage._cdata not in self.known:
                    self.known[storage._cdata] = storage.nbytes()
                    self.now += storage.nbytes()
                    self.most = max(self.most, self.now)
                    weakref.finalize(storage, self.free, storage._cdata)
            return results

        def free(self, key: int) -> None:
            self.now -= self.known.pop(key)

    def most(rows: Any) -> int:
        weight = torch.ones(WIDTH, requires_grad=True)
        with Counting() as counting:
            counting.leave_out(rows)  # parts of it share its memory
            (function(weight, rows) ** 2).sum().backward()
        return counting.most

    return [most(torch.ones(count * ROWS, WIDTH)) for count in counts]


EXACT = {"torch": torch_tensors, "jax": jax_peaks}
PROCESS = {"torch": torch_peaks, "tensorflow": tensorflow_peaks}


def whole(weight: Any, rows: Any) -> Any:
    return run([weight], [0.0], rows)[0]


def measure(peaks: Callable[[Function, tuple[int, ...]], list[int]]) -> dict[str, int]:
    """The smallest first: allocators use again what was freed, and it is not seen."""
    few, many = peaks(partial(in_chunks, size=ROWS), (FEW, MANY))
    (again,) = peaks(partial(in_blocks, blocks=BLOCKS), (MANY,))
    (all_at_once,) = peaks(whole, (MANY,))
    return {"few": few, "many": many, "again": again, "whole": all_at_once}


def measure_process() -> dict[str, int] | None:
    """In this process, which should be young. None if this machine does not tell what a process takes."""
    seen = grown(lambda: np.ones(KEPT, np.uint8))
    return measure(PROCESS[keras.backend.backend()]) if seen > KEPT / 2 else None


@pytest.fixture(scope="module")
def exact() -> dict[str, int]:
    if keras.backend.backend() not in EXACT:
        pytest.skip("TensorFlow does not say what its operations take on CPUs. The nightly test asks the process.")
    return measure(EXACT[keras.backend.backend()])


@pytest.fixture(scope="module")
def process() -> dict[str, int]:
    if keras.backend.backend() not in PROCESS:
        pytest.skip("XLA's own figures are exact.")
    if not FORGET.exists() or not hasattr(ctypes.CDLL(None), "malloc_trim"):
        pytest.skip("The peak of memory is read where Linux and the C library of GNU tell it.")
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as young:
        measured = young.submit(measure_process).result()
    if measured is None:
        pytest.skip("This machine does not tell the peak of a process's memory.")
    return measured


def test_memory_does_not_grow_with_the_number_of_chunks(exact: dict[str, int]) -> None:
    # Not so much as a copy of the batch.
    assert exact["many"] - exact["few"] < BATCH / 2, exact
    assert exact["whole"] > KEPT / 2, "the measure sees what a gradient keeps"


def test_blocks_that_run_again_keep_their_inputs(exact: dict[str, int]) -> None:
    assert exact["again"] < 2 * INPUTS, exact


@pytest.mark.nightly
def test_a_process_does_not_grow_with_the_number_of_chunks(process: dict[str, int]) -> None:
    # The allocator's slack shows. PyTorch's record of what each chunk did, without its tensors, was 25 MiB.
    assert process["many"] - process["few"] < KEPT / 20, process
    assert process["whole"] > KEPT / 2, "the measure sees what a gradient keeps"


@pytest.mark.nightly
def test_a_process_keeps_the_inputs_of_blocks_that_run_again(process: dict[str, int]) -> None:
    # PyTorch's allocator keeps what it has, in large parts. Its tensors are counted above, to the byte.
    if keras.backend.backend() != "torch":
        assert process["again"] < 2 * INPUTS, process
