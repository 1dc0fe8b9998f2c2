"""The commands that find things in what `embed` wrote."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.table import Table

from ...keras_models.shown import shown
from .collection import OptionError, load_embedder
from .progress import bars
from .terminal import Json, console, errors, plain_errors, print_json, say

if TYPE_CHECKING:
    from rich.console import Console

    from ...keras_models.tasks.embedding.embedder import Embedder
    from ...keras_models.tasks.embedding.searching import Collection
    from ...keras_models.tasks.retrieval import Match

KINDS = ("image", "text")

Source = Annotated[Path, typer.Option("--in", help="What `embed` wrote: a store or a file.")]
Model = Annotated[str | None, typer.Option(help="A model to use in place of the one that wrote it.")]
TopK = Annotated[int, typer.Option(min=1, help="How many to show.")]
Kind = Annotated[str, typer.Option(help="What to find: image or text.")]
Exact = Annotated[bool, typer.Option("--exact", help="Search exactly, even where an index is there.")]
Anyway = Annotated[
    bool, typer.Option("--anyway", help="Search even where the vectors were made by something else, with a warning.")
]


def search(
    source: Source,
    queries: Annotated[
        list[str] | None, typer.Argument(help="What to look for, in words. Each text gets its own list.")
    ] = None,
    image: Annotated[
        list[Path] | None, typer.Option(help="An image to look for; may be given again. Each gets its own list.")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help='Makes one query of all, texts first: a weight for each between commas, "0.7,0.3".'),
    ] = None,
    kind: Kind = "image",
    model: Model = None,
    top_k: TopK = 5,
    exact: Exact = False,
    anyway: Anyway = False,
    as_json: Json = False,
) -> None:
    """Find what fits words or images best, or both, in what `embed` wrote."""
    texts, images = queries or [], image or []
    with plain_errors(texts, images, source, model):
        from ...keras_models.tasks.embedding.searching import weighted

        if not texts and not images:
            raise OptionError("Give words to look for, or --image.")
        shares = _numbers(weights)
        found = _open(source, kind, exact)
        towers = "both" if texts and images else "image" if images else "text"
        embedder = _embedder(source, model, towers, anyway, errors if as_json else console)
        parts = ([embedder.texts(texts)] if texts else []) + ([embedder.images(images)] if images else [])
        names, features = [*texts, *map(str, images)], np.concatenate(parts)
        if shares is not None:
            features = weighted(features, shares)[None]
            names = [" + ".join(f"{share:g} × {name}" for share, name in zip(shares, names, strict=True))]
        results = [_result(*each) for each in zip(names, found.search(features, top_k), strict=True)]
        _print(results, {"model": embedder.origin, "exact": found.is_exact}, as_json)


def neighbours(
    image: Annotated[str, typer.Argument(help="An image: a name in the collection, else a file.")],
    source: Source,
    model: Model = None,
    top_k: TopK = 5,
    exact: Exact = False,
    anyway: Anyway = False,
    as_json: Json = False,
) -> None:
    """Find the images that are most like one."""
    with plain_errors(image, source, model):
        found = _open(source, "image", exact)
        if found.vector(image) is not None:
            matches = found.neighbours(image, top_k)
        elif not Path(image).is_file():
            raise OptionError(f"{image} is neither in {source} nor an image file.")
        else:
            embedder = _embedder(source, model, "image", anyway, errors if as_json else console)
            (matches,) = found.search(embedder.images([image]), top_k)
        _print([_result(image, matches)], {"exact": found.is_exact}, as_json)


def duplicates(
    source: Annotated[Path, typer.Argument(help="What `embed` wrote: a store or a file.")],
    near: Annotated[float, typer.Option(help="The smallest cosine similarity, at most 1.")] = 0.95,
    as_json: Json = False,
) -> None:
    """Find images that are nearly the same, in groups."""
    with plain_errors(source):
        found = _open(source, "image", exact=True)
        with bars(errors if as_json else console)(f"Comparing {len(found):,} images", len(found)) as advance:
            groups = found.duplicates(near, lambda count: advance(count))
        if as_json:
            print_json({"near": near, "groups": [[match._asdict() for match in group] for group in groups]})
        elif not groups:
            say(f"No two of {len(found):,} images are as near as {near:g}.")
        else:
            console.print(_table("group", [_result(str(number), group) for number, group in enumerate(groups, 1)]))
            say(f"{sum(map(len, groups)):,} of {len(found):,} images are in {len(groups):,} groups.")


def index(
    store: Annotated[Path, typer.Argument(help="A folder that `embed` wrote.")],
    kind: Kind = "image",
    as_json: Json = False,
) -> None:
    """Make an index of a store, for more than a million vectors, and measure what it finds."""
    with plain_errors(store):
        from ...keras_models.tasks.embedding import graph
        from ...keras_models.tasks.embedding.searching import EXACT_UP_TO
        from ...keras_models.tasks.embedding.store import Store

        _check_kind(kind)
        with bars(errors if as_json else console)("Indexing") as advance:
            found = graph.build(Store.open(store), kind, lambda count: advance(count))
        if as_json:
            print_json({"store": str(store), **asdict(found)})
            return
        say(
            f"Indexed {found.vectors:,} vectors. recall@{graph.NEIGHBOURS} is {found.recall:.4f} on {found.queries} of "
            f"them; a query takes {found.index_ms:.2f} ms, and {found.exact_ms:.2f} ms exactly."
        )
        if found.vectors <= EXACT_UP_TO:
            say(f"Up to {EXACT_UP_TO:,} vectors, `search` is exact and does not need it.")


def _open(source: Path, kind: str, exact: bool) -> "Collection":
    from ...keras_models.tasks.embedding.searching import EXACT_UP_TO, Collection

    _check_kind(kind)
    found = Collection.open(source, kind, exact=exact)
    if found.is_exact and len(found) > EXACT_UP_TO and not exact:
        advice = f"`mobileclip-keras index {source}` makes an index."
        errors.print(f"{len(found):,} vectors are searched one by one. {advice}", soft_wrap=True)
    return found


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise OptionError(f"--kind must be {' or '.join(KINDS)}, not {kind}.")


def _embedder(source: Path, model: str | None, towers: str, anyway: bool, quiet: "Console") -> "Embedder":
    """The embedder of a query, once it is known to make the vectors that the collection holds."""
    from ...keras_models.tasks.embedding.errors import FingerprintError
    from ...keras_models.tasks.embedding.store import Store, is_store
    from ...keras_models.tasks.embedding_files import Embeddings

    store = Store.open(source) if is_store(source) else None
    embedder = load_embedder(model or (store or Embeddings.load(source)).model, quiet, towers)
    if store is not None:
        try:
            store.fingerprint.check(embedder.fingerprint, str(source))
        except FingerprintError as error:
            if not anyway:
                raise FingerprintError(f"{error} --anyway searches all the same.") from error
            errors.print(f"Warning: {error}", soft_wrap=True)
    return embedder


def _numbers(weights: str | None) -> list[float] | None:
    if weights is None:
        return None
    try:
        return [float(weight) for weight in weights.split(",")]
    except ValueError as error:
        raise OptionError(f'--weights must be numbers between commas, as in "0.7,0.3", not {weights!r}.') from error


def _result(query: str, matches: "list[Match]") -> dict[str, Any]:
    return {"query": query, "matches": [match._asdict() for match in matches]}


def _print(results: list[dict[str, Any]], facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json({**facts, "results": results})
    else:
        console.print(_table("query", results))


def _table(first: str, results: list[dict[str, Any]]) -> Table:
    table = Table(first, "name", "score")
    table.columns[2].justify = "right"
    for result in results:
        for number, match in enumerate(result["matches"]):
            table.add_row(shown(result["query"]) if number == 0 else "", shown(match["name"]), f"{match['score']:.3f}")
        table.add_section()
    return table
