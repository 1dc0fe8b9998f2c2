"""Writing a folder whole or not at all."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import MobileClipError

CONVERSION_FILE = "conversion.json"
"""The record that every converted folder holds, and that tells it from others."""


class OutputError(MobileClipError):
    """An output cannot be written; the message says why, and nothing was left behind."""


def check_target(target: Path, force: bool) -> None:
    """Refuses, before any work, an output that exists already or cannot be put where it is wanted.

    Raises:
        OutputError: saying why.
    """
    if target.exists() and not force:
        raise OutputError(f"{target} exists already. Choose another --out, or replace it with --force.")
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise OutputError(f"{target} is not a folder, and is left alone.")
    if target.exists() and any(target.iterdir()) and not (target / CONVERSION_FILE).exists():
        raise OutputError(f"{target} is not a converted model, and is left alone even with --force.")
    parent = _existing_parent(target)
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"{target} cannot be written: {parent} is not a folder that this user may write to.")


@contextmanager
def written_whole(target: Path, force: bool) -> Iterator[Path]:
    """A new folder beside `target`, which takes its place at the end, or is removed where anything fails.

    Raises:
        OutputError: where there is no room, or no permission.
    """
    check_target(target, force)
    made = [parent for parent in target.parents if not parent.exists()]
    staging: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        staging.chmod(0o777 & ~umask())
        yield staging
        check_target(target, force)  # once more: this may have taken minutes
        _take_place(staging, target)
    except BaseException as error:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
        for parent in made:  # the innermost first; only what this call made, and only while it is empty
            with suppress(OSError):
                parent.rmdir()
        reason = os_reason(error) if isinstance(error, Exception) else None
        if reason is not None:
            raise OutputError(f"{target} could not be written: {reason}. Nothing was left behind.") from error
        raise


@contextmanager
def file_written_whole(target: Path) -> Iterator[Path]:
    """A new file beside `target`, which takes its place at the end, or is removed where anything fails.

    Raises:
        OutputError: where there is no room, or no permission.
    """
    staging: Path | None = None
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.absolute().parent)
        os.close(handle)
        staging = Path(name)
        yield staging
        staging.chmod(0o666 & ~umask())  # what mkstemp makes is for its maker alone; this is as any other new file
        staging.replace(target)
    except BaseException as error:
        if staging is not None:
            staging.unlink(missing_ok=True)
        # Libraries wrap what the system says in errors of their own.
        reason = os_reason(error) if isinstance(error, Exception) else None
        if reason is None:
            raise
        raise OutputError(f"{target} could not be written: {reason}. Nothing was left behind.") from error


def check_file_target(path: Path, suffixes: tuple[str, ...], force: bool) -> None:
    """Refuses, before any work, a file that cannot be written where it is wanted.

    Raises:
        OutputError: saying why.
    """
    if path.suffix not in suffixes:
        raise OutputError(f"{path} must end in {', '.join(suffixes[:-1])} or {suffixes[-1]}.")
    if path.is_dir() or (path.exists() and not force):
        raise OutputError(f"{path} exists already. Choose another --out, or replace a file with --force.")
    parent = path.absolute().parent
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"{path} cannot be written: {parent} is not a folder that this user may write to.")


def os_reason(error: BaseException) -> str | None:
    """What the operating system says is wrong, also where a library wraps it in its own words; else None."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, MobileClipError):
        number = getattr(seen, "errno", None)
        text = str(seen)
        for known in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS):
            if number == known or f"errno = {known}" in text or os.strerror(known) in text:
                return os.strerror(known).lower()
        if isinstance(seen, OSError) and number is not None:
            return os.strerror(number).lower()
        seen = seen.__cause__ or seen.__context__
    return None


def _take_place(staging: Path, target: Path) -> None:
    if not target.exists():
        staging.rename(target)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
    try:
        target.rename(old / "old")
        staging.rename(target)
    except BaseException:
        if (old / "old").exists() and not target.exists():
            (old / "old").rename(target)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _existing_parent(target: Path) -> Path:
    return next(parent for parent in target.absolute().parents if parent.exists())


def umask() -> int:
    """The permissions that new files of this process do not get."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
