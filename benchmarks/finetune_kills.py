"""What is lost when `finetune` is killed: `KERAS_BACKEND=jax python benchmarks/finetune_kills.py --kills 30`.

The command gets SIGKILL and is begun again, until it has ended and another run begins. A third of the kills fall
anywhere, a third while a checkpoint is being written, a third while the result is. After each, the result must not be
there or be whole, the checkpoint must be readable, and no more than one interval of steps may be lost. In the end the
weights and the log must be those of a run that nobody killed, and nothing may lie beside them.
"""

import hashlib
import json
import mmap
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from arguments import JSON
from rich.console import Console
from samples import keep

sys.path.insert(0, str(Path(__file__).parents[1]))

BACKEND = os.environ.setdefault("KERAS_BACKEND", "torch")
EVERY = 2
"""Steps between checkpoints."""
OPTIONS = ("--epochs", "3", "--batch-size", "4", "--learning-rate", "1e-3", "--val-share", "0.15")
OPTIONS += ("--checkpoint-every", str(EVERY))
NOTES = "4q"
"""Steps taken, checkpoints begun, checkpoints written, results begun."""
PLACES = ("anywhere", "checkpoint", "result")
CHECKS = ("result not whole", "checkpoint unreadable", "lost more", "wrong result", "left beside")


def child(notes: str, arguments: list[str]) -> None:
    """The command, which notes in a file what it does."""
    from mobileclip_keras.converters.cli.app import app
    from mobileclip_keras.converters.tuning import finetune
    from mobileclip_keras.converters.tuning.run_folder import RunFolder
    from mobileclip_keras.keras_models.models.model import MobileClipModel

    file = open(notes, "r+b")  # noqa: SIM115 - as long as the process lives
    memory = mmap.mmap(file.fileno(), struct.calcsize(NOTES))

    def noting(owner: Any, name: str, before: int | None, after: int | None) -> None:
        plain = getattr(owner, name)

        def noted(*args: Any, **kwargs: Any) -> Any:
            add(before)
            found = plain(*args, **kwargs)
            add(after)
            return found

        setattr(owner, name, noted)

    def add(place: int | None) -> None:
        if place is not None:
            struct.pack_into("q", memory, 8 * place, struct.unpack_from("q", memory, 8 * place)[0] + 1)

    noting(MobileClipModel, "train_on_batch", None, 0)
    noting(RunFolder, "_write", 1, 2)
    noting(finetune, "write_checkpoint", 3, None)
    app(arguments)


