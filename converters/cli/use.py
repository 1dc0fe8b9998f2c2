"""The commands that use converted models: classify and embed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from ...keras_models.errors import MobileClipError
from ...keras_models.shown import shown
from . import collection
from .collection import DEFAULT_MODEL
from .progress import bars
from .terminal import Force, Json, console, errors, plain_errors, print_json, say

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ...keras_models.models.model import MobileClipModel
    from .image_files import ImageBatches

EMBEDDING_SUFFIXES = (".npz", ".parquet")
LARGEST_TEXT = 64 << 20
"""Bytes of a file of labels or texts."""

Images = Annotated[list[str], typer.Argument(help="Image files, folders (with everything below), or patterns.")]
Model = Annotated[str, typer.Option(help="A variant, a converted folder, or a Hub repository.")]
TopK = Annotated[int, typer.Option(min=1, help="How many to show.")]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Images at once; chosen by the free memory if left out.")]


class LinesError(MobileClipError):
    """Labels or texts are missing or cannot be read."""


def classify(
    images: Images,
    labels: Annotated[str | None, typer.Option(help='Between commas: "a dog,a cat".')] = None,
    labels_file: Annotated[Path | None, typer.Option(help="A file with a label on each line.")] = None,
    model: Model = DEFAULT_MODEL,
    templates: Annotated[
        list[str] | None,
        typer.Option(help='single, short, openai, or a sentence with {} for the label ("{}"); may be given again.'),
    ] = None,
    top_k: TopK = 5,
    batch_size: BatchSize = None,
    as_json: Json = False,
) -> None:
    """Tell which of some labels fits each image best, without any training."""
    with plain_errors(images, labels_file, model):
        from ...keras_models.models.features import encode
        from ...keras_models.tasks.prompts import check_labels, get_templates
        from ...keras_models.tasks.zero_shot import ZeroShotClassifier
        from .image_files import find_images

        given = [] if labels is None else [label for label in labels.split(",") if label.strip()]
        if labels_file is not None:
            given += _lines(labels_file)
        if not given:
            raise LinesError("Give --labels or --labels-file.")
        names = check_labels(given)
        # One value may be the name of a set. Several are the user's own templates.
        prompts = get_templates(templates[0] if templates and len(templates) == 1 else templates or "single")
        files = find_images(images)
        quiet = errors if as_json else console
        network = _load(model, "both", quiet)
        classifier = ZeroShotClassifier(network, names, prompts, preprocessor=_preprocessor(model, network))
        with bars(quiet)(f"Encoding {len(names) * len(prompts)} prompts"):
            _ = classifier.text_features

        results: list[dict[str, Any]] = []
        with _batches(files, classifier.preprocessor, batch_size, quiet) as batches:
            for paths, pixels in batches:
                features = encode(network, "image", pixels, batches.batch_size, fill=True)
                ranked = classifier.rank(classifier.compare(features), top_k)
                for path, predictions in zip(paths, ranked, strict=True):
                    found = [prediction._asdict() for prediction in predictions]
                    results.append({"image": _printable(path), "predictions": found})
        if as_json:
            print_json({"model": model, "results": results, "unreadable": _unreadable(batches)})
        elif results:
            console.print(_table(results, "predictions", "label", "probability", "{:.1%}"))
        _finish(batches, len(results), as_json)


def embed(
    data: Annotated[
        list[str],
        typer.Argument(help="Images, folders, patterns; for a store also WebDataset .tar, .parquet and .txt files."),
    ],
    out: Annotated[
        Path,
        typer.Option(
            help="A folder: the store, made or continued; one that ends in .lance is a Lance data set, too. Or one "
            "file: .npz or .parquet."
        ),
    ],
    texts_file: Annotated[
        Path | None, typer.Option(help="For one file: a file with texts to embed, one on each line.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help=f"As for classify. If left out, that of the store, or {DEFAULT_MODEL}.")
    ] = None,
    batch_size: BatchSize = None,
    dtype: Annotated[
        str | None, typer.Option(help="Of the vectors in a new store: float32 (if left out) or float16.")
    ] = None,
    column: Annotated[
        str | None, typer.Option(help='Of Parquet files, with bytes or paths of images; else "image" or "path".')
    ] = None,
    ray: Annotated[
        str | None, typer.Option(help='Run on the Ray cluster at this address; "local" starts one on this machine.')
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="With --ray: processes that compute, each with a model; else 1.")
    ] = None,
    gpus: Annotated[
        float | None, typer.Option(min=0, help="With --ray: GPUs of each worker, 0.5 to share one; else none.")
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write the features of images, and of texts, into a store that may be continued, or into one file."""
    with plain_errors(data, out, texts_file, model):
        if out.suffix in EMBEDDING_SUFFIXES:
            _refuse(out, "a store", **{"--dtype": dtype, "--column": column, "--ray": ray})
            _embed_file(data, out, texts_file, model or DEFAULT_MODEL, batch_size, force, as_json)
        else:
            _refuse(out, "one file, .npz or .parquet", **{"--texts-file": texts_file, "--force": force})
            cluster = collection.cluster_of(ray, workers, gpus)
            collection.embed(data, out, model, batch_size, dtype, column, cluster, as_json)


