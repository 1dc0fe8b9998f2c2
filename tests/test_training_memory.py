"""Memory of a step: the same for many chunks as for a few, and only their inputs for blocks that run again."""

import ctypes
import gc
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from mobileclip_keras.keras_models import kernels

STATUS, FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")

pytestmark = [
    pytest.mark.backend,
    pytest.mark.skipif(
        not FORGET.exists() or not hasattr(ctypes.CDLL(None), "malloc_trim"),
        reason="the peak of memory is read where Linux and the C library of GNU tell it",
    ),
]

WIDTH, OPERATIONS, ROWS = 512, 100, 16
FEW, MANY = 4, 68
BLOCKS = 10
KIB, MIB = 1 << 10, 1 << 20
BATCH = MANY * ROWS * WIDTH * 4
"""Bytes of the larger batch."""
KEPT = OPERATIONS * BATCH
"""Bytes that a gradient of the whole batch keeps."""


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


PEAKS = {"torch": torch_peaks, "tensorflow": tensorflow_peaks, "jax": jax_peaks}


def torch_tensors(function: Function, counts: tuple[int, ...]) -> list[int]:
    """Of all tensors that are there at once, to the byte. The allocator keeps what it has, and large parts of it."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class Counting(TorchDispatchMode):
        now = most = 0

        def __init__(self) -> None:
            super().__init__()
            self.known: dict[int, int] = {}

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
            (function(weight, rows) ** 2).sum().backward()
        return counting.most

    return [most(torch.ones(count * ROWS, WIDTH)) for count in counts]


@pytest.fixture(scope="module")
def measured() -> dict[str, int]:
    """The smallest first: allocators use again what was freed, and it is not seen."""
    peaks = PEAKS[keras.backend.backend()]
    few, many = peaks(partial(in_chunks, size=ROWS), (FEW, MANY))
    blocks = torch_tensors if keras.backend.backend() == "torch" else peaks
    (again,) = blocks(partial(in_blocks, blocks=BLOCKS), (MANY,))
    (whole,) = peaks(lambda weight, rows: run([weight], [0.0], rows)[0], (MANY,))
    assert whole > KEPT / 2, "the measure sees what a gradient keeps"
    return {"few": few, "many": many, "again": again}


def test_memory_does_not_grow_with_the_number_of_chunks(measured: dict[str, int]) -> None:
    grows = measured["many"] - measured["few"]
    # XLA tells exactly, and a copy of the batch is 2.1 MiB. Elsewhere the allocator's slack shows. PyTorch's record of
    # what each chunk did, without its tensors, was 25 MiB.
    limit = BATCH / 2 if keras.backend.backend() == "jax" else KEPT / 20
    assert grows < limit, f"{grows / MIB:.2f} MiB more for {MANY} chunks than for {FEW}"


def test_blocks_that_run_again_keep_their_inputs(measured: dict[str, int]) -> None:
    least = BLOCKS * BATCH + KEPT / BLOCKS  # their inputs, and all of one of them
    assert measured["again"] < 2 * least, f"{measured['again'] / MIB:.1f} MiB, and {least / MIB:.1f} are needed"
