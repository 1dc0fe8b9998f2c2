"""Evaluations that are killed before each of their steps, for test_evaluation.py: `python … KIND FOLDER`.

A step is what Python reports to an audit hook of changes on the disk, and each call of the tower. A program of its own,
as it forks often: a process with a framework in it takes ten times as long to fork.
"""

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np

from mobileclip_keras.verify.evaluation import evaluate as evaluating
from mobileclip_keras.verify.evaluation import intervals
from mobileclip_keras.verify.evaluation.data.open_data import open_dataset
from mobileclip_keras.verify.evaluation.evaluate import Evaluation, evaluate
from tests.datasets import rows, write_webdataset
from tests.pixel_encoder import PixelEncoder

STEPS = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "shutil.rmtree")
IMAGES = 8


class Killer:
    """Ends the process before its step of that number."""

    def __init__(self, at: int) -> None:
        self.left = at

    def step(self) -> None:
        self.left -= 1
        if self.left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wa+")
        if event in STEPS or writes:
            self.step()


class KilledEncoder(PixelEncoder):
    """Its calls are steps, too."""

    def __init__(self, killer: Killer) -> None:
        super().__init__()
        self._killer = killer

    def encode_images(self, prepared: Any) -> np.ndarray:
        self._killer.step()
        return super().encode_images(prepared)


def killed(data: Path, work: Path, at: int) -> bool:
    """Whether a run was killed before that step."""
    child = os.fork()
    if child == 0:
        killer = Killer(at)
        sys.addaudithook(killer)
        evaluate(KilledEncoder(killer), open_dataset(str(data)), work)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == 0, status
    return os.WIFSIGNALED(status)


def facts(found: Evaluation) -> tuple[Any, ...]:
    """What must not depend on kills."""
    return found.figures, found.fingerprint, found.images, found.texts, found.unreadable


def main() -> None:
    """Kills before step 0, 1, … and goes on after each, until a run needs no more steps."""
    kind, folder = sys.argv[1], Path(sys.argv[2])
    intervals.RESAMPLES = 10  # or they would take most of the time
    evaluating.SAVE_SECONDS = 0.0
    broken = list(rows(IMAGES, kind))
    broken[4] = (b"no image", broken[4][1])
    data = write_webdataset(folder / "data", broken, kind, shard=3)
    whole = facts(evaluate(PixelEncoder(), open_dataset(str(data)), folder / "whole"))
    taken_up, at = 0, 0
    while killed(data, work := folder / f"{at}", at):
        encoder = PixelEncoder()
        found = evaluate(encoder, open_dataset(str(data)), work)
        assert facts(found) == whole, at
        assert encoder.images + found.resumed_at == found.images == IMAGES - 1, at
        assert not [path for path in work.rglob("*") if path.suffix != ".lock"], at
        taken_up += found.resumed_at > 0
        shutil.rmtree(work)
        at += 1
    assert at > 20 and taken_up > at // 3, (at, taken_up)
    print(f"{kind}: {at} kills, {taken_up} of them taken up in the middle")


if __name__ == "__main__":
    main()
