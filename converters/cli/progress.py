"""Progress bars on a terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from ..conversion.progress import Progress


def bars(console: Console) -> Progress:
    """Progress bars, one a step. A finished step stays in sight with the time that it took."""

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
