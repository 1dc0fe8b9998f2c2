"""A private place beside an output, where it is written before it takes its place.

A process that is killed leaves that place behind. The next one that writes beside it finds out that nobody holds its
lock any more, puts back what was there before, and removes the rest.
"""

import json
import os
import re
import secrets
import shutil
import socket
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, Timeout

from .own_files import PROGRAM, listed, remove_own

PREFIX = f".{PROGRAM}-"
_NAME = re.compile(re.escape(PREFIX) + r"[0-9a-f]{12}")
_LOCK = ".lock"
_OWNER = "owner.json"
A_DAY = 24 * 3600
"""How long what a process of another machine left stays. Some shared disks show its lock to that machine alone."""


@dataclass(frozen=True)
class Staging:
    """The paths in a private place. `new` and `old` may be files or folders."""

    folder: Path

    @property
    def new(self) -> Path:
        """Where the output is written."""
        return self.folder / "new"

    @property
    def old(self) -> Path:
        """Where what was there before waits, if it cannot be exchanged in one step."""
        return self.folder / "old"

    @property
    def placing(self) -> Path:
        """A file that says that `new` is whole, and may by now be what was there before."""
        return self.folder / "placing"

    @property
    def usual(self) -> Path:
        """A file that shows the permissions of new files."""
        return self.folder / "usual"

    @property
    def lock(self) -> Path:
        """Held for as long as the process lives that made this place."""
        return self.folder.with_name(self.folder.name + _LOCK)


@contextmanager
def staged(target: Path) -> Iterator[Staging]:
    """A private place beside `target`, which is removed at the end, whatever happened.

    Raises:
        OSError: where the folder of `target` cannot be written to.
    """
    place, lock = _make(target)
    try:
        yield place
    finally:
        _leave(place, lock)


def _leave(place: Staging, lock: BaseFileLock) -> None:
    try:
        _settle(place)
    finally:
        _remove_lock(place)
        lock.release()
        _remove_lock(place)  # Windows removes no file that is open


def _remove_lock(place: Staging) -> None:
    """Removes the lock of a place that is gone. Without its lock, nobody would clear up what is left of a place."""
    if not place.folder.exists():
        with suppress(OSError):
            place.lock.unlink(missing_ok=True)


def _make(target: Path) -> tuple[Staging, BaseFileLock]:
    while True:
        place = Staging(target.with_name(PREFIX + secrets.token_hex(6)))
        lock = FileLock(place.lock)
        # The lock comes before the folder, so that no folder is ever without one.
        try:
            lock.acquire(timeout=0)
        except Timeout:  # a process that clears up was quicker
            continue
        except (OSError, NotImplementedError):  # a disk that knows no locks: nobody there clears up after others
            with suppress(OSError):
                place.lock.unlink(missing_ok=True)
        if lock.is_locked and not place.lock.exists():  # cleared up before it was locked
            lock.release()
            continue
        try:
            place.folder.mkdir(mode=0o700)
            (place.folder / _OWNER).write_text(json.dumps({"target": target.name, **_this_machine()}))
        except BaseException:
            _leave(place, lock)
            raise
        return place, lock


def recover(parent: Path) -> None:
    """Clears up after processes that were killed while they wrote into a folder.

    Only what this package made and nobody holds is touched. Where it can be neither put back nor removed, a warning
    says what it is.
    """
    try:
        names = [entry.name for entry in os.scandir(parent) if entry.name.startswith(PREFIX)]
    except OSError:  # there is no such folder, or it cannot be read
        return
    for name in names:
        if name.endswith(_LOCK) and _NAME.fullmatch(name.removesuffix(_LOCK)):
            # Somebody else cleared up meanwhile, or the disk knows no locks.
            with suppress(OSError, NotImplementedError):
                _recover(Staging(parent / name.removesuffix(_LOCK)))


def _recover(place: Staging) -> None:
    if not stat.S_ISREG(place.lock.lstat().st_mode) or place.folder.is_symlink():
        return
    lock = FileLock(place.lock)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return  # its process lives
    try:
        if _is_abandoned(place):
            _settle(place)
    finally:
        _remove_lock(place)
        lock.release()


def _is_abandoned(place: Staging) -> bool:
    """Whether a place whose lock is free was left by a process that is gone."""
    owner = _owner(place)
    here = _this_machine()
    if owner is None or any(owner.get(key) == value for key, value in here.items() if value):
        return True
    times = [path.lstat().st_mtime for path in (place.folder, *place.folder.rglob("*"))]
    probe = place.lock
    probe.touch()  # by the clock of the disk, which may be another machine's
    return probe.stat().st_mtime - max(times) > A_DAY


def _this_machine() -> dict[str, str]:
    """What tells this machine from others: its name, and this run of its kernel, which containers share."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return {"host": socket.gethostname(), "boot": boot.read_text().strip() if boot.exists() else ""}


def _owner(place: Staging) -> dict[str, Any] | None:
    """Who made a place and for what; None where that was not written to its end, so that nothing followed it."""
    try:
        owner = json.loads((place.folder / _OWNER).read_text())
        name = owner["target"]
        return owner if name and name == Path(name).name != ".." else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _settle(place: Staging) -> None:
    """Puts back what was there before, if its name is free, and removes the private place."""
    owner = _owner(place)
    if owner is not None:
        target = place.folder.with_name(owner["target"])
        if os.path.lexists(place.old) and not os.path.lexists(target):
            place.old.rename(target)
        left = [*_remove(place.old, is_whole=True), *_remove(place.new, is_whole=place.placing.exists())]
        if left:
            warnings.warn(
                f"{place.folder} holds files of yours ({listed(left)}). They came into {target} while it was being "
                "replaced. Move them to where you want them.",
                stacklevel=2,
            )
            return
        # Some libraries write a file of another name first. `placing` stays for as long as what it is about.
        for path in place.folder.iterdir():
            if path not in (place.old, place.new, place.placing, place.folder / _OWNER):
                _remove(path, is_whole=False)
    with suppress(OSError):  # there is none, or something is left in it
        if not any(os.path.lexists(path) for path in (place.old, place.new)):
            place.placing.unlink(missing_ok=True)
            (place.folder / _OWNER).unlink(missing_ok=True)
            place.folder.rmdir()


def _remove(path: Path, is_whole: bool) -> list[str]:
    """Removes an output. What is whole may be what was there before, so only our own files in it are removed.

    Returns:
        What is left of it, in words.
    """
    with suppress(OSError):  # it goes another time
        if path.is_symlink() or not path.is_dir():
            path.unlink(missing_ok=True)
        elif is_whole:
            return remove_own(path)
        else:
            shutil.rmtree(path)  # unfinished: nobody else knew of it
    return []
