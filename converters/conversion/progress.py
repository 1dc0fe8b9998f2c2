"""How a long task tells how far it has come."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Advance(Protocol):
    """Reports units of a step that are done."""

    def __call__(self, units: int, doing: str | None = None) -> None:
        """`units` more are done; `doing` says what comes now."""
        ...


class Progress(Protocol):
    """Shows steps of a task."""

    def __call__(self, step: str, total: int | None = None) -> AbstractContextManager[Advance]:
        """Begins a step of `total` units; None where unknown."""
        ...


@contextmanager
def silent(step: str, total: int | None = None) -> Iterator[Advance]:
    """Shows nothing."""
    yield lambda units, doing=None: None
