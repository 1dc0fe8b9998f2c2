"""The commands for collections: filling a store, and finding things in it."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import typer
from rich.console import Console

from ...keras_models.errors import MobileClipError
from ...keras_models.shown import shown
from .progress import bars
from .terminal import console, errors, print_json, say

if TYPE_CHECKING:
    from ...keras_models.tasks.embedding.embedder import Embedder
    from ...keras_models.tasks.embedding.filling import Outcome
    from ...keras_models.tasks.embedding.store import Store

DEFAULT_MODEL = "s2"
SOME_UNREADABLE = 3
"""Exit status where the run went to its end, but some inputs could not be read."""
SHOWN_REASONS = 10
DATA_FILES = (".arrow", ".csv", ".feather", ".h5", ".json", ".jsonl", ".npy", ".pkl", ".tsv", ".txt")
"""Endings of files that somebody who names one surely does not take for a folder."""


class OptionError(MobileClipError):
    """Options do not go together, or are none."""


class Cluster(NamedTuple):
    """A Ray cluster, and what is asked of it."""

    address: str
    workers: int
    gpus: float


def cluster_of(address: str | None, workers: int | None, gpus: float | None) -> Cluster | None:
    """What the options say of a cluster; None without one.

    Raises:
        OptionError: where they say how it is to be used, and not which.
    """
    if address is None:
        for name, value in (("--workers", workers), ("--gpus", gpus)):
            if value is not None:
                raise OptionError(f"{name} needs --ray.")
        return None
    return Cluster(address, workers or 1, gpus or 0)


def embed(
    data: list[str],
    out: Path,
    model: str | None,
    batch_size: int | None,
    dtype: str | None,
    column: str | None,
    cluster: Cluster | None,
    as_json: bool,
) -> None:
    """Embeds into a store what is not there yet."""
    from ...keras_models.tasks.embedding.finding import check_arguments
    from ...keras_models.tasks.embedding.parts import DTYPES
    from ...keras_models.tasks.embedding.reserving import reserved
    from ...keras_models.tasks.embedding.store import Store, check_before_loading, is_store

    if out.suffix in DATA_FILES:
        raise OptionError(f"{out} must end in .npz or .parquet, or be a folder: a store has no ending, or .lance.")
    if dtype not in (None, *DTYPES):
        raise OptionError(f"--dtype must be {' or '.join(DTYPES)}, not {dtype}.")
    check_before_loading(out, dtype)
    check_arguments(data)
    quiet = errors if as_json else console
    name = model or (Store.open(out).model if is_store(out) else DEFAULT_MODEL)
    with reserved(out):  # a second run is refused now, and not once it has loaded the model
        if cluster is None:
            embedder = load_embedder(name, quiet, batch_size=batch_size)
            outcome = _fill(out, data, embedder, dtype, column, quiet)
        else:
            outcome = _fill_on(cluster, out, data, name, batch_size, dtype, column, quiet)
    _report(Store.open(out), outcome, as_json)


def _fill(
    out: Path, data: list[str], embedder: "Embedder", dtype: str | None, column: str | None, quiet: Console
) -> "Outcome":
    from ...keras_models.tasks.embedding.filling import fill

    done = 0
    with bars(quiet)("Embedding") as advance:

        def progress(count: int, rate: float) -> None:
            nonlocal done
            done += count
            advance(count, f"{done:,} done, {rate:,.1f} a second")

        try:
            return fill(out, data, embedder, dtype=dtype, column=column, progress=progress)
        except KeyboardInterrupt:
            errors.print(f"Interrupted. {done:,} new ones are in {out}; the same command goes on from there.")
            raise typer.Exit(130) from None


def _fill_on(
    cluster: Cluster,
    out: Path,
    data: list[str],
    model: str,
    batch_size: int | None,
    dtype: str | None,
    column: str | None,
    quiet: Console,
) -> "Outcome":
    from ...keras_models.models.features import BATCH_SIZE
    from ...keras_models.tasks.embedding.on_ray.filling import fill_on_ray

    where = "this machine" if cluster.address == "local" else cluster.address
    with bars(quiet)(f"Embedding on Ray at {where}"):
        try:
            return fill_on_ray(
                out,
                data,
                model,
                cluster.address,
                workers=cluster.workers,
                gpus=cluster.gpus,
                batch_size=batch_size or BATCH_SIZE,
                dtype=dtype,
                column=column,
            )
        except KeyboardInterrupt:
            errors.print(f"Interrupted. The same command goes on from what is in {out}.", soft_wrap=True)
            raise typer.Exit(130) from None


def _report(store: "Store", outcome: "Outcome", as_json: bool) -> None:
    failed = store.unreadable()
    if as_json:
        facts = {"store": str(store.folder), "model": store.model, "embed_dim": store.width, "dtype": store.dtype}
        counts = {"new": outcome.new, "there_before": outcome.there, "rows": len(store)}
        listed = [{"name": each["name"], "reason": each["reason"]} for each in failed]
        print_json({**facts, **counts, "per_second": round(outcome.rate, 2), "unreadable": listed})
    else:
        before = f" {outcome.there:,} were there before." if outcome.there else ""
        say(f"Embedded {outcome.new:,} into {store.folder}, {outcome.rate:,.1f} a second.{before}")
    if outcome.unreadable:
        for each in failed[-outcome.unreadable :][:SHOWN_REASONS] if not as_json else []:
            errors.print(shown(each["reason"]), soft_wrap=True)
        errors.print(
            f"{outcome.unreadable:,} could not be read. {store.unreadable_path} lists them with the reasons.",
            soft_wrap=True,
        )
        raise typer.Exit(SOME_UNREADABLE if outcome.new or outcome.there else 1)


def load_embedder(name: str, quiet: Console, towers: str | None = None, batch_size: int | None = None) -> "Embedder":
    """The embedder of a model."""
    with bars(quiet)(f"Loading {name}"):
        from ...keras_models.models.features import BATCH_SIZE
        from ...keras_models.tasks.embedding.embedder import Embedder

        return Embedder.from_pretrained(name, towers=towers, batch_size=batch_size or BATCH_SIZE)
