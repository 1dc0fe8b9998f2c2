"""Writing some files of a folder anew, each whole, and its record with them."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from ..file_names import FILES_RECORD
from .output_errors import OutputError, output_errors
from .own_files import CONVERTED_FILES, Noted, Record, listed, note, own_record, read_record, write_record
from .staging import Staging, recover, staged


@contextmanager
def rewritten(folder: Path, names: Sequence[str]) -> Iterator[Path]:
    """A second folder of the same files, to write some of them anew; at the end those take their places, each whole.

    Args:
        folder: one that this package wrote.
        names: of files in it that may be written. The others must only be read.

    Raises:
        OutputError: where one of these files is not as this package wrote it, or cannot be replaced.
    """
    check_rewritable(folder, names)
    with output_errors(folder), staged(folder / "files") as place:
        place.new.mkdir()
        for path in own_record(folder) or CONVERTED_FILES:
            if path not in names and (folder / path).is_file():
                (place.new / path).parent.mkdir(parents=True, exist_ok=True)
                _same_file(folder / path, place.new / path)
        yield place.new
        _replace_files(place, folder, [name for name in names if (place.new / name).exists()])


def write_texts(folder: Path, texts: dict[str, str]) -> None:
    """Writes small files into a folder, each whole. A record of files that is there names them from then on.

    Args:
        folder: made where there is none.
        texts: what to write, by the names of the files.

    Raises:
        OSError: where the folder cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with staged(folder / "files") as place:
        place.new.mkdir()
        for name, text in texts.items():
            (place.new / name).write_text(text, encoding="utf-8")
        _replace_files(place, folder, list(texts))


def _same_file(source: Path, other: Path) -> None:
    try:
        os.link(source, other)
    except OSError:  # a disk without hard links
        shutil.copyfile(source, other)


def _replace_files(place: Staging, folder: Path, names: list[str]) -> None:
    """Moves new files into a folder, where its record says of each that it is ours, at any moment."""
    record = read_record(folder)
    made = {name: note(place.new / name) for name in names}
    if record is not None:
        _write_record(place, folder, record | {name: _either(record.get(name), new) for name, new in made.items()})
    for name in names:
        (place.new / name).replace(folder / name)
    if record is not None:
        _write_record(place, folder, record | made)


def _either(old: Noted | None, new: Noted) -> Noted:
    """What is noted of a file while it may be the old one or the new one."""
    return new if old is None else replace(new, size=None, hashes=(*old.hashes, *new.hashes))


def _write_record(place: Staging, folder: Path, record: Record) -> None:
    write_record(place.new, record)
    (place.new / FILES_RECORD).replace(folder / FILES_RECORD)


def check_rewritable(folder: Path, names: Sequence[str]) -> None:
    """Refuses, before any work, to replace files in a folder that this package did not write.

    Raises:
        OutputError: naming them.
    """
    recover(folder)
    record = own_record(folder) or {}
    there = [name for name in names if os.path.lexists(folder / name)]
    wrong = [name for name in there if name in record and not record[name].is_right(folder / name)]
    if wrong:
        raise OutputError(
            f"{folder} holds files that were changed since they were written: {listed(wrong)}. They would be replaced. "
            "Move them away, or give them other names."
        )
