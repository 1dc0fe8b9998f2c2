"""From inputs to vectors, in order and in constant memory: pictures are read while others are computed."""

import os
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ...errors import MobileClipError
from .errors import DataError
from .items import Item
from .parts import Rows

if TYPE_CHECKING:
    from .embedder import Embedder


class Failed(NamedTuple):
    """An input that could not be read, and why."""

    item: Item
    reason: str


class _Ready(NamedTuple):
    item: Item
    future: "Future[Any] | None"
    """Gives what the tower takes; None where `reason` says why there is nothing."""
    reason: str


def embedded(embedder: "Embedder", items: Iterable[Item], readers: int | None = None) -> Iterator[Rows | Failed]:
    """The vectors of inputs, a batch at a time, and the inputs that could not be read.

    Args:
        embedder: what makes the vectors.
        items: the inputs; taken no more than two batches ahead.
        readers: threads that read and resize pictures; None for one a core.
    """
    waiting: dict[str, list[tuple[Item, Any]]] = {"image": [], "text": []}
    with ThreadPoolExecutor(readers or os.cpu_count() or 1) as pool:
        for ready in _ahead(pool, embedder, items):
            value, reason = _result(ready)
            if reason:
                yield Failed(ready.item, reason)
                continue
            batch = waiting[ready.item.kind]
            batch.append((ready.item, value))
            if len(batch) == embedder.batch_size:
                yield _compute(embedder, batch)
                batch.clear()
        for batch in waiting.values():
            if batch:
                yield _compute(embedder, batch)


def _ahead(pool: ThreadPoolExecutor, embedder: "Embedder", items: Iterable[Item]) -> Iterator[_Ready]:
    """The inputs in order, each given to a reader some time before it is needed."""
    queue: deque[_Ready] = deque()
    for item in items:
        queue.append(_begin(pool, embedder, item))
        if len(queue) > 2 * embedder.batch_size:
            yield queue.popleft()
    yield from queue


def _begin(pool: ThreadPoolExecutor, embedder: "Embedder", item: Item) -> _Ready:
    if item.load is None:
        return _Ready(item, None, item.reason)
    try:
        content = item.load()
    except (OSError, ValueError) as error:
        return _Ready(item, None, f"{item.name} cannot be read: {error}")
    future: Future[Any]
    if item.kind == "image":
        future = pool.submit(embedder.prepare, content)
    else:
        future = Future()
        future.set_result(content)
    return _Ready(item, future, "")


def _result(ready: _Ready) -> tuple[Any, str]:
    if ready.future is None:
        return None, ready.reason
    try:
        return ready.future.result(), ""
    except DataError:
        raise
    except MobileClipError as error:
        # Bytes have no name, and the reader calls them a number.
        return None, str(error).replace("Image number 0", ready.item.name)


def _compute(embedder: "Embedder", batch: list[tuple[Item, Any]]) -> Rows:
    items, values = zip(*batch, strict=True)
    kind = items[0].kind
    features = embedder.pixels(np.stack(values)) if kind == "image" else embedder.texts(values)
    return Rows([item.id for item in items], [kind] * len(items), [item.name for item in items], features)


class Rate:
    """How many inputs a second, since this was made."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def __call__(self, count: int) -> float:
        """For `count` inputs."""
        return count / max(time.monotonic() - self._start, 1e-9)
