"""What a fine-tuning did, as its record says it."""

from dataclasses import dataclass
from typing import Any

import keras

from ..conversion.convert import own_version
from .base import Base
from .history import Recall
from .pairs.checking import Checked
from .training import Training

FORMAT = 1


@dataclass(frozen=True)
class Outcome:
    """What a run did.

    Attributes:
        record: what training.json says.
        was_done: whether the folder was there already, of the same run.
        resumed_at: the step that this process began after.
        problems: a sentence for each pair that was left out.
    """

    record: dict[str, Any]
    was_done: bool = False
    resumed_at: int = 0
    problems: tuple[str, ...] = ()


def record_of(
    base: Base,
    asked: dict[str, Any],
    told: dict[str, Any],
    training: Training,
    pairs: Checked,
    held: Checked | None,
    problems: tuple[str, ...],
    after: Recall | None,
) -> dict[str, Any]:
    """What training.json says.

    Args:
        base: what was fine-tuned.
        asked: what the run was asked to do.
        told: the same with the fingerprints of its data.
        training: at its end.
        pairs: that it was trained with.
        held: that it was validated with.
        problems: a sentence for each pair that was left out.
        after: the recall of what is written.
    """
    history = training.history
    before = history.validations.get(0)
    seen = history.step * training.feeder.batch_size
    return {
        "format": FORMAT,
        "variant": base.variant.name,
        "from": base.origin(),
        "asked": asked,
        "fingerprints": {"pairs": told["pairs"], "held_back": told["held_back"]},
        "pairs": len(pairs.pairs),
        "held_back": 0 if held is None else len(held.pairs),
        "left_out": len(problems),
        "batch_size": training.feeder.batch_size,
        "steps": history.step,
        "steps_per_epoch": training.feeder.steps,
        "best_step": history.best_step,
        "loss": {"first": history.losses[0], "last": history.losses[-1]},
        "recall_at_1": {
            "before": before and before.to_json(),
            "after": after and after.to_json(),
            "by_step": [{"step": step, **each.to_json()} for step, each in sorted(history.validations.items())],
        },
        "seconds": round(history.seconds, 3),
        "images_per_second": round(seen / max(history.seconds, 1e-9), 2),
        "versions": {"mobileclip-keras": own_version(), "keras": keras.__version__},
    }
