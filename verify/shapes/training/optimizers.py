"""The steps that training takes: Muon for the image tower's matrices, AdamW for everything else."""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from .model import Model
from .options import Options

WARM_UP = 50
"""Steps."""
DECAY = 0.05
"""Of kernels, times the learning rate."""


def optimizers(
    model: Model, heads: nn.Module, options: Options
) -> list[tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]]:
    """Muon for the image tower's matrices, AdamW for everything else, with weight decay for kernels alone."""
    matrices: list[nn.Parameter] = []
    groups: list[dict] = []
    rates: list[Callable[[int], float]] = []
    steps = options.alone + options.together
    for tower, first in ((nn.ModuleList([model.image, heads]), 0), (model.text, options.alone)):
        kernels: list[nn.Parameter] = []
        others = [] if first == 0 else [model.scale]
        for name, parameter in tower.named_parameters():
            is_kernel = parameter.ndim >= 2 and "embed" not in name and "layer_scale" not in name
            if first == 0 and parameter.ndim == 4 and is_kernel and parameter.shape[1] > 1:
                matrices.append(parameter)
            else:
                (kernels if is_kernel else others).append(parameter)
        groups += [{"params": kernels, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}]
        rates += [partial(_rate, first=first, steps=steps)] * 2
    adam = torch.optim.AdamW(groups, lr=options.rate, betas=(0.9, 0.98))
    muon = Muon(matrices, 5 * options.rate)
    schedule = torch.optim.lr_scheduler.LambdaLR
    return [(adam, schedule(adam, rates)), (muon, schedule(muon, rates[0]))]


class Muon(torch.optim.Optimizer):
    """Steps of which all singular values are about 1 (Keller Jordan and others, 2024), so that rare directions count.

    torch.optim.Muon takes matrices alone. These are kernels, (outputs, inputs, height, width).
    """

    def __init__(self, parameters: list[nn.Parameter], rate: float) -> None:
        super().__init__(parameters, {"lr": rate})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Changes the parameters."""
        for group in self.param_groups:
            for kernel in group["params"]:
                mean = self.state[kernel].setdefault("mean", torch.zeros_like(kernel)).lerp_(kernel.grad, 0.05)
                change = _orthogonal(kernel.grad.lerp(mean, 0.95).flatten(1))
                shape = max(1.0, len(change) / change.shape[1]) ** 0.5
                kernel.mul_(1 - group["lr"] * DECAY).sub_(group["lr"] * shape * change.view_as(kernel))


def _orthogonal(matrix: Tensor) -> Tensor:
    """The nearest matrix of orthogonal rows or columns, roughly: five steps of Newton and Schulz."""
    tall = matrix.shape[0] > matrix.shape[1]
    near = (matrix.T if tall else matrix).bfloat16()
    near = near / (near.norm() + 1e-7)
    for _ in range(5):
        square = near @ near.T
        near = 3.4445 * near + (-4.775 * square + 2.0315 * square @ square) @ near
    return (near.T if tall else near).float()


def _rate(step: int, first: int, steps: int) -> float:
    """From the first step of a tower on: warm-up, then a cosine down to nothing."""
    if step < first:
        return 0.0
    return min((step - first + 1) / WARM_UP, 0.5 * (1 + math.cos(math.pi * (step - first) / (steps - first))))
