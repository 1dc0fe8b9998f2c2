"""`plain.in_chunks` on PyTorch: two loops, the second of which runs each chunk again for the gradient.

PyTorch's own checkpoints keep the record of a chunk's operations, without their tensors, until the gradient: half a MiB
a chunk for small towers. Here nothing of a chunk stays but its results, so memory is flat in the number of chunks.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from ..types import Tensor
from .chunks import changes


def in_chunks(run: Any, weights: Any, state: Any, rows: Any, size: int) -> tuple[Tensor, dict[int, Tensor]]:
    """One operation of the record of gradients, whatever the number of chunks."""
    chunks = _Chunks(run, state, rows, size)
    return _Differentiable.apply(chunks, *weights), chunks.changed


class _Chunks:
    """A function over a batch, a chunk at a time.

    Attributes:
        changed: the last state, by place, of what the function changes.
    """

    def __init__(self, run: Any, state: Any, rows: Any, size: int) -> None:
        self._run, self._state, self._rows = run, [*state], rows
        self._count = -(-rows.shape[0] // size)
        self._random = _random_state(rows.device)
        self.changed: dict[int, Tensor] = {}

    def results(self, weights: Any) -> Any:
        results: Any = None
        for index, part, state in self._parts(weights):
            if results is None:
                results = part.new_empty((self._rows.shape[0], *part.shape[1:]))
            results[index :: self._count] = part
            self.changed = changes(self._state, state)
        for place in self.changed:  # the variable's own memory, which will hold what comes after the batch
            self._state[place] = self._state[place].clone()
        return results

    def gradients(self, weights: Any, upstream: Any) -> list[Any]:
        """Of the weights. State and random numbers go the way that they went the first time."""
        sums: list[Any] = [None] * len(weights)
        with torch.enable_grad(), _drawing_from(self._random, self._rows.device):
            for index, part, _ in self._parts(weights):
                own = torch.autograd.grad(part, weights, upstream[index :: self._count], allow_unused=True)
                sums = [_sum(*pair) for pair in zip(sums, own, strict=True)]
        return sums

    def _parts(self, weights: Any) -> Iterator[tuple[int, Any, list[Any]]]:
        """The results of each chunk, and the state after it."""
        now = [*self._state]
        for index in range(self._count):
            part, after = self._run([*weights], now, self._rows[index :: self._count])
            now = [old if old is new else new.detach() for old, new in zip(now, after, strict=True)]
            yield index, part, now


class _Differentiable(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, chunks: _Chunks, *weights: Any) -> Any:
        ctx.chunks = chunks
        ctx.save_for_backward(*weights)
        return chunks.results(weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Any) -> Any:
        leaves = [weight.detach().requires_grad_() for weight in ctx.saved_tensors]
        return None, *ctx.chunks.gradients(leaves, upstream)


def _sum(total: Any, more: Any) -> Any:
    return more if total is None else total if more is None else total + more


def _random_state(device: Any) -> tuple[Any, ...]:
    """Of PyTorch's own generators: of the processor, and of the GPU in use."""
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


@contextmanager
def _drawing_from(state: tuple[Any, ...], device: Any) -> Iterator[None]:
    """Within this context PyTorch draws random numbers as from that state on, and afterwards as if it had not."""
    before = _random_state(device)
    try:
        _draw_from(state, device)
        yield
    finally:
        _draw_from(before, device)


def _draw_from(state: tuple[Any, ...], device: Any) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
