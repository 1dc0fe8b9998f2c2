"""Progress bars on a terminal."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from ...keras_models.shown import shown
from ..conversion.progress import Advance, Progress


def bars(console: Console) -> Progress:
    """Progress bars, one a step. A finished step stays in sight with the time that it took."""

    @contextmanager
    def show(step: str, total: int | None = None) -> Iterator[Advance]:
        columns = (
            SpinnerColumn(finished_text="✓"),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TimeElapsedColumn(),
        )
        with Bar(*columns, console=console) as bar:
            name = shown(step)
            task = bar.add_task(name, total=total)

            def advance(units: int, doing: str | None = None) -> None:
                bar.update(task, advance=units, description=f"{name}: {shown(doing)}" if doing else name)

            yield advance
            bar.update(task, total=1, completed=1, description=name)

    return show
