"""A step of AdamW in a few launches. Keras' own takes eight for each variable: a tower has six hundred."""

from collections.abc import Sequence
from typing import Any

import keras
import torch
from torch.optim.adamw import adamw


def update_by_adamw(
    optimizer: Any,
    gradients: Sequence[Any],
    variables: Sequence[keras.Variable],
    momentums: Sequence[keras.Variable],
    velocities: Sequence[keras.Variable],
    decayed: Sequence[bool],
) -> bool:
    """By PyTorch's fused kernel, which takes float32 on CPUs and NVIDIA's GPUs."""
    columns = [[v.value for v in column] for column in (variables, momentums, velocities)]
    for value, *averages in zip(*columns, strict=True):
        for average in averages:
            if average.stride() != value.stride():  # at first, where `lay_out_as_convolved` was at work
                average.data = torch.empty_like(value).copy_(average)
    tensors = [tensor for column in columns for tensor in column]
    given = [_laid_out_as(value, gradient) for value, gradient in zip(columns[0], gradients, strict=True)]
    if any(tensor.dtype != torch.float32 or tensor.device.type not in ("cpu", "cuda") for tensor in (*tensors, *given)):
        return False
    known = optimizer.steps_taken
    step = optimizer.steps_taken = (int(optimizer.iterations.value) if known is None else known) + 1
    # PyTorch divides the root by this before it adds epsilon, and Keras after.
    epsilon = optimizer.epsilon / (1.0 - optimizer.beta_2**step) ** 0.5
    before = torch.full((len(variables),), step - 1, dtype=torch.float32, device=tensors[0].device)
    rate = optimizer.learning_rate
    rate = rate.value if isinstance(rate, keras.Variable) else rate
    if rate.device.type == "cpu":
        rate = float(rate)
    for decay in (True, False):
        of = [index for index, value in enumerate(decayed) if value == decay]
        if of:
            adamw(
                *([column[i] for i in of] for column in (columns[0], given, columns[1], columns[2])),
                max_exp_avg_sqs=[],
                state_steps=list(before[: len(of)].clone().unbind()),
                fused=True,
                amsgrad=False,
                beta1=float(optimizer.beta_1),
                beta2=float(optimizer.beta_2),
                lr=rate,
                weight_decay=float(optimizer.weight_decay) if decay else 0.0,
                eps=epsilon,
                maximize=False,
            )
    return True


def _laid_out_as(value: Any, gradient: Any) -> Any:
    """On a GPU the kernel wants the same strides, those of axes with one element too, of which any are right."""
    if gradient.stride() == value.stride():
        return gradient
    if gradient.is_contiguous() and value.is_contiguous():
        return gradient.as_strided(value.shape, value.stride())
    return torch.empty_like(value).copy_(gradient)
