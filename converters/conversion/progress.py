"""How a long task tells how far it has come."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Progress(Protocol):
    """Shows steps of a task."""

    def __call__(self, step: str, total: int | None = None) -> AbstractContextManager[Callable[[int], None]]:
        """Begins a step of `total` units (None where unknown); what it yields reports units done."""
        ...


@contextmanager
def silent(step: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """Shows nothing."""
    yield lambda _: None
