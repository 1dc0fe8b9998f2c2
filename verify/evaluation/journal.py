"""What an evaluation has computed so far, on the disk, so that it goes on after a kill.

Each column is a file that only grows. `state.json`, replaced in one step after each batch, says how long each column is
and how far the data set was read. What a kill left behind that is not in it is cut off.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...keras_models.errors import MobileClipError
from ...keras_models.store.foreign.json_file import Limits, read_json
from ...keras_models.store.writing.output_errors import output_errors

if TYPE_CHECKING:
    from numpy.typing import NDArray

STATE = "state.json"
ITEMS = 1_000_000
"""Of the state: names and reasons of what is no image."""


class BusyError(MobileClipError):
    """Another process computes the same evaluation."""


@dataclass
class State:
    """How far an evaluation is."""

    seen: int = 0
    """Images that were read, also those that are no images."""
    fingerprint: str = ""
    """Of the data set up to there, in hexadecimal."""
    lengths: dict[str, int] = field(default_factory=dict)
    """Rows of each column."""
    unreadable: list[list[str]] = field(default_factory=list)
    """[name, reason] of what is no image."""


class Journal:
    """The columns of one evaluation.

    Args:
        folder: of this evaluation alone.
        columns: the dtype and the width of each column.
    """

    def __init__(self, folder: Path, columns: dict[str, tuple[str, int]]) -> None:
        self.folder = folder
        self._columns = {name: (np.dtype(dtype), width) for name, (dtype, width) in columns.items()}
        self.state = self._read_state()

    def _read_state(self) -> State:
        """What was written; a new one where that cannot be used."""
        try:
            path = self.folder / STATE
            limits = Limits(size=path.stat().st_size, items=ITEMS)  # a reader asks for as much memory as is allowed
            state = State(**read_json(path, limits, self.folder))
            sizes = {name: (self.folder / name).stat().st_size for name in self._columns}
            if all(size >= self._bytes(name, state.lengths[name]) for name, size in sizes.items()):
                return state
        except (OSError, MobileClipError, TypeError, KeyError):
            pass
        return State(lengths=dict.fromkeys(self._columns, 0))

    def _bytes(self, name: str, rows: int) -> int:
        dtype, width = self._columns[name]
        return rows * width * dtype.itemsize

    def start_again(self) -> None:
        """Forgets all."""
        self.state = State(lengths=dict.fromkeys(self._columns, 0))

    def append(
        self, rows: "dict[str, NDArray[Any]]", seen: int, fingerprint: bytes, unreadable: list[list[str]]
    ) -> None:
        """Adds to columns, and notes how far the data set was read."""
        lengths = dict(self.state.lengths)
        with output_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            for name, (dtype, width) in self._columns.items():
                added = rows[name].astype(dtype, copy=False).reshape(-1, width)
                path = self.folder / name
                with open(path, "r+b" if path.exists() else "wb") as file:
                    file.truncate(self._bytes(name, lengths[name]))
                    file.seek(0, os.SEEK_END)
                    file.write(added.tobytes())
                    file.flush()
                    os.fsync(file.fileno())
                lengths[name] += len(added)
            self.state = State(seen, fingerprint.hex(), lengths, [*self.state.unreadable, *unreadable])
            self._write_state()

    def _write_state(self) -> None:
        beside = self.folder / f"{STATE}.new"
        with open(beside, "w", encoding="utf-8") as file:
            json.dump(asdict(self.state), file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self.folder / STATE)

    def column(self, name: str) -> "NDArray[Any]":
        """All rows of a column, (rows, width), which stay on the disk."""
        dtype, width = self._columns[name]
        rows = self.state.lengths[name]
        if not rows:
            return np.empty((0, width), dtype)
        return np.memmap(self.folder / name, dtype, mode="r", shape=(rows, width))


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keeps other processes from the same evaluation.

    Raises:
        BusyError: where another process is at it.
        OutputError: where nothing can be written there.
    """
    from filelock import FileLock, Timeout

    with output_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.with_name(f"{folder.name}.lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise BusyError("Another process computes this evaluation. Wait until it has ended.") from error
    try:
        yield
    finally:
        lock.release()
