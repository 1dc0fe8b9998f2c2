"""Training in several processes, which take the same steps by the mean of their gradients."""

import tempfile
from collections.abc import Callable, Iterable
from datetime import timedelta
from multiprocessing import get_context
from typing import TypeVar

import torch
from torch import distributed, nn

T = TypeVar("T")


def in_processes(train: Callable[[int], T], processes: int) -> T:
    """Calls a function in each of several processes, with the process's number. Gives what it gives in this one, 0."""
    with tempfile.TemporaryDirectory() as folder:
        meet = f"file://{folder}/meet"
        others = [
            get_context("fork").Process(target=_joined, args=(train, rank, processes, meet), daemon=True)
            for rank in range(1, processes)
        ]
        for other in others:
            other.start()
        made = _joined(train, 0, processes, meet)
        for other in others:
            other.join()
    return made


def _joined(train: Callable[[int], T], rank: int, processes: int, meet: str) -> T:
    distributed.init_process_group(
        "gloo", init_method=meet, rank=rank, world_size=processes, timeout=timedelta(minutes=5)
    )
    try:
        return train(rank)
    finally:
        distributed.destroy_process_group()


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Gives every process the mean of all processes' gradients."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    together = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(together)
    together /= distributed.get_world_size()
    for gradient, mean in zip(gradients, together.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))
