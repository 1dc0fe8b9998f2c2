"""Whether something may be written where it is wanted: asked before any work, and again before it takes its place."""

import os
import stat
from contextlib import suppress
from pathlib import Path

from ..file_names import CONVERSION_FILE
from .output_errors import OutputError, output_errors
from .own_files import foreign_files, listed
from .staging import recover


def absolute(path: Path) -> Path:
    """The path without dots, links left as they are."""
    return Path(os.path.abspath(path))


def check_target(target: Path, force: bool, mark: str = CONVERSION_FILE) -> None:
    """Refuses, before any work, a folder that exists already or cannot be put where it is wanted.

    What a process that was killed left beside it is cleared up first. `mark` is as for `check_there`.

    Raises:
        OutputError: saying why.
    """
    place = absolute(target)
    with output_errors(target):
        recover(place.parent)
        recover(place)
        check_there(place, force, mark=mark)
    _check_writable(target, next(parent for parent in (*place.parents, place) if parent.exists()))


def check_there(
    target: Path, force: bool, place: Path | None = None, mark: str = CONVERSION_FILE, *, thorough: bool = True
) -> None:
    """Refuses to replace a folder that is not ours, and any without `force`.

    Args:
        target: the absolute path to write.
        force: whether to replace what is there.
        place: where that lies now; None for `target` itself.
        mark: the file that every folder of the kind holds that is written.
        thorough: whether to read files that have the right size and time.
    """
    place = place or target
    if not _is_there(place):
        return
    if not force:
        raise OutputError(f"{target} exists already. Choose another --out, or replace it with --force.")
    reason = reason_to_leave(place)
    if reason is None and any(place.iterdir()) and not (place / mark).exists():
        reason = f"is not {'a converted model' if mark == CONVERSION_FILE else 'a bundle'}"
    reason = reason or foreign_in(place, thorough=thorough)
    if reason is not None:
        raise OutputError(f"{target} {reason}, and is left alone even with --force.")


def reason_to_leave(place: Path) -> str | None:
    """Why a folder cannot be replaced by another, whatever it holds, as the end of a sentence; None where it can."""
    if place.is_symlink() or not place.is_dir():
        return "is not a folder"
    if place.is_mount():
        return "is a disk of its own, which no folder can replace"
    with suppress(OSError):  # of a process whose folder was removed
        here = Path.cwd()
        if any(place.samefile(folder) for folder in (here, *here.parents)):
            return "is the current folder or holds it"
    return None


def foreign_in(place: Path, *, thorough: bool = True) -> str | None:
    """What a folder holds that is not ours to remove, as the end of a sentence; None where there is nothing.

    `thorough` is as for `foreign_files`.
    """
    foreign = _steady(place, thorough)
    if foreign is None:
        return "was not written by this program"
    if foreign:
        return f"holds what this program did not write ({listed(foreign)})"
    return None


def _steady(place: Path, thorough: bool) -> list[str] | None:
    """`foreign_files` of one and the same folder: another process may replace it while it is looked at."""
    while True:
        before = place.stat().st_ino
        try:
            foreign = foreign_files(place, thorough=thorough)
        except FileNotFoundError:
            if place.stat().st_ino == before:
                raise
            continue
        if foreign == [] or place.stat().st_ino == before:
            return foreign


def check_file_target(path: Path, suffixes: tuple[str, ...], force: bool) -> None:
    """Refuses, before any work, a file that cannot be written where it is wanted.

    Raises:
        OutputError: saying why.
    """
    if path.suffix not in suffixes:
        endings = " or ".join(filter(None, (", ".join(suffixes[:-1]), suffixes[-1])))
        raise OutputError(f"{path} must end in {endings}.")
    with output_errors(path):
        recover(absolute(path).parent)
        check_file_there(path, force)
    _check_writable(path, absolute(path).parent)


def check_file_there(path: Path, force: bool) -> None:
    """Refuses to replace what is no file, and anything without `force`."""
    if not _is_there(path):
        return
    if not force:
        raise OutputError(f"{path} exists already. Choose another --out, or replace a file with --force.")
    if not stat.S_ISREG(path.lstat().st_mode):
        raise OutputError(f"{path} is a folder, a link or a device, not a file, and is left alone even with --force.")


def _is_there(path: Path) -> bool:
    """Whether a path leads to anything, be it a link to nothing. A path that the system refuses is its error."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _check_writable(target: Path, folder: Path) -> None:
    if not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
        raise OutputError(f"{target} cannot be written: {folder} is not a folder that this user may write to.")
