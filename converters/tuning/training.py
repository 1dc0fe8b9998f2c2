"""The steps of a fine-tuning: one after the other, written down as they go."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import keras
import numpy as np

from ...keras_models.errors import MobileClipError
from ...keras_models.training.optimizer import Recipe, fine_tuning_recipe
from .history import Recall
from .options import OptionError, Options
from .pairs.batches import Feeder
from .run_folder import RunFolder

if TYPE_CHECKING:
    from ...keras_models.models.model import MobileClipModel

MINUTES = 10.0
"""Between checkpoints, where no number of steps was asked for. There is one after each epoch, too."""
RECENT = 20
"""Steps that images/s are the mean of."""


class TrainingError(MobileClipError):
    """Training went wrong; the message says what to try. Checkpoints are as they were."""


class Watched(NamedTuple):
    """What is told after each step."""

    step: int
    loss: float
    images_per_second: float


def prepare(model: "MobileClipModel", options: Options, steps: int) -> Recipe:
    """Freezes, adds adapters and compiles, as asked for.

    Args:
        model: in train form; changed in place.
        options: what to do.
        steps: of the whole training.

    Raises:
        MobileClipError: where that cannot be done with this model.
    """
    keras.utils.set_random_seed(options.seed)  # adapters begin at random
    if options.lora is not None:
        model.enable_lora(options.lora)
    if options.freeze:
        model.freeze(**dict.fromkeys(options.freeze, True))
    if not model.trainable_variables:
        raise OptionError("Nothing is left to train: the adapters lie in what is frozen.")
    warmup = options.warmup_steps
    if warmup is not None and warmup >= steps:
        raise OptionError(f"--warmup-steps is {warmup}, and there are only {steps} steps in all.")
    recipe = fine_tuning_recipe(steps, options.highest_rate, warmup_steps=warmup, weight_decay=options.weight_decay)
    model.remat = options.remat
    model.compile(recipe.optimizer, chunk_size=options.chunk_size)
    recipe.optimizer.build(model.trainable_variables)
    return recipe


class Training:
    """A run that goes on where its checkpoint is.

    Args:
        model: prepared.
        recipe: that it was prepared with.
        feeder: of batches.
        epochs: how many.
        folder: of the run.
        validate: measures a model; None where nothing was held back.
        every: steps between checkpoints; None for `MINUTES`.
    """

    def __init__(
        self,
        model: "MobileClipModel",
        recipe: Recipe,
        feeder: Feeder,
        epochs: int,
        folder: RunFolder,
        validate: Callable[["MobileClipModel"], Recall] | None,
        every: int | None = None,
    ) -> None:
        self.model, self.recipe, self.feeder, self.folder = model, recipe, feeder, folder
        self.steps = feeder.steps * epochs
        self._validate = validate
        self._every = every
        self._saved_at = time.monotonic()
        self._recent: list[float] = []
        self.history = folder.restore(self._variables())
        self.resumed_at = self.history.step

    def _variables(self) -> list[keras.Variable]:
        return [*self.model.weights, *self.recipe.optimizer.variables]

    def run(
        self, watch: Callable[[Watched], None] = lambda _: None, validated: Callable[[], None] = lambda: None
    ) -> None:
        """Takes all steps that are left.

        Args:
            watch: called after each step.
            validated: called after each validation.

        Raises:
            TrainingError: where the loss is no finite number.
            OutputError: where a checkpoint cannot be written.
        """
        if self._validate is not None and 0 not in self.history.validations:
            self.history.note(self._validate(self.model))
            self.save()
            validated()
        while self.history.step < self.steps:
            epoch, start = divmod(self.history.step, self.feeder.steps)
            before = time.perf_counter()
            for batch in self.feeder.epoch(epoch, start):
                self._step(batch)
                watch(self._watched(before))
                if self._is_due():
                    self.save()
                before = time.perf_counter()
            self._end_epoch()
            validated()

    def _step(self, batch: dict[str, np.ndarray]) -> None:
        step = self.history.step
        rate = float(keras.ops.convert_to_numpy(self.recipe.schedule(step)))
        loss = float(np.asarray(self.model.train_on_batch(batch, return_dict=True)["loss"]))
        if not np.isfinite(loss):
            raise TrainingError(
                f"The loss of step {step + 1} is not a finite number. Try a lower --learning-rate, with another --out "
                "or --force to begin anew."
            )
        self.history.losses.append(loss)
        self.history.rates.append(rate)

    def _watched(self, before: float) -> Watched:
        taken = time.perf_counter() - before
        self.history.seconds += taken
        self._recent = [*self._recent[1 - RECENT :], taken]
        pace = self.feeder.batch_size * len(self._recent) / max(sum(self._recent), 1e-9)
        return Watched(self.history.step, self.history.losses[-1], pace)

    def _is_due(self) -> bool:
        if self.history.step % self.feeder.steps == 0:
            return False  # the end of the epoch saves
        if self._every is not None:
            return self.history.step % self._every == 0
        return time.monotonic() - self._saved_at > 60 * MINUTES

    def _end_epoch(self) -> None:
        if self._validate is not None and self.history.note(self._validate(self.model)):
            self.folder.save_best(self.model.weights, self.history.step)
        self.save()

    def save(self) -> None:
        """Writes a checkpoint."""
        self.folder.save(self._variables(), self.history)
        self._saved_at = time.monotonic()

    def take_best(self) -> None:
        """Gives the model the weights that did best; without validations, it keeps the last."""
        if self.history.best_step is not None:
            self.folder.restore_best(self.model.weights, self.history.best_step)
