"""Keeping a store for one process, from before its model is loaded until its run has ended."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from ...store.writing.output_errors import output_errors
from ...store.writing.targets import absolute
from .errors import StoreError

LOCK_FILE = ".lock"


@contextmanager
def reserved(folder: str | Path) -> Iterator[Path]:
    """Keeps the folder of a store from all other processes, and gives its absolute path.

    Who has it may ask for it again, as a command does that reserves a store and then fills it. A folder that was made
    for it is removed after an error, unless something was written to it.

    Args:
        folder: is made where it is missing.

    Raises:
        StoreError: where another process writes to it.
        OutputError: where it cannot be written.
    """
    place = absolute(Path(folder))
    is_new = not place.exists()
    with output_errors(place):
        place.mkdir(parents=True, exist_ok=True)
    try:
        lock = _locked(place)
        try:
            yield place
        except BaseException:
            if is_new and {path.name for path in place.iterdir()} == {LOCK_FILE}:
                (place / LOCK_FILE).unlink()
            raise
        finally:
            lock.release()
    except BaseException:
        if is_new:
            with suppress(OSError):
                place.rmdir()  # leaves a folder that holds anything
        raise


def _locked(place: Path) -> BaseFileLock:
    """The lock of a folder, which one thread may take several times."""
    lock = FileLock(place / LOCK_FILE, is_singleton=True)
    try:
        with output_errors(place):
            lock.acquire(timeout=0)
    except Timeout as error:
        raise StoreError(
            f"Another process writes to {place} now. Wait until it has ended, or give another --out."
        ) from error
    return lock