@dataclass
class Runs:
    """Runs of one command.

    Attributes:
        arguments: of the command, without --out.
        folder: to work in.
        random: chooses the moments.
        seconds: how long a run takes as a whole, how long a checkpoint, and how long the result.
    """

    arguments: list[str]
    folder: Path
    random: random.Random
    seconds: dict[str, float] = field(default_factory=dict)

    def run(self, out: Path, place: str | None) -> tuple[bool, int]:
        """Whether a run was killed at one of PLACES, None for never, and how many steps it took."""
        notes = self.folder / "notes"
        notes.write_bytes(bytes(struct.calcsize(NOTES)))
        code = "import sys; from finetune_kills import child; child(sys.argv[1], sys.argv[2:])"
        command = [sys.executable, "-c", code, str(notes), "finetune", *self.arguments, "--out", str(out)]
        path = os.pathsep.join((str(Path(__file__).parent), str(Path(__file__).parents[1])))
        environment = {**os.environ, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3"}
        with open(self.folder / "said", "w+") as said, open(notes, "r+b") as file:
            memory = mmap.mmap(file.fileno(), 0)
            process = subprocess.Popen(command, env=environment, stdout=said, stderr=said)
            self._watch(process, memory, place)
            status = process.wait()
            said.seek(0)
            if status not in (0, -signal.SIGKILL):
                raise RuntimeError(f"The command ended with status {status}: {said.read()[-2000:]}")
            return status != 0, struct.unpack(NOTES, memory[:])[0]

    def _watch(self, process: Any, memory: mmap.mmap, place: str | None) -> None:
        """Waits until the process ends or its moment has come. The first one shows how long things take."""
        begun = time.monotonic()
        enough = {"checkpoint": 1 + self.random.randrange(6), "result": 1}.get(place or "")
        until = begun + self.random.random() * self.seconds["anywhere"] if place == "anywhere" else None
        seen: dict[str, float] = {}
        while process.poll() is None:
            now, (_, writes, written, results) = time.monotonic(), struct.unpack(NOTES, memory[:])
            reached = {"begun": writes >= 2, "written": written >= 2, "result": results >= 1}
            seen |= {name: now for name, there in reached.items() if there and name not in seen}
            if until is None and enough and (writes if place == "checkpoint" else results) >= enough:
                until = now + self.random.random() * self.seconds[str(place)]
            if until is not None and now >= until:
                process.kill()
                return
            time.sleep(0.0005)
        if not self.seconds:
            self.seconds["anywhere"] = time.monotonic() - begun
            self.seconds["checkpoint"] = seen["written"] - seen["begun"]
            self.seconds["result"] = time.monotonic() - seen["result"]


def steps_of(out: Path) -> int:
    """That the checkpoint of a run holds; 0 where there is none.

    Raises:
        Exception: where it cannot be read.
    """
    from safetensors import safe_open

    training = out.with_name(f"{out.name}.training")
    if not (training / "checkpoint.safetensors").exists():
        return 0
    with safe_open(training / "checkpoint.safetensors", framework="numpy") as file:
        for name in file.keys():  # noqa: SIM118
            file.get_tensor(name)
        best = json.loads(file.metadata()["told"])["best_step"]
        steps = len(file.get_tensor("history/losses"))
    if best is not None:
        with safe_open(training / f"best-{best:08d}.safetensors", framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118
                file.get_tensor(name)
    return steps


def is_whole(out: Path) -> bool:
    """Whether each file that a folder says it has is there, with its hash, and no other."""
    from mobileclip_keras.keras_models.store.writing.own_files import foreign_files, sha256

    record = json.loads((out / "files.json").read_text())["files"]
    return not foreign_files(out) and all(sha256(out / name) in facts["sha256"] for name, facts in record.items())


def digest(out: Path) -> str:
    """What must not depend on kills: the weights of both forms, and the log."""
    import h5py

    found = hashlib.sha256((out / "training.csv").read_bytes())

    def add(_: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found.update(item[()].tobytes())

    for path in (out / "model.weights.h5", out / "train" / "model.weights.h5"):
        with h5py.File(path) as file:  # the file itself holds the time at which it was made
            file.visititems(add)
    return found.hexdigest()


def look(out: Path, taken: int, counts: dict[str, Any]) -> None:
    """Counts what is wrong after a kill, when so many steps had been taken in all."""
    if out.exists():
        counts["result not whole"] += not is_whole(out)
        return
    try:
        lost = taken - steps_of(out)
    except Exception as error:
        counts["checkpoint unreadable"] += 1
        print(error, file=sys.stderr)
        return
    counts["most steps lost"] = max(counts["most steps lost"], lost)
    counts["lost more"] += lost > EVERY


def measure(runs: Runs, kills: int) -> dict[str, Any]:
    """Kills runs until there were as many kills, and lets the last one end."""
    whole, out = runs.folder / "whole" / "new", runs.folder / "work" / "new"
    runs.run(whole, None)
    expected = digest(whole)
    counts: dict[str, Any] = dict.fromkeys(("kills", *PLACES, "commands", "ended", "most steps lost", *CHECKS), 0)
    was_killed = True
    while counts["kills"] < kills or was_killed:
        place = PLACES[counts["kills"] % len(PLACES)] if counts["kills"] < kills else None
        before = steps_of(out)
        was_killed, taken = runs.run(out, place)
        counts["commands"] += 1
        if was_killed:
            counts["kills"] += 1
            counts[str(place)] += 1
            look(out, before + taken, counts)
        else:
            counts["ended"] += 1
            counts["wrong result"] += digest(out) != expected
            counts["left beside"] += [path.name for path in out.parent.iterdir()] != [out.name]
            shutil.rmtree(out)
        print(json.dumps(counts), file=sys.stderr, flush=True)
    return {**counts, "steps between checkpoints": EVERY, "seconds": {k: round(v, 3) for k, v in runs.seconds.items()}}


def main(
    kills: Annotated[int, typer.Option(min=1, help="How many.")] = 30,
    seed: Annotated[int, typer.Option(help="Of the moments.")] = 0,
    verify: Annotated[bool, typer.Option(help="Compare each result with PyTorch.")] = False,
    results: Annotated[Path | None, JSON] = None,
) -> None:
    """Kills the command that fine-tunes."""
    from mobileclip_keras.keras_models.registry import get_variant
    from mobileclip_keras.keras_models.store.resolve import converted_folder
    from tests.finetune_support import write_table

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        base = converted_folder(get_variant("shapes"), cache_dir=folder / "cache")
        table = write_table(folder / "data" / "pairs.csv", 14)
        options = [*OPTIONS, "--verify" if verify else "--no-verify"]
        counts = measure(Runs([str(base), "--data", str(table), *options], folder, random.Random(seed)), kills)
    Console().print(counts)
    if results is not None:
        keep(results, {f"{BACKEND}, verified" if verify else BACKEND: counts})
    sys.exit(any(counts[check] for check in CHECKS))


if __name__ == "__main__":
    typer.run(main)
