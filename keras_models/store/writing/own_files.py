"""Which files of a folder this package wrote: a record with their sizes and hashes, written beside them.

Only what a record names is ever replaced or removed, and only while it is as it was written. Everything else in a
folder is somebody's own: a file that was added, a file of ours that was changed.
"""

import hashlib
import json
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from ..file_names import CONFIG, CONVERSION_FILE, FILES_RECORD, METADATA, TRAIN_FOLDER, WEIGHTS
from ..folder import FolderError, form_folders

FORMAT = 1
PROGRAM = "mobileclip-keras"
LARGEST_RECORD = 1 << 20  # bytes; of a dozen files, it takes about 2000

# What may lie in a folder of a version that wrote no record of its files.
SAVED_FILES = (CONFIG, METADATA, WEIGHTS, "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json")
CONVERTED_FILES = (
    *SAVED_FILES,
    *(f"{TRAIN_FOLDER}/{name}" for name in (CONFIG, METADATA, WEIGHTS)),
    *(CONVERSION_FILE, "verification.json", "verification.png", "README.md", "LICENSE"),
)


@dataclass(frozen=True)
class Noted:
    """What a record says of one file."""

    size: int | None = None
    """In bytes; None where it is not known."""
    hashes: tuple[str, ...] = ()
    """SHA-256 in hexadecimal; several while a file is being replaced, none where it is not known."""
    modified: int | None = None
    """When the file was last written, in nanoseconds. A copy has another time and is the same file."""

    def is_right(self, path: Path, *, trust_time: bool = False) -> bool:
        """Whether a path is a file with this content.

        Args:
            path: to look at. A link is not what was written.
            trust_time: whether a file of the right size and time need not be read.
        """
        try:
            found = path.lstat()
            if not stat.S_ISREG(found.st_mode) or self.size not in (None, found.st_size):
                return False
            if not self.hashes or (trust_time and self._has_time(found.st_mtime_ns)):
                return True
            return sha256(path) in self.hashes
        except OSError:
            return False

    def _has_time(self, found: int) -> bool:
        """Whether a file was last written when this says, to the second where an archive kept no more."""
        return self.modified is not None and found in (self.modified, self.modified - self.modified % 10**9)


SMALL = 2**20
"""Bytes. Reading a smaller file costs nothing."""

Record = dict[str, Noted]
"""By the path in the folder, with / between its parts."""


