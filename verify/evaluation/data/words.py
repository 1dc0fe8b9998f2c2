"""The text files and the small members of a data set: names of classes, templates, labels, captions."""

import io
from string import Formatter
from typing import TYPE_CHECKING

import numpy as np

from ....keras_models.shown import shown
from .dataset import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

LARGEST_TEXT = 16 << 20
"""Bytes of a text file."""
LARGEST_CAPTIONS = 1 << 20
MOST_CLASSES = 1_000_000
SHOWN = 60
"""Characters of somebody's text that a message quotes."""


def lines(content: bytes, name: str) -> list[str]:
    """The lines of a text file, without the spaces around them."""
    try:
        return [line.strip() for line in content.decode("utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise DataError(f"{name} is not a UTF-8 text file.") from error


def class_names(content: bytes, name: str) -> tuple[str, ...]:
    """One on each line; a name may stand there twice, as in ImageNet's usual list."""
    found = lines(content, name)
    if not 0 < len(found) <= MOST_CLASSES:
        raise DataError(f"{name} names {len(found):,} classes.")
    for row, line in enumerate(found, 1):
        if not line:
            raise DataError(f"{name}, row {row}: the name of a class is missing.")
    return tuple(found)


def templates(content: bytes, name: str) -> tuple[str, ...]:
    """One on each line, with {c} where the name of the class goes."""
    found = lines(content, name)
    if not found:
        raise DataError(f"{name} is empty.")
    for row, line in enumerate(found, 1):
        check_template(line, f"{name}, row {row}")
    return tuple(found)


def check_template(template: str, where: str) -> None:
    """Raises DataError unless a template holds {c}, and nothing else between braces."""
    try:
        slots = [field for field in Formatter().parse(template) if field[1] is not None]
    except ValueError as error:
        raise DataError(f"{where}: {_quoted(template)} is no template: {error}.") from error
    if not slots or any(slot[1:] != ("c", "", None) for slot in slots):
        raise DataError(f"{where}: {_quoted(template)} is no template: it needs {{c}}, and no other braces.")


def prompt(template: str, label: str) -> str:
    """A template with the name of a class, as Python's `format` fills it in."""
    parts = Formatter().parse(template)
    return "".join(text + (label if slot is not None else "") for text, slot, _, _ in parts)


def label(content: bytes, where: str, classes: int) -> int:
    """The number of a class, from 0."""
    text = content[:40].decode("ascii", "replace").strip()
    if len(content) > 40 or not text.isdigit() or not text.isascii():
        raise DataError(f"{where}: the label {_quoted(text)} is not the number of a class.")
    if int(text) >= classes:
        raise DataError(f"{where}: the label is {int(text)}, and there are {classes} classes, from 0 on.")
    return int(text)


def labels(content: bytes, where: str, classes: int) -> "NDArray[np.uint8]":
    """One 0 or 1 for each class, from a NumPy file."""
    try:
        found = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, OSError, EOFError, MemoryError, SyntaxError) as error:
        raise DataError(f"{where}: the labels are not a NumPy array.") from error
    if not isinstance(found, np.ndarray) or found.shape != (classes,):
        raise DataError(f"{where}: the labels have shape {getattr(found, 'shape', ())}, not ({classes},).")
    if found.dtype.kind not in "biuf" or not np.isin(found, (0, 1)).all():
        raise DataError(f"{where}: the labels must be 0 or 1 for each class.")
    return found.astype(np.uint8)


def captions(content: bytes, where: str) -> tuple[str, ...]:
    """One on each line."""
    if len(content) > LARGEST_CAPTIONS:
        raise DataError(f"{where}: the captions have more than {LARGEST_CAPTIONS:,} bytes.")
    try:
        found = tuple(content.decode("utf-8").splitlines())
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: the captions are not UTF-8.") from error
    if not found:
        raise DataError(f"{where}: there is no caption.")
    return found


def _quoted(text: str) -> str:
    return repr(shown(text[:SHOWN] + ("…" if len(text) > SHOWN else "")))
