"""Fine-tunings that are killed, for test_finetune.py: `python … BASE FOLDER KILLS`.

A run is killed before each of its changes on the disk and each of its training steps, and then at random moments. After
each kill, the same call goes on. Every result must be that of a run that nobody killed, bit for bit, and no more than
one checkpoint interval may be computed again.
"""

import mmap
import os
import random
import shutil
import signal
import struct
import sys
import time
from pathlib import Path
from typing import Any

from mobileclip_keras.converters.tuning.data import Data
from mobileclip_keras.converters.tuning.finetune import finetune
from mobileclip_keras.converters.tuning.options import Options
from mobileclip_keras.converters.tuning.outcome import Outcome
from mobileclip_keras.keras_models.models.model import MobileClipModel
from tests.finetune_support import write_table

STEPS = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link")
EVERY = 2
"""Steps between checkpoints."""
OPTIONS = Options(epochs=2, batch_size=4, learning_rate=1e-3, val_share=0.15)
NOTED = mmap.mmap(-1, 8)
"""Training steps that a child took before it was killed."""


class Killer:
    """Ends the process before its step of that number, None for never. Only steps below a folder count."""

    def __init__(self, at: int | None, folder: Path) -> None:
        self.left, self.folder = at, str(folder)
        self.taken = 0

    def step(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wa+")
        if (event in STEPS or writes) and str(arguments[0]).startswith(self.folder):
            self.step()


def tuned(base: Path, table: Path, out: Path) -> Outcome:
    return finetune(str(base), Data(str(table)), out, OPTIONS, verify=False, every=EVERY)


def run_killed(base: Path, table: Path, out: Path, at: int | None, seconds: float | None = None) -> bool:
    """Whether a run was killed before its step of that number, or after some seconds."""
    child = os.fork()
    if child == 0:
        killer = Killer(at, out.parent)
        plain = MobileClipModel.train_on_batch
        struct.pack_into("q", NOTED, 0, 0)

        def counted(self: MobileClipModel, *args: Any, **kwargs: Any) -> Any:
            killer.step()
            found = plain(self, *args, **kwargs)
            struct.pack_into("q", NOTED, 0, struct.unpack_from("q", NOTED)[0] + 1)
            return found

        MobileClipModel.train_on_batch = counted  # type: ignore[method-assign]
        sys.addaudithook(killer)
        tuned(base, table, out)
        os._exit(0)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == 0, status
    return os.WIFSIGNALED(status)


def go_on(base: Path, table: Path, out: Path) -> int:
    """Goes on in a process of its own. The step that it went on after, or all of them for a run that was done."""
    child = os.fork()
    if child == 0:
        found = tuned(base, table, out)
        struct.pack_into("q", NOTED, 0, found.record["steps"] if found.was_done else found.resumed_at)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0, status
    return struct.unpack_from("q", NOTED)[0]


def weights(out: Path) -> bytes:
    """What must not depend on kills: the weights, which HDF5 notes with no time, and the log."""
    from mobileclip_keras.keras_models.store.load import load_folder

    model = load_folder(out, form="train")
    return b"".join(array.tobytes() for array in model.get_weights()) + (out / "training.csv").read_bytes()


def check(base: Path, table: Path, out: Path, whole: bytes) -> tuple[int, int]:
    """Goes on after a kill. Steps taken before it, and those that were computed again."""
    taken = struct.unpack_from("q", NOTED)[0]
    lost = taken - go_on(base, table, out)
    assert lost <= EVERY, (taken, lost)
    assert weights(out) == whole
    assert not out.with_name(f"{out.name}.training").exists()
    left = {path.name for path in out.parent.iterdir()} - {out.name}
    assert not left, left
    shutil.rmtree(out)
    return taken, max(lost, 0)


def main() -> None:
    base, folder, timed = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    table = write_table(folder / "data" / "pairs.csv", 14)
    tuned(base, table, folder / "whole" / "new")  # here, so that children need not import what it imports
    begun = time.monotonic()
    assert not run_killed(base, table, folder / "again" / "new", None)
    seconds = time.monotonic() - begun
    whole = weights(folder / "whole" / "new")
    assert weights(folder / "again" / "new") == whole
    out, lost, at, middle = folder / "work" / "new", 0, 0, 0
    while run_killed(base, table, out, at):
        taken, again = check(base, table, out, whole)
        lost, middle, at = max(lost, again), middle + (taken > 0), at + 1
        print(f"killed {at} times", flush=True)
    shutil.rmtree(out)
    print(f"{at} kills before a step, {middle} of them after training had begun; most steps computed again: {lost}")
    chance, hit = random.Random(0), 0
    for _ in range(timed):
        hit += run_killed(base, table, out, None, chance.uniform(0, seconds))
        lost = max(lost, check(base, table, out, whole)[1])
    print(f"{hit} kills at random moments; most steps computed again in all: {lost}; wrong results: 0")
    assert at > 30 and middle > 20


if __name__ == "__main__":
    main()
