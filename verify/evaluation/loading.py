"""Reading and preprocessing beside computing: the next batches are made while the tower computes one."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import Full, Queue
from typing import TYPE_CHECKING, Any

from ...keras_models.inputs.image_reading import ImageError
from .data.dataset import Sample

if TYPE_CHECKING:
    from numpy.typing import NDArray

THREADS = 2
AHEAD = 2
"""Batches that are ready and wait."""
POLL = 0.1
"""Seconds after which a thread looks whether anybody still waits for it."""


@dataclass(frozen=True)
class Prepared:
    """One image, ready for the tower; or the reason why it is not."""

    name: str
    digest: bytes
    target: Any
    pixels: "NDArray[Any] | None"
    reason: str = ""


@dataclass
class _Line:
    """What goes from the threads to the one who computes: batches, then an end or an error."""

    queue: "Queue[list[Prepared] | BaseException | None]" = field(default_factory=lambda: Queue(AHEAD))
    closed: threading.Event = field(default_factory=threading.Event)

    def put(self, item: "list[Prepared] | BaseException | None") -> bool:
        """Waits for room. False once nobody takes anything any more."""
        while not self.closed.is_set():
            try:
                self.queue.put(item, timeout=POLL)
                return True
            except Full:
                continue
        return False


def batches(
    samples: Iterator[Sample], prepare: "Callable[[bytes], NDArray[Any]]", size: int, threads: int = THREADS
) -> Iterator[list[Prepared]]:
    """Images in batches of `size`, the last one smaller, in their order.

    A thread reads, others prepare. At most AHEAD + 2 batches are in memory.

    Args:
        samples: what to read. What it raises is raised here, after all batches before it.
        prepare: gives an array for an image file, or raises ImageError.
        size: of a batch.
        threads: that prepare.
    """
    line = _Line()
    thread = threading.Thread(target=_fill, args=(line, samples, prepare, size, threads), daemon=True)
    thread.start()
    try:
        while (item := line.queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        line.closed.set()
        thread.join()


def _fill(
    line: _Line, samples: Iterator[Sample], prepare: "Callable[[bytes], NDArray[Any]]", size: int, threads: int
) -> None:
    """Puts all batches into the line, and then an error or an end."""
    pending: deque[Future[Prepared]] = deque()
    end: BaseException | None = None
    with ThreadPoolExecutor(threads) as pool:
        try:
            for sample in samples:
                pending.append(pool.submit(_prepared, sample, prepare))
                if len(pending) == 2 * size and not line.put([pending.popleft().result() for _ in range(size)]):
                    break
        except BaseException as error:  # raised again where somebody sees it
            end = error
        while pending and not line.closed.is_set():
            count = min(size, len(pending))
            try:
                line.put([pending.popleft().result() for _ in range(count)])
            except BaseException as error:
                end = end or error
                break
    line.put(end)


def _prepared(sample: Sample, prepare: "Callable[[bytes], NDArray[Any]]") -> Prepared:
    digest = sample.digest()
    try:
        return Prepared(sample.name, digest, sample.target, prepare(sample.image))
    except ImageError as error:
        # A file in memory has no name of its own.
        reason = str(error).replace("Image number 0", sample.name)
        return Prepared(sample.name, digest, sample.target, None, reason)
