"""The folder beside the result in which a run keeps what it needs to go on: `NEW.training`.

    run.json                  what the run was asked to do
    checkpoint.safetensors    weights, optimizer and history, replaced in one step
    best-STEP.safetensors     the weights that did best so far, named by the checkpoint
    writing/                  what is being written, until it takes its place

A kill at any moment leaves the last checkpoint whole, and the best weights that it speaks of.
"""

import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import keras
import numpy as np

from ...keras_models.errors import MobileClipError
from ...keras_models.store.foreign.json_file import Limits, read_json
from ...keras_models.store.writing.output_errors import NOTHING_LEFT, OutputError, output_errors
from .history import History, Recall

SUFFIX = ".training"
RUN, CHECKPOINT, BEST, LOCK = "run.json", "checkpoint.safetensors", "best-*.safetensors", "lock"
WRITING = "writing"
"""A folder of its own: safetensors writes `.tmpAbC123` first, which a kill leaves, as large as a checkpoint."""
FORMAT = 1
LIMITS = Limits(size=64 << 20, items=10_000_000)


class RunError(MobileClipError):
    """A run cannot begin or go on; the message says why and what to do."""


class RunFolder:
    """What a run keeps.

    Args:
        out: the folder that the run will write in the end.
    """

    def __init__(self, out: Path) -> None:
        out = Path(os.path.abspath(out))
        self.folder = out.with_name(out.name + SUFFIX)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Makes the folder, and keeps other processes from it. Where nothing was kept, it is gone afterwards.

        Raises:
            RunError: where another process is at it, or something else has its name.
            OutputError: where it cannot be made. One from within the context says what is kept.
        """
        from filelock import FileLock, Timeout

        if os.path.lexists(self.folder) and not self.folder.is_dir():
            raise RunError(
                f"{self.folder} is no folder, and the run keeps its checkpoints in a folder of that name. Move it "
                "away, or choose another --out."
            )
        with output_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / LOCK)
            try:
                lock.acquire(timeout=0)
            except Timeout as error:
                raise RunError(f"Another process is at {self.folder}. Wait until it has ended.") from error
        try:
            yield
        except OutputError as error:
            if not (self.folder / CHECKPOINT).exists():
                raise
            kept = f"{self.folder} keeps the run: once that is mended, the same command goes on."
            raise OutputError(f"{str(error).removesuffix(NOTHING_LEFT).rstrip()} {kept}") from error
        finally:
            if not (self.folder / CHECKPOINT).exists():  # nothing that anybody could go on with
                self.remove()
                (self.folder / LOCK).unlink(missing_ok=True)
            lock.release()
            with suppress(OSError):
                self.folder.rmdir()

    def asked(self) -> dict[str, Any] | None:
        """What the run in this folder was asked to do; None where there is none with a checkpoint.

        Raises:
            RunError: where the folder is no run's.
        """
        if not ((self.folder / RUN).exists() and (self.folder / CHECKPOINT).exists()):
            return None
        try:
            found = read_json(self.folder / RUN, LIMITS, self.folder)
        except (OSError, MobileClipError) as error:
            raise RunError(
                f"{self.folder / RUN} cannot be read: {error} Remove {self.folder} to begin anew."
            ) from error
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise RunError(f"{self.folder} was not written by this version. Remove it to begin anew.")
        return found["asked"]

    def begin(self, asked: Mapping[str, Any]) -> None:
        """Notes what a run is asked to do, in a folder that is empty."""
        told = json.dumps({"format": FORMAT, "asked": asked}, indent=2)
        with output_errors(self.folder), self._written(self.folder / RUN) as new:
            new.write_text(told, encoding="utf-8")

    def remove(self) -> None:
        """Removes all that a run keeps, and nothing else. What the run is goes last."""
        self._clear_writing()
        for path in [*self.folder.glob(BEST), *self.made(), self.folder / RUN]:
            path.unlink(missing_ok=True)

    def made(self) -> list[Path]:
        """The other files of a run."""
        return [self.folder / CHECKPOINT, self.tuned]

    @property
    def tuned(self) -> Path:
        """Where the tuned weights lie as a PyTorch checkpoint, while the result is made of them."""
        return self.folder / f"{self.folder.name.removesuffix(SUFFIX)}.safetensors"

    def save(self, variables: Sequence[keras.Variable], history: History) -> None:
        """Replaces the checkpoint. Best weights that it does not speak of are removed.

        Args:
            variables: of the model and of the optimizer.
            history: how far they are.

        Raises:
            OutputError: where the disk has no room. The last checkpoint is still there.
        """
        arrays = {
            "history/losses": np.asarray(history.losses, np.float64),
            "history/rates": np.asarray(history.rates, np.float64),
        }
        told = {
            "seconds": history.seconds,
            "best_step": history.best_step,
            "validations": [
                [step, each.image_to_text, each.text_to_image] for step, each in history.validations.items()
            ],
        }
        self._write(self.folder / CHECKPOINT, {**_arrays(variables), **arrays}, told)
        kept = None if history.best_step is None else self._best(history.best_step)
        for path in self.folder.glob(BEST):
            if path != kept:
                path.unlink(missing_ok=True)

    def save_best(self, variables: Sequence[keras.Variable], step: int) -> None:
        """Keeps weights that did best, until a checkpoint speaks of others."""
        self._write(self._best(step), _arrays(variables), {})

    def restore(self, variables: Sequence[keras.Variable]) -> History:
        """Assigns the checkpoint. A new history where there is none.

        Raises:
            RunError: where it is damaged or does not fit.
        """
        path = self.folder / CHECKPOINT
        if not path.exists():
            return History()
        arrays, told = _read(path)
        losses, rates = (arrays.pop(f"history/{name}").tolist() for name in ("losses", "rates"))
        _assign(path, arrays, variables)
        validations = {step: Recall(*both) for step, *both in told["validations"]}
        return History(losses, rates, told["seconds"], validations, told["best_step"])

    def restore_best(self, variables: Sequence[keras.Variable], step: int) -> None:
        """Assigns the weights that did best.

        Raises:
            RunError: where they are damaged or missing.
        """
        _assign(self._best(step), _read(self._best(step))[0], variables)

    def _best(self, step: int) -> Path:
        return self.folder / BEST.replace("*", f"{step:08d}")

    def _write(self, path: Path, arrays: dict[str, np.ndarray], told: dict[str, Any]) -> None:
        from safetensors.numpy import save_file

        size = sum(array.nbytes for array in arrays.values()) + (1 << 16)
        with output_errors(self.folder), self._written(path) as new:
            if shutil.disk_usage(self.folder).free < size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.folder))
            save_file(arrays, new, metadata={"told": json.dumps(told)})

    @contextmanager
    def _written(self, path: Path) -> Iterator[Path]:
        """Where to write a file, which then takes its place in one step. What a kill left there is removed."""
        self._clear_writing()
        new = self.folder / WRITING / path.name
        new.parent.mkdir(exist_ok=True)
        try:
            yield new
            _sync(new)
            new.replace(path)
            _sync(self.folder)
        finally:
            self._clear_writing()

    def _clear_writing(self) -> None:
        place = self.folder / WRITING
        for path in [*place.glob("*.safetensors"), *place.glob(".tmp*"), place / RUN]:
            path.unlink(missing_ok=True)
        with suppress(OSError):
            place.rmdir()


def _arrays(variables: Sequence[keras.Variable]) -> dict[str, np.ndarray]:
    return {
        f"variable/{number}": np.asarray(keras.ops.convert_to_numpy(variable), order="C")
        for number, variable in enumerate(variables)
    }


def _assign(path: Path, arrays: dict[str, np.ndarray], variables: Sequence[keras.Variable]) -> None:
    names = [f"variable/{number}" for number in range(len(variables))]
    fits = names and {*names} == arrays.keys()
    if not fits or any(arrays[n].shape != tuple(v.shape) for n, v in zip(names, variables, strict=True)):
        raise RunError(f"{path} does not fit the model. Remove {path.parent} to begin anew.")
    for name, variable in zip(names, variables, strict=True):
        variable.assign(arrays[name])


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            told = json.loads((file.metadata() or {})["told"])
            return {name: file.get_tensor(name) for name in file.keys()}, told  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise RunError(f"{path} is missing or damaged. Remove {path.parent} to begin anew.") from error


def _sync(path: Path) -> None:
    """Has the disk hold what was written, where the system can say so of a path."""
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
