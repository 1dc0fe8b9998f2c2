"""The inputs in one unit of a collection, one after the other. What cannot be read becomes an item with a reason."""

import os
import tarfile
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ...errors import MissingPackageError
from ...inputs.image_reading import readable_suffixes
from ...store.foreign.foreign_files import check_regular
from ..embedding_readers import pyarrow
from .finding import Unit
from .items import Item, image_file, make_id, printable, unreadable

COLUMNS = ("image", "path")
"""The columns that are looked for in Parquet files, the first that is there."""
ROWS_AT_ONCE = 64
"""Of a Parquet file, in memory."""
LARGEST_IMAGE_FILE = 256 << 20
"""Bytes."""
LONGEST_TEXT = 1 << 20
"""Bytes of one line."""


def read_unit(unit: Unit, column: str | None = None) -> Iterator[Item]:
    """The inputs in a unit.

    Args:
        unit: as `find_units` gives it.
        column: of Parquet files, with the pictures' bytes or paths; None for "image", else "path".

    Raises:
        MissingPackageError: for Parquet without pyarrow.
    """
    if unit.kind == "images":
        yield from map(image_file, unit.paths)
        return
    (path,) = unit.paths
    try:
        check_regular(Path(path))
        yield from {"shard": _shard, "parquet": _parquet, "texts": _texts}[unit.kind](path, column)
    except MissingPackageError:
        raise
    except FileNotFoundError:
        yield unreadable(path, "", f"{printable(path)} does not exist.")
    except Exception as error:  # tarfile, zlib and pyarrow raise nearly every kind on damaged files
        yield unreadable(path, "", f"{printable(path)} cannot be read to its end: {error}")


def _shard(path: str, _: str | None) -> Iterator[Item]:
    """The pictures in a WebDataset shard."""
    place, suffixes = os.path.abspath(path), readable_suffixes()
    with _opened(path) as archive:
        for member in archive:
            archive.members = []  # else it keeps what it knows of every file
            if not member.isfile() or Path(member.name).suffix.lower() not in suffixes:
                continue
            if Path(member.name).name.startswith("."):
                continue
            name = f"{printable(path)}#{printable(member.name)}"
            if member.size > LARGEST_IMAGE_FILE:
                yield unreadable(path, f"#{printable(member.name)}", f"{name} has {member.size:,} bytes.")
                continue
            yield Item(make_id("shard", place, member.name), "image", name, partial(_content, archive, member))
        _check_end(archive)


def _opened(path: str) -> Any:
    try:
        return tarfile.open(path, "r:*")
    except tarfile.ReadError as error:  # which lists what every decompressor says
        raise tarfile.ReadError("it is no tar archive, or ends in its first header") from error


def _check_end(archive: Any) -> None:
    """Refuses an archive that goes on behind its last file: tarfile ends at a damaged header without a word."""
    archive.fileobj.seek(archive.offset)
    if archive.fileobj.read(tarfile.BLOCKSIZE).strip(b"\0"):
        raise tarfile.ReadError(f"what follows from byte {archive.offset:,} on is damaged")


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    try:
        file = archive.extractfile(member)
        content = b"" if file is None else file.read()
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise OSError(f"the archive is damaged here: {error}") from error
    if len(content) != member.size:
        raise OSError("the archive ends within it")
    return content


def _parquet(path: str, column: str | None) -> Iterator[Item]:
    """The rows of a Parquet file: pictures' bytes, or paths relative to the file's folder."""
    _, parquet = pyarrow()
    place, folder, row = os.path.abspath(path), Path(path).parent, 0
    with parquet.ParquetFile(path) as file:
        names = file.schema_arrow.names
        wanted = [column] if column else [name for name in COLUMNS if name in names]
        if not wanted or wanted[0] not in names:
            missing = f"no column {column!r}" if column else "neither a column 'image' nor a column 'path'"
            raise ValueError(f"it has {missing}; its columns are {', '.join(names[:20])}")
        for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, columns=[wanted[0]], use_threads=False):
            for cell in batch.column(0):
                yield _cell(cell.as_py(), path, place, folder, row)
                row += 1


def _cell(value: Any, path: str, place: str, folder: Path, row: int) -> Item:
    if isinstance(value, dict):  # as Hugging Face's data sets store pictures
        value = value.get("bytes") or value.get("path")
    where = f"#{row}"
    if isinstance(value, str) and value:
        beside = folder / value
        return image_file(str(beside) if beside.exists() or not os.path.exists(value) else value)
    if isinstance(value, bytes) and value:
        return Item(make_id("row", place, str(row)), "image", printable(path) + where, lambda: value)
    kind = "nothing" if value is None or value in ("", b"") else f"a {type(value).__name__}"
    return unreadable(path, where, f"{printable(path)}, row {row}, holds {kind} where a picture or a path should be.")


def _texts(path: str, _: str | None) -> Iterator[Item]:
    """The lines of a text file that are not empty."""
    place = os.path.abspath(path)
    with open(path, "rb") as file:
        number = 0
        while line := file.readline(LONGEST_TEXT + 1):
            number += 1
            where = f"#{number}"
            if len(line) > LONGEST_TEXT:
                yield unreadable(
                    path, where, f"{printable(path)}, line {number}, has more than {LONGEST_TEXT:,} bytes."
                )
                return
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            except UnicodeDecodeError:
                yield unreadable(path, where, f"{printable(path)}, line {number}, is not UTF-8.")
                continue
            if text:
                # With the text, because a line that was put in moves all others by one.
                yield Item(make_id("line", place, str(number), text), "text", text, partial(str, text))
