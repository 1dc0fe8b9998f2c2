"""What a fine-tuning did so far: the loss of each step, and how good the model was at each validation."""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Recall:
    """How often the nearest is the right one, 0 to 1.

    Attributes:
        image_to_text: of images, those whose best text is one of their own. For classes, the accuracy.
        text_to_image: of texts, those whose best image has that text; None for classes.
    """

    image_to_text: float
    text_to_image: float | None = None

    @property
    def mean(self) -> float:
        """Of both directions: what the best checkpoint is chosen by."""
        both = [value for value in (self.image_to_text, self.text_to_image) if value is not None]
        return sum(both) / len(both)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "mean": self.mean}


@dataclass
class History:
    """How far a run is, and how it went.

    Attributes:
        losses: of each step so far.
        rates: the learning rate of each step.
        seconds: that training took, without validation, in all runs together.
        validations: recall by the step that it was measured after; 0 is before training.
        best_step: after which the model was best; None where nothing was validated yet.
    """

    losses: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    seconds: float = 0.0
    validations: dict[int, Recall] = field(default_factory=dict)
    best_step: int | None = None

    @property
    def step(self) -> int:
        """Steps that were taken."""
        return len(self.losses)

    def note(self, recall: Recall) -> bool:
        """Adds a validation of the present model. True where it is the best since training began."""
        self.validations[self.step] = recall
        if self.step == 0:
            return False
        if self.best_step is None or recall.mean > self.validations[self.best_step].mean:
            self.best_step = self.step
            return True
        return False
