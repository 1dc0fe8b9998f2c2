"""Writing a folder or a file whole or not at all."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..file_names import CONVERSION_FILE
from .exchange import exchange
from .output_errors import OutputError as OutputError
from .output_errors import output_errors
from .own_files import record_files
from .staging import Staging, staged
from .targets import absolute, check_file_there, check_target, check_there

Check = Callable[[Path, bool], None]


@contextmanager
def folder_placed_whole(target: Path, check: Check) -> Iterator[Path]:
    """A new folder beside `target`, which then takes its place together with a record of its files.

    Where anything fails, all that was written is removed and `target` stays as it was.

    Args:
        target: the folder to write or replace.
        check: raises where the folder that was there before may not be removed. Called with its place, and with whether
            to read the files that have the right size and time.
    """
    with _parents_made(target), staged(target) as place:
        place.new.mkdir()
        yield place.new
        record_files(place.new)
        _replace_folder(place, target, check)


def _replace_folder(place: Staging, target: Path, check: Check) -> None:
    """Puts a whole folder in place of another, in one step where the system can."""
    if not os.path.lexists(target):
        try:
            place.new.rename(target)
            return
        except OSError:
            if not os.path.lexists(target):
                raise
            # Something appeared meanwhile, such as what another process wrote there.
    check(target, False)
    place.placing.touch()
    if exchange(place.new, target):
        try:
            check(place.new, True)  # where nobody looks for it by its name any more
        except BaseException:
            exchange(place.new, target)
            raise
        return
    check(target, True)
    target.rename(place.old)
    try:
        place.new.rename(target)
    except BaseException:
        if not os.path.lexists(target):
            place.old.rename(target)
        raise


@contextmanager
def written_whole(target: Path, force: bool, mark: str = CONVERSION_FILE) -> Iterator[Path]:
    """A new folder beside `target`, which takes its place at the end, or is removed where anything fails.

    Args:
        target: the folder to write.
        force: whether to replace one of the same kind.
        mark: the file that every folder of this kind holds.

    Raises:
        OutputError: where there is no room, or no permission.
    """
    check_target(target, force, mark)
    target = absolute(target)

    def check(place: Path, thorough: bool) -> None:
        check_there(target, force, place, mark, thorough=thorough)

    # Checked once more at the end, because writing may have taken minutes.
    with output_errors(target), folder_placed_whole(target, check) as new:
        yield new


@contextmanager
def file_written_whole(target: Path, force: bool) -> Iterator[Path]:
    """A path beside `target` for a new file, which takes its place at the end, or is removed where anything fails.

    Args:
        target: the file to write.
        force: whether to replace a file that is there.

    Raises:
        OutputError: where there is no room, or no permission, or where a file appeared meanwhile.
    """
    target = absolute(target)
    with output_errors(target), _parents_made(target), staged(target) as place:
        yield place.new
        # Some libraries write files that only their maker may read. Any other new file shows the usual permissions.
        place.usual.touch()
        place.new.chmod(place.usual.stat().st_mode & 0o777)
        check_file_there(target, force)
        if force:
            place.new.replace(target)
        else:
            _put(place.new, target)


def _put(new: Path, target: Path) -> None:
    """Gives a file its name, unless something else has it by now."""
    try:
        os.link(new, target)
    except FileExistsError:
        check_file_there(target, force=False)
        raise
    except OSError:  # a disk without hard links
        new.replace(target)


@contextmanager
def _parents_made(target: Path) -> Iterator[None]:
    """Makes the folders above `target`; where anything fails, those that were made and are empty are removed."""
    made = [parent for parent in target.parents if not parent.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for parent in made:  # the innermost first
            with suppress(OSError):
                parent.rmdir()
        raise