def _refuse(out: Path, place: str, **options: object) -> None:
    """Refuses options that the kind of output has no use for."""
    for name, value in options.items():
        if value:
            raise LinesError(f"{name} is for {place}, and {out} is something else.")


def _embed_file(
    images: list[str],
    out: Path,
    texts_file: Path | None,
    model: str,
    batch_size: int | None,
    force: bool,
    as_json: bool,
) -> None:
    from ...keras_models.inputs.tokenizer import Tokenizer
    from ...keras_models.models.features import encode
    from ...keras_models.tasks.embedding_files import Embeddings, check_embedding_target
    from .image_files import find_images

    check_embedding_target(out, force)
    texts = tuple(_lines(texts_file)) if texts_file is not None else ()
    files = find_images(images)
    quiet = errors if as_json else console
    network = _load(model, "both" if texts else "image", quiet)
    names: list[str] = []
    parts: list[NDArray[np.floating]] = []
    with _batches(files, _preprocessor(model, network), batch_size, quiet) as batches:
        for paths, pixels in batches:
            parts.append(encode(network, "image", pixels, batches.batch_size, fill=True))
            names += map(_printable, paths)
    width = network.image_encoder.embed_dim
    text_features = np.empty((0, width), np.float32)
    if texts and names:
        with bars(quiet)(f"Encoding {len(texts)} texts"):
            text_features = encode(network, "text", Tokenizer()(texts)).astype(np.float32)
    if names:
        origin = str(Path(model).absolute()) if Path(model).is_dir() else model
        features = np.concatenate(parts).astype(np.float32)
        Embeddings(origin, tuple(names), features, texts, text_features).save(out, force)
    if as_json:
        facts = {"images": len(names), "texts": len(texts), "embed_dim": width, "model": model}
        print_json({"file": str(out) if names else None, **facts, "unreadable": _unreadable(batches)})
    elif names:
        also = f" and {len(texts)} texts" if texts else ""
        say(f"Wrote {len(names)} images{also}, {width} numbers each, to {out}.")
    _finish(batches, len(names), as_json)


def _load(name: str, towers: str, quiet: Console) -> "MobileClipModel":
    with bars(quiet)(f"Loading {name}"):
        from ...keras_models.models.model import MobileClipModel

        return MobileClipModel.from_pretrained(name, towers=towers)


def _preprocessor(name: str, model: "MobileClipModel") -> Any:
    """The preprocessing in a folder, else that of the model's variant."""
    from ...keras_models.inputs.preprocessing import ImagePreprocessor
    from ...keras_models.tasks.zero_shot import preprocessor_of

    return ImagePreprocessor.from_pretrained(name) if Path(name).is_dir() else preprocessor_of(model)


class _Shown:
    """Image batches that move a progress bar."""

    def __init__(self, batches: "ImageBatches", advance: Callable[[int], None]) -> None:
        self.batch_size = batches.batch_size
        self.unreadable = batches.unreadable
        self._batches = batches
        self._advance = advance

    def __iter__(self) -> "Iterator[tuple[list[str], NDArray[np.float32]]]":
        for paths, pixels in self._batches:
            yield paths, pixels
            self._advance(len(paths))


@contextmanager
def _batches(files: list[str], preprocess: Any, batch_size: int | None, quiet: Console) -> Iterator[_Shown]:
    from .image_files import ImageBatches, batch_size_for

    size = min(batch_size, len(files)) if batch_size else batch_size_for(preprocess.image_size, len(files))
    with bars(quiet)(f"Encoding {len(files)} images", len(files)) as advance:
        yield _Shown(ImageBatches(files, preprocess, size), advance)


def _lines(file: Path) -> list[str]:
    with open(file, "rb") as stream:  # a pipe is as good
        content = stream.read(LARGEST_TEXT + 1)
    if len(content) > LARGEST_TEXT:
        raise LinesError(f"{file} has more than {LARGEST_TEXT:,} bytes.")
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise LinesError(f"{file} is not a UTF-8 text file.") from error
    found = [line.strip() for line in lines if line.strip()]
    if not found:
        raise LinesError(f"{file} is empty.")
    return found


def _printable(path: str) -> str:
    """A path as text that can always be printed: bytes that are not UTF-8 are replaced."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _unreadable(batches: _Shown) -> list[dict[str, str]]:
    return [{"image": _printable(path), "reason": why} for path, why in batches.unreadable.items()]


def _finish(batches: _Shown, done: int, as_json: bool) -> None:
    """Reports the images that were left out, and exits with 1 if no image was read."""
    if batches.unreadable:
        if not as_json:
            for reason in batches.unreadable.values():
                errors.print(shown(_printable(reason)), soft_wrap=True)
        count = len(batches.unreadable)
        errors.print(f"Passed over {count} of {count + done} images: unreadable.")
    if not done:
        raise typer.Exit(1)


def _table(results: list[dict[str, Any]], rows: str, name: str, value: str, form: str) -> Table:
    first = next(key for key in results[0] if key != rows)
    table = Table(first, name, value)
    table.columns[2].justify = "right"
    for result in results:
        for index, row in enumerate(result[rows]):
            table.add_row(shown(result[first]) if index == 0 else "", shown(row[name]), form.format(row[value]))
        table.add_section()
    return table
