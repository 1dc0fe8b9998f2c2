"""The optimizer and the learning rate that CLIP models are trained with."""

import math
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from .. import kernels
from ..types import Tensor

MAX_LOGIT_SCALE = 100.0

MAX_LOG_LOGIT_SCALE = float(np.nextafter(np.float32(math.log(MAX_LOGIT_SCALE)), np.float32(0)))
"""The largest float32 whose exponential is below 100. At 100 itself the scale is clipped, and would have no gradient:
once there, it would stay."""


class Recipe(NamedTuple):
    """What `fine_tuning_recipe` returns.

    Attributes:
        optimizer: for `compile`.
        schedule: the optimizer's learning rate, a function of the step.
    """

    optimizer: keras.optimizers.Optimizer
    schedule: keras.optimizers.schedules.LearningRateSchedule


@keras.saving.register_keras_serializable("mobileclip_keras")
class AdamW(keras.optimizers.AdamW):
    """keras.optimizers.AdamW, whose weight decay leaves out whatever is no matrix: norms, biases, the logit scale.

    Keras' own forgets what was left out when it is saved. This one tells by the shapes. Where the backend updates all
    variables at once (`kernels.update_by_adamw`), it does; with clipping, accumulated gradients, moving averages of
    weights or a scaled loss, Keras' own way remains.
    """

    steps_taken: int | None = None
    """For backends that count in Python; None where the variable is to be looked up, which waits for the device."""
    _decays_matrices = True
    """Whether weight decay leaves out what is no matrix, and nothing else."""

    def build(self, variables: list[keras.Variable]) -> None:
        if not self.built:
            super().exclude_from_weight_decay([variable for variable in variables if len(variable.shape) < 2])
            self._built_for = tuple(map(id, variables))
        super().build(variables)

    def exclude_from_weight_decay(self, var_list: Any = None, var_names: Any = None) -> None:
        self._decays_matrices = False
        super().exclude_from_weight_decay(var_list, var_names)

    def load_own_variables(self, store: Any) -> None:
        super().load_own_variables(store)
        self.steps_taken = None

    def apply(self, grads: list[Tensor], trainable_variables: list[keras.Variable] | None = None) -> None:
        """One step. As Keras'."""
        if not self._update_at_once(list(grads), trainable_variables):
            self.steps_taken = None
            super().apply(grads, trainable_variables)

    def _update_at_once(self, gradients: list[Tensor], variables: list[keras.Variable] | None) -> bool:
        """Whether the backend did all of a step."""
        options = (self.clipnorm, self.clipvalue, self.global_clipnorm, self.gradient_accumulation_steps, self.use_ema)
        if not self.built or not self._decays_matrices or any((*options, self.amsgrad, self.loss_scale_factor)):
            return False
        momentums, velocities = self._averages("momentum"), self._averages("velocity")
        if not variables or tuple(map(id, variables)) != self._built_for or any(g is None for g in gradients):
            return False
        decayed = [bool(self.weight_decay) and len(variable.shape) > 1 for variable in variables]
        if not kernels.update_by_adamw(self, gradients, list(variables), momentums, velocities, decayed):
            return False
        for variable in variables:
            if variable.constraint is not None:
                variable.assign(variable.constraint(variable))
        self.iterations.assign_add(1)
        return True

    def _averages(self, kind: str) -> list[keras.Variable]:
        """In the order of the variables that the optimizer was built for."""
        return [variable for variable in self.variables if variable.name.endswith(f"_{kind}")]


@keras.saving.register_keras_serializable("mobileclip_keras")
class AtMost(keras.constraints.Constraint):
    """Keeps a weight at or below a limit after each step."""

    def __init__(self, limit: float) -> None:
        self.limit = limit

    def __call__(self, w: Tensor) -> Tensor:
        return ops.clip(w, -float("inf"), self.limit)

    def get_config(self) -> dict[str, float]:
        return {"limit": self.limit}


def fine_tuning_recipe(
    steps: int,
    learning_rate: float = 1e-5,
    *,
    warmup_steps: int | None = None,
    final_learning_rate: float = 0.0,
    weight_decay: float = 0.2,
    beta_2: float = 0.98,
    clip_norm: float | None = None,
    **options: Any,
) -> Recipe:
    """AdamW and its learning rate, which rises in a line and then falls as a cosine.

    Weight decay leaves out norms, biases and the logit scale. The logit scale stays at most 100 in any training, as the
    variable itself has that limit. Source: CLIP (arXiv 2103.00020), section 2.5. From scratch, Apple took a learning
    rate of 1e-3, 1000 steps of warm-up, weight decay 0.2, beta_2 0.95 and clip_norm 1 (training/configs/ in
    github.com/apple/ml-mobileclip).

    Args:
        steps: batches of the whole training.
        learning_rate: the highest.
        warmup_steps: of them, those that the learning rate rises in; None for a tenth.
        final_learning_rate: at the end.
        weight_decay: of matrices, times the learning rate.
        beta_2: how much of the mean of squared gradients stays at each step.
        clip_norm: the largest length of all gradients together; None for no limit.
        options: of keras.optimizers.AdamW, such as `gradient_accumulation_steps`.

    Returns:
        The optimizer, and the schedule within it.

    Raises:
        ValueError: for steps below 1, or more steps of warm-up than there are.
    """
    warmup = steps // 10 if warmup_steps is None else warmup_steps
    if steps < 1 or not 0 <= warmup < steps:
        raise ValueError(f"There must be at least one step after the warm-up; got {steps} steps, {warmup} of warm-up.")
    schedule = keras.optimizers.schedules.CosineDecay(
        learning_rate / max(warmup, 1),  # the first step moves, too
        steps - warmup,
        alpha=final_learning_rate / learning_rate,
        warmup_target=learning_rate if warmup else None,
        warmup_steps=warmup,
    )
    settings = {"beta_2": beta_2, "epsilon": 1e-6, "global_clipnorm": clip_norm, **options}
    return Recipe(AdamW(schedule, weight_decay=weight_decay, **settings), schedule)
