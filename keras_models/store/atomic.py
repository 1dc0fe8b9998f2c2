"""Writing a folder or a file whole or not at all."""

import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import MobileClipError
from .file_names import CONVERSION_FILE


class OutputError(MobileClipError):
    """An output cannot be written; the message says why, and nothing was left behind."""


@contextmanager
def placed_whole(target: Path, check: Callable[[], None] = lambda: None) -> Iterator[Path]:
    """A path beside `target`, to write a file or a folder at, which then takes the place of `target`.

    Where anything fails, all that was written is removed and `target` stays as it was.

    Args:
        target: what to write or replace.
        check: called just before the replacement; raises where `target` may not be replaced.
    """
    made = [parent for parent in target.absolute().parents if not parent.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Only this folder is private to its maker. What is made inside has the usual permissions of new files.
        with tempfile.TemporaryDirectory(
            prefix=f".{target.name}.", dir=target.absolute().parent, ignore_cleanup_errors=True
        ) as beside:
            staged, old = Path(beside) / "new", Path(beside) / "old"
            yield staged
            check()
            _take_place(staged, target, old)
    except BaseException:
        for parent in made:  # the innermost first; only what this call made, and only while it is empty
            with suppress(OSError):
                parent.rmdir()
        raise


def _take_place(staged: Path, target: Path, old: Path) -> None:
    if not staged.is_dir():
        # Some libraries write files that only their maker may read. Any other new file shows the usual permissions.
        usual = staged.with_name("usual")
        usual.touch()
        staged.chmod(usual.stat().st_mode & 0o777)
        staged.replace(target)
        return
    if target.exists():
        target.rename(old)
    try:
        staged.rename(target)
    except BaseException:
        if old.exists() and not target.exists():
            old.rename(target)
        raise


@contextmanager
def written_whole(target: Path, force: bool) -> Iterator[Path]:
    """A new folder beside `target`, which takes its place at the end, or is removed where anything fails.

    Raises:
        OutputError: where there is no room, or no permission.
    """
    check_target(target, force)
    # Checked once more at the end, because writing may have taken minutes.
    with _output_errors(target), placed_whole(target, lambda: check_target(target, force)) as staged:
        staged.mkdir()
        yield staged


@contextmanager
def file_written_whole(target: Path) -> Iterator[Path]:
    """A path beside `target` for a new file, which takes its place at the end, or is removed where anything fails.

    Raises:
        OutputError: where there is no room, or no permission.
    """
    with _output_errors(target), placed_whole(target) as staged:
        yield staged


@contextmanager
def _output_errors(target: Path) -> Iterator[None]:
    """Turns what the operating system reports into an OutputError."""
    try:
        yield
    except Exception as error:  # libraries wrap what the system says in errors of their own
        reason = os_reason(error)
        if reason is None:
            raise
        raise OutputError(f"{target} could not be written: {reason}. Nothing was left behind.") from error


def check_target(target: Path, force: bool) -> None:
    """Refuses, before any work, a folder that exists already or cannot be put where it is wanted.

    Raises:
        OutputError: saying why.
    """
    if target.exists() and not force:
        raise OutputError(f"{target} exists already. Choose another --out, or replace it with --force.")
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise OutputError(f"{target} is not a folder, and is left alone.")
    if target.exists() and any(target.iterdir()) and not (target / CONVERSION_FILE).exists():
        raise OutputError(f"{target} is not a converted model, and is left alone even with --force.")
    parent = next(parent for parent in target.absolute().parents if parent.exists())
    if not _is_writable(parent):
        raise OutputError(f"{target} cannot be written: {parent} is not a folder that this user may write to.")


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
    if not _is_writable(parent):
        raise OutputError(f"{path} cannot be written: {parent} is not a folder that this user may write to.")


def _is_writable(folder: Path) -> bool:
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


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
