"""Pairs in a table: CSV, TSV or JSON lines, with a column of image files and a column of texts."""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ....keras_models.errors import MobileClipError
from ....keras_models.inputs.image_reading import is_url
from ....keras_models.shown import shown_name
from ....keras_models.store.foreign.foreign_files import ForeignFileError, read_limited
from ....keras_models.store.foreign.json_file import parse_json
from ....verify.evaluation.data.dataset import DataError
from .pair import ImagePlace, Pair

TABLES = (".csv", ".tsv", ".jsonl", ".ndjson")
LARGEST_TABLE = 4 << 30
"""Bytes."""
IMAGE_COLUMNS = (
    *("image", "image_path", "image_file", "img", "img_path", "file_name", "filename"),
    *("filepath", "file_path", "file", "path", "picture", "photo"),
)
"""Names that a column of images goes by, the likeliest first. Capitals, spaces and hyphens do not matter."""
TEXT_COLUMNS = ("text", "caption", "texts", "captions", "title", "description", "sentence", "prompt")
"""The same of texts."""
SEPARATORS = (",", ";", "\t", "|")
"""Of a .csv file. Spreadsheets of some countries write semicolons."""

Cells = dict[str, Any]


def read_table(path: Path, image_column: str | None = None, text_column: str | None = None) -> list[Pair]:
    """The pairs of a table.

    Rows are numbered as an editor or a spreadsheet shows them: the first row of a CSV or TSV file names its columns. A
    value of JSON may be a list of captions. Paths are relative to the table's folder.

    Args:
        path: a file that ends in one of TABLES.
        image_column, text_column: names of columns; None to find them by IMAGE_COLUMNS and TEXT_COLUMNS.

    Raises:
        DataError: where the file cannot be read, or lacks a column.
    """
    wanted = (image_column, text_column)
    content = _content(path)
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        return list(_json_lines(path, content, wanted))
    return list(_rows(path, _decoded(path, content), wanted))


def _content(path: Path) -> bytes:
    try:
        return read_limited(path, LARGEST_TABLE)
    except ForeignFileError as error:
        raise DataError(str(error)) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}.") from error


def _decoded(path: Path, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}, row {row}, is not UTF-8. Save the table as UTF-8.") from error


def _rows(path: Path, text: str, wanted: Sequence[str | None]) -> Iterator[Pair]:
    lines = text.splitlines()
    first = next((line for line in lines if line.strip()), None)
    if first is None:
        raise DataError(f"{path} is empty: it holds no pairs.")
    separator = "\t" if path.suffix.lower() == ".tsv" else _separator(first, wanted)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    number, names, columns = 1, list[str](), ("", "")
    while True:
        where = f"{path.name}, row {number}"
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield Pair(where, problem=f"this and what follows cannot be read: {error}")
            return
        if cells is None:
            return
        if not names and any(cells):
            names = [cell.strip() for cell in cells]
            columns = _columns(path, names, wanted)
        elif any(cell.strip() for cell in cells):
            if len(cells) == len(names):
                yield _pair(path, where, dict(zip(names, cells, strict=True)), columns)
            else:
                yield Pair(where, problem=f"it has {len(cells)} cells, and the first row has {len(names)}")
        number = reader.line_num + 1


def _separator(first: str, wanted: Sequence[str | None]) -> str:
    """What separates the cells of a CSV file: that which gives a first row with both columns."""
    for separator in SEPARATORS:
        names = [name.strip() for name in next(csv.reader([first], delimiter=separator))]
        if all(_find(names, *each) for each in zip(wanted, (IMAGE_COLUMNS, TEXT_COLUMNS), strict=True)):
            return separator
    return SEPARATORS[0]


def _json_lines(path: Path, content: bytes, wanted: Sequence[str | None]) -> Iterator[Pair]:
    columns: tuple[str, str] | None = None
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        where = f"{path.name}, row {number}"
        if not line.strip():
            continue
        try:
            found = parse_json(line, "it")
        except MobileClipError as error:
            yield Pair(where, problem=str(error).rstrip("."))
            continue
        if not isinstance(found, dict):
            yield Pair(where, problem="it is no JSON object")
            continue
        columns = columns or _columns(path, list(found), wanted)
        yield _pair(path, where, found, columns)


def _columns(path: Path, names: list[str], wanted: Sequence[str | None]) -> tuple[str, str]:
    """The names of both columns.

    Raises:
        DataError: saying which columns there are.
    """
    found = []
    for kind, given, known in zip(("image", "text"), wanted, (IMAGE_COLUMNS, TEXT_COLUMNS), strict=True):
        name = _find(names, given, known)
        if name is None:
            there = ", ".join(shown_name(each) for each in names[:20])
            lacks = f"no column {shown_name(given)!r}" if given else f"no column of {kind}s"
            hint = "" if given else f" Name it with --{kind}-column; usual names are {', '.join(known[:4])}."
            raise DataError(f"{path} has {lacks}. Its columns are: {there}.{hint}")
        found.append(name)
    if found[0] == found[1]:
        raise DataError(f"{path}: {shown_name(found[0])!r} cannot be the column of images and that of texts.")
    return found[0], found[1]


def _find(names: list[str], given: str | None, known: tuple[str, ...]) -> str | None:
    if given is not None:
        return given if given in names else None
    plain = {name.strip().lower().replace(" ", "_").replace("-", "_"): name for name in reversed(names)}
    return next((plain[each] for each in known if each in plain), None)


def _pair(path: Path, where: str, cells: Cells, columns: tuple[str, str]) -> Pair:
    image, texts = (cells.get(name) for name in columns)
    captions: list[Any] = texts if isinstance(texts, list) else [texts]
    if not isinstance(image, str) or not image.strip():
        return Pair(where, problem=f"there is no image in {shown_name(columns[0])!r}")
    if not captions or not all(isinstance(text, str) and text.strip() for text in captions):
        return Pair(where, problem=f"the text in {shown_name(columns[1])!r} is empty")
    named = image.strip()
    place = Path(named) if is_url(named) else path.parent / named  # a URL is refused by its name, as any image
    return Pair(where, ImagePlace(place), tuple(text.strip() for text in captions))
