"""The shards of a WebDataset: tar files whose members belong together by their names.

A shard may be broken, or made to do harm. Nothing of it is written to the disk, only regular files in it are read, and
of each no more than a limit. Python's `tarfile` takes a damaged header for the end of the archive; here it is not.
"""

import tarfile
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

from ....keras_models.shown import shown_name
from ....keras_models.store.foreign.foreign_files import check_regular
from .dataset import LARGEST_FILE, DataError

BLOCK = tarfile.BLOCKSIZE


@dataclass
class Row:
    """What belongs to one image: the members of one name, by suffix."""

    number: int
    """From 1."""
    key: str
    where: str
    """For messages."""
    parts: dict[str, bytes] = field(default_factory=dict)
    """By the suffix in lower case, without its first dot."""
    places: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Where each part lies in the shard: its first byte, and how many there are."""


def read_shard(path: Path, name: str) -> Iterator[Row]:
    """The rows of a shard, one at a time.

    Args:
        path: the tar file.
        name: what to call it in messages.

    Raises:
        DataError: naming the shard and the row or member, where it is broken or holds anything but files.
    """
    row: Row | None = None
    count = 0
    for member, content, offset in _members(path, name):
        key, suffix = _split(member)
        if row is None or row.key != key:
            if row is not None:
                yield row
            count += 1
            row = Row(count, key, f"{name}, row {count} ({shown_name(key)})")
        if suffix in row.parts:
            raise DataError(f"{row.where}: it has two members with the suffix .{shown_name(suffix)}.")
        row.parts[suffix] = content
        row.places[suffix] = (offset, len(content))
    if row is None:
        raise DataError(f"{name} holds no images.")
    yield row


def _split(member: str) -> tuple[str, str]:
    """A member's name up to the first dot in its last part, and what comes after, as WebDataset has it."""
    folder, slash, base = member.rpartition("/")
    stem, _, suffix = base.partition(".")
    return f"{folder}{slash}{stem}", suffix.lower()


class _Bounded:
    """A file that is never asked for more at once than a member may have: headers, too, say how long they are."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if size > LARGEST_FILE or size < 0:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return self._file.read(size)


def _members(path: Path, name: str) -> Iterator[tuple[str, bytes, int]]:
    """Names, contents and places of the members, but for folders and WebDataset's own notes."""
    try:
        check_regular(path)
        with open(path, "rb") as file:
            archive = tarfile.open(fileobj=cast(BinaryIO, _Bounded(file)), mode="r:")  # noqa: SIM115
            count = yield from _read(archive, name)
            file.seek(archive.offset)
            if file.read(BLOCK).strip(b"\0") or file.tell() < archive.offset + BLOCK:
                raise DataError(f"{name} is broken or cut off after member {count}, at byte {archive.offset:,}.")
    except FileNotFoundError as error:
        raise DataError(f"{name} is missing.") from error
    except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError) as error:
        raise DataError(f"{name} cannot be read as a tar file: {shown_name(str(error))}.") from error


def _read(archive: tarfile.TarFile, name: str) -> Generator[tuple[str, bytes, int], None, int]:
    """As `_members`, up to what tarfile takes for the end. Gives how many there were."""
    count = 0
    while (member := archive.next()) is not None:
        cast(Any, archive).members = []  # else it keeps them all
        count += 1
        where = f"{name}, member {count} ({shown_name(member.name)})"
        if member.isdir() or member.name.rpartition("/")[2].startswith("__"):
            continue
        if not member.isreg() or member.issparse():
            raise DataError(f"{where} is no regular file, and is not read.")
        if member.size > LARGEST_FILE:
            raise DataError(f"{where} has {member.size:,} bytes; {LARGEST_FILE:,} are allowed.")
        opened = archive.extractfile(member)
        try:
            content = b"" if opened is None else opened.read()
        except (tarfile.TarError, EOFError) as error:
            raise DataError(f"{where} is cut off: {shown_name(str(error))}.") from error
        if len(content) != member.size:
            raise DataError(f"{where} is cut off: it has {len(content):,} of {member.size:,} bytes.")
        yield member.name, content, member.offset_data
    return count
