"""CLIP_benchmark's layout of data sets, as its `webdataset_builder` writes it and its `build_wds_dataset` reads it
(github.com/LAION-AI/CLIP_benchmark, clip_benchmark/datasets/builder.py).

    SPLIT/nshards.txt                        how many shards there are
    SPLIT/0.tar, SPLIT/1.tar, …              of each image a .jpg, .jpeg, .png or .webp, and its .cls, .npy or .txt
    dataset_type.txt                         "classification" (or missing), "multilabel" or "retrieval"
    classnames.txt                           one on each line
    zeroshot_classification_templates.txt    one on each line, with {c}
"""

from collections.abc import Callable, Iterator
from typing import Any

from ....keras_models.shown import shown_name
from ....keras_models.store.hub_errors import NoSuchFileError
from . import words
from .dataset import CLASSIFICATION, KINDS, MULTILABEL, RETRIEVAL, DataError, Dataset, Sample
from .places import Place
from .shards import Row, read_shard

IMAGES = ("webp", "png", "jpg", "jpeg")
TARGETS = {CLASSIFICATION: "cls", MULTILABEL: "npy", RETRIEVAL: "txt"}
COUNT, KIND, NAMES = "nshards.txt", "dataset_type.txt", "classnames.txt"
TEMPLATES = "zeroshot_classification_templates.txt"
MOST_SHARDS = 1_000_000


def open_webdataset(place: Place, split: str) -> Dataset | None:
    """A data set in this layout; None where there is none.

    Raises:
        DataError: where a file of it is missing or damaged.
    """
    count = place.text(f"{split}/{COUNT}")
    if count is None:
        return None
    shards = _count(count, f"{split}/{COUNT}")
    _check_end(place, split, shards)
    kind = _kind(place.text(KIND))
    classes: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    if kind != RETRIEVAL:
        names, lines = place.text(NAMES), place.text(TEMPLATES)
        if names is None:
            raise DataError(f"{place.name} has no {NAMES}.")
        classes = words.class_names(names, NAMES)
        templates = () if lines is None else words.templates(lines, TEMPLATES)
    target = _target(kind, len(classes))

    def read() -> Iterator[Sample]:
        for number in range(shards):
            name = f"{split}/{number}.tar"
            path = place.path(name)
            if path is None:
                raise DataError(f"{name} is missing, and {split}/{COUNT} says that there are {shards} shards.")
            for row in read_shard(path, name):
                yield _sample(row, kind, target)

    return Dataset(place.name, split, kind, read, classes, templates, revision=place.revision)


def _count(content: bytes, name: str) -> int:
    text = " ".join(words.lines(content, name)).strip()
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 0 < int(text) <= MOST_SHARDS):
        raise DataError(f"{name} does not hold the number of shards, but {shown_name(text[:60])!r}.")
    return int(text)


def _check_end(place: Place, split: str, shards: int) -> None:
    """Refuses a data set with more shards than it says, of which a part would be measured for all of it."""
    try:
        more = place.path(f"{split}/{shards}.tar")
    except NoSuchFileError:  # without a network, it cannot be asked
        return
    if more is not None:
        raise DataError(f"{split}/{COUNT} says that there are {shards} shards, and there is {split}/{shards}.tar, too.")


def _kind(content: bytes | None) -> str:
    if content is None:
        return CLASSIFICATION
    kind = " ".join(words.lines(content, KIND)).strip().lower()
    if kind not in KINDS:
        raise DataError(f"{KIND} says {shown_name(kind[:60])!r}; known are {', '.join(KINDS)}.")
    return kind


def _target(kind: str, classes: int) -> Callable[[bytes, str], Any]:
    if kind == RETRIEVAL:
        return words.captions
    parse = words.label if kind == CLASSIFICATION else words.labels
    return lambda content, where: parse(content, where, classes)


def _sample(row: Row, kind: str, target: Callable[[bytes, str], Any]) -> Sample:
    """One row, its image the first of IMAGES that is there."""
    found = next((row.parts[suffix] for suffix in IMAGES if suffix in row.parts), None)
    if found is None:
        raise DataError(f"{row.where} has no image (.{', .'.join(IMAGES)}).")
    if TARGETS[kind] not in row.parts:
        raise DataError(f"{row.where} has no .{TARGETS[kind]}.")
    return Sample(row.where, found, target(row.parts[TARGETS[kind]], row.where))
