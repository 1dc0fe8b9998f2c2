"""Filling a store on a Ray cluster: read, embedded and written by Ray Data, each input once as on one machine."""

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ....models.features import BATCH_SIZE
from ..embedder import Embedder
from ..filling import Outcome, remove_repeated
from ..finding import check_arguments, find_units
from ..fingerprint import Fingerprint
from ..ledger import Ledger
from ..reserving import reserved
from ..store import Store, check_before_loading
from .cluster import LOCAL, connected, package, plain_failures
from .reading import Place, ids_of, source
from .writing import ItemEmbedder, sink

if TYPE_CHECKING:
    from .writing import Failure

BATCHES = 4
"""That a worker gets at once, to read the pictures of one while it computes another."""


class Described(NamedTuple):
    """What a worker says of the model that it loaded."""

    width: int
    fingerprint: Fingerprint


def fill_on_ray(
    folder: str | Path,
    data: Iterable[str],
    model: str | Path,
    address: str = LOCAL,
    *,
    workers: int = 1,
    gpus: float = 0,
    batch_size: int = BATCH_SIZE,
    dtype: str | None = None,
    column: str | None = None,
) -> Outcome:
    """As `fill`, on a Ray cluster whose nodes all see the data, the model and the store under the same paths.

    Each worker is an actor with a model of its own. One that is lost is started anew, and its batch computed again. A
    run that is killed is begun again like any other: what stands in the store is not embedded again.

    Args:
        folder, data, dtype, column: as for `fill`.
        model: as `Embedder.from_pretrained` takes it. Workers alone load it, so this machine may lack their GPUs.
        address: of the cluster, as `ray.init` takes it, or "local" for one of this machine's own. A cluster that this
            process is already connected to is used as it is.
        workers: actors, each on one processor core of Ray's count.
        gpus: of each worker.
        batch_size: inputs that a worker computes at once.

    Returns:
        What the run did. `there` counts all rows that the store held before.

    Raises:
        MissingPackageError: without Ray.
        StoreError, FingerprintError, OutputError, DataError: as `fill`.
        StoreError: also where there is no cluster, it is too small, or a task of it failed; what was written before is
            kept.
    """
    ray, data, start = package(), list(data), time.monotonic()
    check_before_loading(Path(folder), dtype)
    check_arguments(data)
    name = str(Path(model).absolute()) if Path(model).is_dir() else str(model)
    with reserved(folder), connected(ray, address, workers, gpus):
        with plain_failures():
            described = ray.get(_describe(ray, gpus).remote(name))
        with Store.for_writing(folder, name, described.width, described.fingerprint, dtype) as store:
            _remove_repeated(store)
            before = ids_of(store)
            units = list(find_units(data))
            read = ray.data.read_datasource(
                source(ray, units, before, Place(os.getcwd(), column)), override_num_blocks=len(units)
            )
            made = read.map_batches(
                ItemEmbedder,
                fn_constructor_kwargs={
                    "model": name,
                    "batch_size": batch_size,
                    "fingerprint": described.fingerprint,
                },
                batch_size=BATCHES * batch_size,
                compute=ray.data.ActorPoolStrategy(size=workers),
                num_cpus=1,
                num_gpus=gpus or None,
            )
            parts = sink(ray, store.layout)
            with plain_failures():
                made.write_datasink(parts)
            return _finish(store, len(before), parts.failed, start)


def _describe(ray: Any, gpus: float) -> Any:
    """A task that loads the model on the kind of node that workers get, and says what it makes."""

    def describe(model: str) -> Described:
        embedder = Embedder.from_pretrained(model)
        return Described(embedder.width, embedder.fingerprint)

    # max_calls: the process ends, and gives back the memory.
    return ray.remote(max_calls=1, num_cpus=1, num_gpus=gpus)(describe)


def _remove_repeated(store: Store) -> None:
    ledger = Ledger()
    try:
        remove_repeated(store, ledger)
    finally:
        ledger.close()


def _finish(store: Store, before: int, failed: "list[Failure]", start: float) -> Outcome:
    """Removes what was named twice, or written twice by a lost worker, and lists what could not be read."""
    ledger = Ledger()
    try:
        remove_repeated(store, ledger)
        new = len(store) - before
        for item, reason in failed:
            if ledger.add(item.id):
                ledger.fail(item, reason)
        ledger.write_unreadable(store.unreadable_path)
        return Outcome(new, before, ledger.unreadable, new / max(time.monotonic() - start, 1e-9))
    finally:
        ledger.close()
