"""Several things at once: one side compiles on one core while another computes."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event, Lock
from typing import Generic, TypeVar

import keras

from ..precision import full_float32

T = TypeVar("T")
K = TypeVar("K")

Report = Callable[[str], None]
"""Is told the name of each step before it begins."""


class StoppedError(Exception):
    """Another side failed, so nobody waits for this one."""


class Steps:
    """What each side computes now, as one line of progress. Once stopped, each side ends at its next step."""

    def __init__(self, progress: Report) -> None:
        self._progress = progress
        self._lock = Lock()
        self._running: dict[str, str] = {}
        self._stopped = Event()

    def of(self, side: str) -> Report:
        """Where a side reports its steps."""

        def report(step: str) -> None:
            if self._stopped.is_set():
                raise StoppedError
            with self._lock:
                self._running[side] = step
                self._progress(", ".join(self._running.values()))

        return report

    def end(self, side: str) -> None:
        """Says that a side has no further step."""
        with self._lock:
            self._running.pop(side, None)

    def stop(self) -> None:
        """Ends every side at its next step."""
        self._stopped.set()


class Once(Generic[K, T]):
    """What was computed, by key. Who asks for what another thread computes waits for it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._known: dict[K, Future[T]] = {}

    def of(self, key: K, compute: Callable[[], T]) -> T:
        """The value of a key; `compute` is called where nobody has asked for it before."""
        with self._lock:
            is_first = key not in self._known
            future = self._known.setdefault(key, Future())
        if is_first:
            try:
                future.set_result(compute())
            except BaseException as error:
                future.set_exception(error)
        return future.result()


def may_be_at_once() -> bool:
    """Not where Keras computes by PyTorch: its switches hold for every thread, and both sides turn them."""
    return keras.backend.backend() != "torch"


@contextmanager
def torch_alongside(work: Callable[[], T], steps: Steps) -> Iterator[Callable[[], T]]:
    """Runs PyTorch's side in a thread of its own, on half of PyTorch's threads; gives what waits for its result.

    Where that may not be, it runs at once.
    """
    if not may_be_at_once():
        result = work()
        yield lambda: result
        return
    with ThreadPoolExecutor(1, "PyTorch") as executor:
        running = executor.submit(_on_half_the_threads, work)
        try:
            yield running.result
        except BaseException:
            steps.stop()
            raise


def _on_half_the_threads(work: Callable[[], T]) -> T:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // 2))
    try:
        return work()
    finally:
        torch.set_num_threads(threads)


def each(jobs: Mapping[str, Callable[[], T]], at_once: bool, steps: Steps) -> dict[str, T]:
    """Runs jobs, in threads of their own or one by one."""
    if not at_once:
        return {name: job() for name, job in jobs.items()}
    # Around all threads, so that each finds switches of the whole process off, and leaves them so for the others.
    with full_float32(), ThreadPoolExecutor(len(jobs), "Keras") as executor:
        running = {name: executor.submit(_in_full_float32, job) for name, job in jobs.items()}
        try:
            return {name: future.result() for name, future in running.items()}
        except BaseException:
            steps.stop()
            raise


def _in_full_float32(job: Callable[[], T]) -> T:
    """Again for this thread: JAX's switch holds for one."""
    with full_float32():
        return job()
