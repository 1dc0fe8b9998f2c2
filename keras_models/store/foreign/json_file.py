"""The one reader of JSON: everything is bounded before anybody looks at it."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import MobileClipError
from .foreign_files import read_limited

WHOLE_DIGITS = 18
"""Of a whole number, so that it fits 64 bits."""


class JsonError(MobileClipError):
    """A file is no JSON, or holds more than it may; the message names the file."""


@dataclass(frozen=True)
class Limits:
    """What a JSON file may hold at most. The usual ones are far above what records need."""

    size: int = 2 << 20
    """Bytes."""
    depth: int = 24
    """Lists and objects inside each other."""
    items: int = 50_000
    """Values, and names of values."""
    text: int = 20_000
    """Characters of one string."""


RECORD = Limits()


def read_json(path: Path, limits: Limits = RECORD, folder: Path | None = None) -> Any:
    """What a JSON file holds.

    Args:
        path: the file, in UTF-8.
        limits: how much it may hold.
        folder: that the file must lie in, as for `foreign_files.check_regular`.

    Raises:
        JsonError: where it is no JSON, has a name twice, a number that is not finite or longer than 64 bits, or more
            than the limits allow.
        ForeignFileError: where it is no regular file of the folder, or too large.
        OSError: where it is missing or may not be read.
    """
    return parse_json(read_limited(path, limits.size, folder), str(path), limits)


def parse_json(content: bytes, what: str, limits: Limits = RECORD) -> Any:
    """What a text in UTF-8 says.

    Args:
        content: the text.
        what: it is, for messages.
        limits: how much it may hold.

    Raises:
        JsonError: as `read_json`.
    """
    if len(content) > limits.size:
        raise JsonError(f"{what} is longer than {limits.size:,} bytes.")
    try:
        found = json.loads(
            content.decode("utf-8-sig"),
            parse_int=_whole,
            parse_float=_number,
            parse_constant=_constant,
            object_pairs_hook=_once,
        )
    except RecursionError as error:
        raise JsonError(f"{what} is nested deeper than {limits.depth} levels.") from error
    except ValueError as error:
        raise JsonError(f"{what} is not JSON that can be used: {error}.") from error
    reason = _beyond(found, limits)
    if reason:
        raise JsonError(f"{what} {reason}.")
    return found


def _whole(digits: str) -> int:
    if len(digits.lstrip("-")) > WHOLE_DIGITS:
        raise ValueError(f"a whole number of {len(digits)} digits")
    return int(digits)


def _number(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits[:30]} is too large a number")
    return value


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is no number")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise ValueError(f"it says {twice[:100]!r} twice")
    return found


def _beyond(content: Any, limits: Limits) -> str | None:
    """Which limit a value goes beyond, in words."""
    items, level, depth = 1, [content], 0
    while level:
        deeper: list[Any] = []
        for value in level:
            if isinstance(value, str) and len(value) > limits.text:
                return f"holds a text of {len(value):,} characters; {limits.text:,} are allowed"
            if isinstance(value, dict):
                deeper += value
                deeper += value.values()
            elif isinstance(value, list):
                deeper += value
        items += len(deeper)
        if items > limits.items:
            return f"holds more than {limits.items:,} values"
        depth += 1
        if depth > limits.depth + 1:
            return f"is nested deeper than {limits.depth} levels"
        level = deeper
    return None
