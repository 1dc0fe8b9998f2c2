"""Showing how far a long task has come."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar


class Progress(Protocol):
    """Shows steps of a task."""

    def __call__(self, step: str, total: int | None = None) -> AbstractContextManager[Callable[[int], None]]:
        """Begins a step of `total` units (None where unknown); what it yields reports units done."""
        ...


@contextmanager
def silent(step: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """Shows nothing."""
    yield lambda _: None


def bars(console: Console) -> Progress:
    """Progress bars on a terminal; finished steps stay with the time that they took."""

    @contextmanager
    def show(step: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        columns = (
            SpinnerColumn(finished_text="✓"),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TimeElapsedColumn(),
        )
        with Bar(*columns, console=console) as bar:
            task = bar.add_task(step, total=total)
            yield lambda units: bar.advance(task, units)
            bar.update(task, total=1, completed=1)

    return show
