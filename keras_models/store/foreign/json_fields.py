"""What a JSON record may say: a type and a range for each of its fields.

A check is a function of a value. It gives one sentence for each thing that is wrong, each with the name of the field.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

Check = Callable[[Any, str], Iterator[str]]
"""Of a value and its name in the record; the sentences begin with that name."""

SHOWN = 80
"""Characters of a wrong value that a sentence quotes."""


def problems(content: Any, check: Check) -> list[str]:
    """Everything that is wrong with a record, in plain words; empty where it is as the check says."""
    return list(check(content, ""))


def anything(value: Any, name: str) -> Iterator[str]:
    """Any value: nobody relies on it."""
    yield from ()


def text(longest: int = 1000, among: tuple[str, ...] | None = None) -> Check:
    """A string of bounded length, or one of those given."""

    def check(value: Any, name: str) -> Iterator[str]:
        if among is not None and not (isinstance(value, str) and value in among):
            yield f"{name} must be {_either(among)}, not {_quoted(value)}"
        elif not isinstance(value, str):
            yield f"{name} must be a text, not {_quoted(value)}"
        elif len(value) > longest:
            yield f"{name} has {len(value):,} characters; {longest:,} are allowed"

    return check


def sha256(value: Any, name: str) -> Iterator[str]:
    """A SHA-256 in hexadecimal."""
    if not (isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")):
        yield f"{name} must be a SHA-256 in hexadecimal, not {_quoted(value)}"


def whole(low: int, high: int) -> Check:
    """A whole number from `low` to `high`."""

    def check(value: Any, name: str) -> Iterator[str]:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            yield f"{name} must be a whole number from {low} to {high}, not {_quoted(value)}"

    return check


def number(low: float, high: float) -> Check:
    """A number from `low` to `high`."""

    def check(value: Any, name: str) -> Iterator[str]:
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            yield f"{name} must be a number from {low:g} to {high:g}, not {_quoted(value)}"

    return check


def flag(value: Any, name: str) -> Iterator[str]:
    """true or false."""
    if not isinstance(value, bool):
        yield f"{name} must be true or false, not {_quoted(value)}"


def nullable(inner: Check) -> Check:
    """null, or what `inner` allows."""

    def check(value: Any, name: str) -> Iterator[str]:
        if value is not None:
            yield from inner(value, name)

    return check


def listed(inner: Check, most: int, least: int = 0) -> Check:
    """A list of what `inner` allows."""

    def check(value: Any, name: str) -> Iterator[str]:
        if not isinstance(value, list):
            yield f"{name} must be a list, not {_quoted(value)}"
        elif not least <= len(value) <= most:
            count = f"{least}" if least == most else f"{least} to {most}"
            yield f"{name} must hold {count} values, not {len(value)}"
        else:
            for index, each in enumerate(value):
                yield from inner(each, f"{name}[{index}]")

    return check


def mapping(inner: Check, most: int, longest: int = 200) -> Check:
    """An object of any names, each with what `inner` allows."""

    def check(value: Any, name: str) -> Iterator[str]:
        if not isinstance(value, dict):
            yield f"{name} must be an object, not {_quoted(value)}"
        elif len(value) > most or any(len(key) > longest for key in value):
            yield f"{name} must have at most {most} names of at most {longest} characters"
        else:
            for key, each in value.items():
                yield from inner(each, _below(name, key))

    return check


def fields(needed: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> Check:
    """An object with these fields. What else it says is passed over: a newer version may have written it."""

    def check(value: Any, name: str) -> Iterator[str]:
        if not isinstance(value, dict):
            yield f"{name or 'it'} must be an object, not {_quoted(value)}"
            return
        for key, inner in {**needed, **(optional or {})}.items():
            if key in value:
                yield from inner(value[key], _below(name, key))
            elif key in needed:
                yield f"it does not say {_below(name, key)!r}"

    return check


def _below(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key


def _quoted(value: Any) -> str:
    """A wrong value, shortened: at its start it shows what it is. Only plain values are written out."""
    if isinstance(value, dict | list):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    written = repr(value[: 2 * SHOWN] if isinstance(value, str) else value)
    return written if len(written) <= SHOWN else written[:SHOWN] + "…"


def _either(names: tuple[str, ...]) -> str:
    return " or ".join(map(repr, names))