def sha256(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_written(path: Path) -> str:
    """The same of a file that this process wrote and nobody else can have found: large ones are read once.

    Several records name the weights that were just written. A second reading would cost a tenth of a conversion.
    """
    found = path.stat()
    if found.st_size < SMALL:  # two writings within one tick of the clock would look alike
        return sha256(path)
    return _sha256_in_state(path, (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns))


@lru_cache(maxsize=64)
def _sha256_in_state(path: Path, state: tuple[int, ...]) -> str:
    return sha256(path)


def note(path: Path) -> Noted:
    """What is to be recorded of a file that was just written."""
    found = path.stat()
    return Noted(found.st_size, (sha256_of_written(path),), found.st_mtime_ns)


def record_files(folder: Path) -> None:
    """Writes the record of every file that is now in a folder, which only this package has written to."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    write_record(folder, {path.relative_to(folder).as_posix(): note(path) for path in paths})


def write_record(folder: Path, record: Record) -> None:
    """Writes a record of files into a folder."""
    files = {
        path: {"size": noted.size, "sha256": list(noted.hashes), "modified_ns": noted.modified}
        for path, noted in sorted(record.items())
    }
    content = {"program": PROGRAM, "format": FORMAT, "files": files}
    (folder / FILES_RECORD).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_record(folder: Path) -> Record | None:
    """The record in a folder; None where there is none, or none that can be understood."""
    content = _json(folder / FILES_RECORD)
    try:
        if content["program"] != PROGRAM or content["format"] != FORMAT:
            return None
        return {
            str(path): Noted(noted["size"], tuple(noted["sha256"]), noted["modified_ns"] and int(noted["modified_ns"]))
            for path, noted in content["files"].items()
            # A record with anything less would let a file pass as ours by its name.
            if isinstance(noted["sha256"], list) and noted["sha256"]
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def own_record(folder: Path) -> Record | None:
    """The record in a folder; for a folder of an older version, what it holds by construction. None for any other."""
    if os.path.lexists(folder / FILES_RECORD):
        return read_record(folder)
    try:
        forms = form_folders(folder)
    except FolderError:
        return None
    if not (folder / CONVERSION_FILE).exists():
        return dict.fromkeys(SAVED_FILES, Noted()) if list(forms.values()) == [folder] else None
    hashes = _weights_hashes(folder)
    if not forms.keys() <= hashes.keys():
        return None
    weights = {(place / WEIGHTS).relative_to(folder).as_posix(): hashes[form] for form, place in forms.items()}
    return {name: Noted(hashes=(weights[name],)) if name in weights else Noted() for name in CONVERTED_FILES}


def _weights_hashes(folder: Path) -> dict[str, str]:
    """The hashes that an older version wrote into its record of the conversion; empty where it is not ours."""
    try:
        hashes = dict(_json(folder / CONVERSION_FILE)["weights_sha256"])
    except (KeyError, TypeError, ValueError):
        return {}
    return {form: value for form, value in hashes.items() if isinstance(value, str)}


def _json(path: Path) -> Any:
    """What a small JSON file holds; None where it cannot be read."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode) or path.stat().st_size > LARGEST_RECORD:
            return None
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def foreign_files(folder: Path, *, thorough: bool = True) -> list[str] | None:
    """What lies in a folder and was not written by this package, or was changed since, in words.

    Args:
        folder: to look at. Nothing in it is opened through a link.
        thorough: whether to read files of the right size and time.

    Returns:
        None where the folder as a whole is not one that this package wrote.
    """
    record = own_record(folder)
    if record is None:
        return [] if folder.is_dir() and not any(folder.iterdir()) else None
    folders = {parent.as_posix() for path in record for parent in PurePosixPath(path).parents}

    def look(place: Path) -> Iterator[str]:
        for entry in sorted(os.scandir(place), key=lambda entry: entry.name):
            path = Path(entry.path).relative_to(folder).as_posix()
            if entry.is_dir(follow_symlinks=False):
                if path in folders:
                    yield from look(Path(entry.path))
                else:
                    yield f"{shown(path)}/"
            elif path == FILES_RECORD:
                continue
            elif path not in record:
                yield shown(path)
            elif not record[path].is_right(Path(entry.path), trust_time=not thorough):
                yield f"{shown(path)} (changed since it was written)"

    return list(look(folder))


def remove_own(folder: Path) -> list[str]:
    """Removes a folder that this package wrote, unless anything else lies in it.

    What tells that the folder is ours goes last, so that a removal that is broken off can go on.

    Returns:
        What is left and why, in words; empty where the folder is gone.
    """
    foreign = foreign_files(folder)
    if foreign is None:
        return [f"{shown(folder.name)}/"]
    if foreign:
        return foreign
    record = own_record(folder) or {}
    last = (CONVERSION_FILE, CONFIG, FILES_RECORD)
    for path in record:
        if path not in last:
            (folder / path).unlink(missing_ok=True)
    below = {parent for path in record for parent in PurePosixPath(path).parents if parent.parts}
    for parent in sorted(below, key=lambda parent: -len(parent.parts)):
        with suppress(FileNotFoundError):
            (folder / parent).rmdir()
    for path in last:
        (folder / path).unlink(missing_ok=True)
    folder.rmdir()
    return []


def shown(name: str) -> str:
    """A name from the disk as it can be printed."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def listed(names: Iterable[str], most: int = 10) -> str:
    """Names with commas between them, the first ones of many."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
