"""Filling a store: every input once, however often the run is killed and begun again."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .errors import DataError
from .finding import check_arguments, find_units
from .items import Item
from .ledger import Ledger
from .parts import Rows, joined
from .reading import read_unit
from .store import Store
from .stream import Failed, Rate, embedded

if TYPE_CHECKING:
    from .embedder import Embedder

ROWS = 16_384
"""Of a part, at most."""
SECONDS = 60.0
"""After which a part is written with the rows that there are: what a kill loses at most."""


@dataclass(frozen=True)
class Outcome:
    """What a run did."""

    new: int
    """Inputs that were embedded."""
    there: int
    """Inputs that were embedded before."""
    unreadable: int
    """Inputs that could not be read; `Store.unreadable` lists them."""
    rate: float
    """Inputs embedded a second."""


def fill(
    folder: str | Path,
    data: Iterable[str],
    embedder: "Embedder",
    *,
    dtype: str | None = None,
    column: str | None = None,
    progress: Callable[[int, float], None] = lambda count, rate: None,
) -> Outcome:
    """Embeds all that is not in a store yet.

    A kill at any moment loses the rows since the last part, a minute's at most. The next run embeds them.

    Args:
        folder: of the store; made where it is missing.
        data: files, folders and patterns, as `find_units` takes them.
        embedder: what makes the vectors.
        dtype: as `Store.for_writing`.
        column: as `read_unit`.
        progress: called with the number of inputs that were just embedded, and the rate since the start.

    Raises:
        StoreError, FingerprintError, OutputError: as `Store.for_writing`.
        DataError: where `data` leads to nothing, or needs a tower that the model lacks. What was embedded before is
            kept.
    """
    data = list(data)
    check_arguments(data)
    items = (item for unit in find_units(data) for item in read_unit(unit, column))
    with Store.for_writing(folder, embedder.origin, embedder.width, embedder.fingerprint, dtype) as store:
        ledger = Ledger()
        try:
            remove_repeated(store, ledger)
            return _Run(store, ledger, embedder, progress).over(items)
        finally:
            ledger.close()


class _Run:
    """One run over a collection."""

    def __init__(
        self, store: Store, ledger: Ledger, embedder: "Embedder", progress: Callable[[int, float], None]
    ) -> None:
        self._store, self._ledger, self._embedder, self._progress = store, ledger, embedder, progress
        self._there = 0
        self._pending: list[Rows] = []
        self._since = time.monotonic()

    def over(self, items: Iterable[Item]) -> Outcome:
        new, rate = 0, Rate()
        try:
            for found in embedded(self._embedder, self._unseen(items)):
                if isinstance(found, Failed):
                    self._ledger.fail(*found)
                    continue
                self._pending.append(found)
                new += len(found.ids)
                self._progress(len(found.ids), rate(new))
                if self._is_due():
                    self._write()
        except (KeyboardInterrupt, SystemExit, DataError):
            self._write()  # what is computed is not thrown away
            raise
        self._write()
        return Outcome(new, self._there, self._ledger.unreadable, rate(new))

    def _unseen(self, items: Iterable[Item]) -> Iterator[Item]:
        for item in items:
            if self._ledger.add(item.id):
                yield item
            else:
                self._there += 1

    def _is_due(self) -> bool:
        rows = sum(len(batch.ids) for batch in self._pending)
        return rows >= ROWS or time.monotonic() - self._since > SECONDS

    def _write(self) -> None:
        if self._pending:
            self._store.layout.write(joined(self._pending))
            self._pending = []
        self._ledger.write_unreadable(self._store.unreadable_path)
        self._since = time.monotonic()


def remove_repeated(store: Store, ledger: Ledger) -> None:
    """Notes every id of a store in a ledger. Rows that are there twice are removed but for the first.

    No run of `fill` makes them. Somebody may have copied parts of another store into this one.

    Raises:
        StoreError: where a part is damaged.
    """
    for part in store.parts():
        ids = [each for batch in part.columns("id") for each in batch.column(0).to_pylist()]
        is_new = np.array([ledger.add(each) for each in ids], bool)
        if not is_new.all():
            store.layout.keep(part, is_new)
