"""What a fine-tuning is asked to do, and whether two are the same."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from ...keras_models.errors import MobileClipError

PARTS = ("image", "text", "norms")
DTYPES = ("float32", "mixed_bfloat16")
LEARNING_RATE, LORA_LEARNING_RATE = 1e-5, 1e-4
"""The usual ones: of all weights, and of adapters, which start at zero."""
NAMES = {"backend": "KERAS_BACKEND"}
"""Of what a run is told by, where a user knows it by another name."""


class OptionError(MobileClipError):
    """Options are none, or do not go together."""


@dataclass(frozen=True)
class Options:
    """How to fine-tune. Two runs with the same options, weights and data take the same steps.

    Attributes:
        epochs: times that all pairs are seen.
        batch_size: pairs that are compared with each other in a step.
        chunk_size: pairs whose activations are in memory at once; None for a whole batch.
        learning_rate: the highest; None for the usual one.
        warmup_steps: in which it rises; None for a tenth of all steps.
        weight_decay: of matrices.
        freeze: of PARTS, those that are not trained.
        lora: the rank of adapters, which are then trained in place of the weights; None for none.
        alpha: how much of the change is kept, 0 to 1, as `interpolate` takes it.
        val_share: of pairs, those held back for validation where there is no other data for it.
        seed: of the order of pairs and of which are held back.
        dtype: in which is computed. Weights stay float32.
        remat: whether blocks are computed again for the gradient, for less memory. The steps are the same, so a run may
            go on with it or without.
    """

    epochs: int = 10
    batch_size: int = 32
    chunk_size: int | None = None
    learning_rate: float | None = None
    warmup_steps: int | None = None
    weight_decay: float = 0.2
    freeze: tuple[str, ...] = ()
    lora: int | None = None
    alpha: float = 1.0
    val_share: float = 0.1
    seed: int = 0
    dtype: str = "float32"
    remat: bool = False

    @property
    def highest_rate(self) -> float:
        """The learning rate, the usual one where none was given."""
        usual = LEARNING_RATE if self.lora is None else LORA_LEARNING_RATE
        return usual if self.learning_rate is None else self.learning_rate

    def check(self) -> None:
        """Raises OptionError where the options cannot be followed."""
        unknown = [part for part in self.freeze if part not in PARTS]
        if unknown:
            raise OptionError(f"--freeze takes {', '.join(PARTS)}, not {unknown[0]!r}.")
        if {"image", "text"} <= {*self.freeze}:
            raise OptionError("With the image and the text tower frozen there is nothing left to train.")
        if self.dtype not in DTYPES:
            raise OptionError(f"--dtype is one of {', '.join(DTYPES)}, not {self.dtype!r}.")
        if self.batch_size < 2:
            raise OptionError("--batch-size is 2 at least: pairs are told apart from the others of their batch.")
        if not 0 < self.highest_rate < float("inf"):
            raise OptionError("--learning-rate is a number above 0.")
        if not 0 <= self.alpha <= 1:
            raise OptionError("--alpha lies between 0, the model as it was, and 1, the tuned model.")
        if not 0 <= self.val_share < 1:
            raise OptionError("--val-share is the part of the pairs to hold back, from 0 to less than 1.")
        if not 0 <= self.weight_decay < float("inf"):
            raise OptionError("--weight-decay is 0 or more.")

    def to_json(self) -> dict[str, Any]:
        """What a run is told by, as plain numbers, with the learning rate that is taken."""
        told = {**asdict(self), "freeze": list(self.freeze), "learning_rate": self.highest_rate}
        del told["remat"]
        return told


def differences(asked: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """What two records of options, weights and data differ in, in words.

    Args:
        asked: now.
        found: of a run that is there.
    """
    order = [*(field.name for field in fields(Options)), *asked, *found]
    return [
        f"{NAMES.get(name, name.replace('_', ' '))} is {_said(asked.get(name))} and was {_said(found.get(name))}"
        for name in dict.fromkeys(order)
        if asked.get(name) != found.get(name)
    ]


def _said(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    text = "none" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:12]}…"
