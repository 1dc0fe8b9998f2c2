"""Ray itself: connecting to a cluster, refusing one that is too small, and saying what went wrong on it."""

import logging
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ....errors import MissingPackageError, MobileClipError
from ..errors import StoreError

LOCAL = "local"
"""The address that starts a cluster on this machine, for as long as the run takes."""
ENVIRONMENT = ("KERAS_BACKEND", "OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "JAX_ENABLE_X64")
"""What workers take over from here: with another backend or number of threads, the last bits may be others."""


PATIENCE = 5.0
"""Seconds for a cluster to take a call. Ray itself would try for minutes."""

_OURS = re.compile(r"^mobileclip_keras[\w.]*: (.+)$", re.MULTILINE)
_ANY = re.compile(r"^([\w.]*(?:Error|Exception)[\w.]*: .+)$", re.MULTILINE)


def package() -> Any:
    """Ray with Ray Data. It sends no statistics of use, unless the user's environment asks for them.

    Raises:
        MissingPackageError: where it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingPackageError('A cluster needs Ray: pip install "mobileclip-keras[ray]".') from error
    return ray


@contextmanager
def connected(ray: Any, address: str, workers: int, gpus: float) -> Iterator[None]:
    """A connection to a cluster. It is closed at the end, also after an error, where it was made here.

    Args:
        ray: the package.
        address: as `ray.init` takes it, or `LOCAL`.
        workers: that will compute, each on one processor core of Ray's count.
        gpus: of each worker.

    Raises:
        StoreError: where there is no cluster, or it is too small, which would wait for ever.
    """
    is_ours = not ray.is_initialized()
    if is_ours:
        _connect(ray, address, workers)
    try:
        _check_size(ray.cluster_resources(), workers, gpus)
        yield
    finally:
        if is_ours:
            ray.shutdown()


def _connect(ray: Any, address: str, workers: int) -> None:
    # Reading and writing take a core of Ray's count, too.
    own = {"num_cpus": max(os.cpu_count() or 1, workers + 1), "include_dashboard": False} if address == LOCAL else {}
    taken = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    try:
        _check_listening(address)
        ray.init(
            address=address, **own, runtime_env={"env_vars": taken}, log_to_driver=False, logging_level=logging.ERROR
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise StoreError(f"There is no Ray cluster at {address}: {error}") from error
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False


def _check_listening(address: str) -> None:
    """Raises OSError where the address names a machine and a port, and nothing listens there."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), PATIENCE).close()


def _check_size(resources: dict[str, float], workers: int, gpus: float) -> None:
    cores, devices = resources.get("CPU", 0), resources.get("GPU", 0)
    if workers + 1 > cores:
        raise StoreError(
            f"{workers} workers need {workers + 1} processor cores, one of them to read, and the cluster has {cores:g}."
        )
    if workers * gpus > devices:
        raise StoreError(f"{workers} workers with {gpus:g} GPUs each need more than the {devices:g} of the cluster.")


@contextmanager
def plain_failures() -> Iterator[None]:
    """Turns what Ray raises into one sentence.

    Raises:
        MobileClipError: what a task raised, where that is one of ours.
        StoreError: for everything else.
    """
    try:
        yield
    except MobileClipError:
        raise
    except Exception as error:  # Ray wraps what a task raised in errors of its own
        kept = "What was written before is kept; the same command goes on from there."
        raise StoreError(f"The cluster gave up: {_cause(error)} {kept}") from error


def _cause(error: BaseException) -> str:
    """What a task raised, from the text that Ray makes of it: our own words, else the last error that it names."""
    text = str(error)
    found = _OURS.findall(text) or _ANY.findall(text) or [line.strip() for line in text.splitlines() if line.strip()]
    return found[-1] if found else "it gave no reason."
