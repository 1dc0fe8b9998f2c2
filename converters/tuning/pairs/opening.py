"""Opening pairs by their name, whatever they lie in."""

import glob
from collections.abc import Sequence
from pathlib import Path

from ....keras_models.tasks.prompts import SINGLE
from ....verify.evaluation.data import words
from ....verify.evaluation.data.class_folders import find_classes
from ....verify.evaluation.data.dataset import DataError
from ....verify.evaluation.data.places import Folder
from ....verify.evaluation.data.webdataset import NAMES, TEMPLATES
from .pair import ImagePlace, Pair, PairSet
from .shards import read_shards
from .tables import TABLES, read_table

SHARD = ".tar"
SPLIT = "train"
"""The folder within a data set's that is taken where there are several splits."""


def open_pairs(
    data: str,
    templates: Sequence[str] | None = None,
    image_column: str | None = None,
    text_column: str | None = None,
) -> PairSet:
    """The pairs of a data set. Images are not looked at.

    Args:
        data: a table (.csv, .tsv, .jsonl); a shard (.tar), a folder of shards or a pattern for some; or a folder with a
            folder of images for each class. Of a folder that has a folder "train" with shards or classes, that is read.
        templates: with {c} where the name of a class goes; None for those of the data set, else "a photo of a {c}.".
        image_column, text_column: of tables.

    Raises:
        DataError: where there is no such data, or it has no pairs or one class alone.
    """
    pairs = _open(data, templates, image_column, text_column)
    if not pairs.pairs:
        raise DataError(f"{data} holds no pairs.")
    return pairs


def _open(data: str, templates: Sequence[str] | None, image_column: str | None, text_column: str | None) -> PairSet:
    path = Path(data)
    if path.is_dir():
        found = _shard_folder(path, templates) or _class_folder(path, templates)
        if found is None:
            raise DataError(
                f"{data} holds neither shards (.tar) nor folders of images, one for each class. Of pictures with "
                f"captions, name the table: {', '.join(TABLES)}."
            )
        return found
    suffix = path.suffix.lower()
    if glob.has_magic(data) and not path.exists():
        shards = sorted(Path(name) for name in glob.glob(data, recursive=True) if name.lower().endswith(SHARD))
        if not shards:
            raise DataError(f"{data} leads to no shards ({SHARD}).")
        return _shards(data, shards, templates)
    if not path.exists():
        raise DataError(f"There is no file or folder {data}.")
    if suffix == SHARD:
        return _shards(data, [path], templates)
    if suffix in TABLES:
        return PairSet(data, tuple(read_table(path, image_column, text_column)))
    raise DataError(f"{data} is none of the files that pairs are read from: {', '.join((*TABLES, SHARD))}.")


def _shard_folder(folder: Path, templates: Sequence[str] | None) -> PairSet | None:
    for place in (folder / SPLIT, folder):
        shards = sorted(path for path in place.glob(f"*{SHARD}") if path.is_file()) if place.is_dir() else []
        if shards:
            return _shards(str(folder), _in_order(shards), templates)
    return None


def _shards(name: str, paths: list[Path], templates: Sequence[str] | None) -> PairSet:
    captions = _captions_beside(paths[0].parent, templates)
    return PairSet(name, tuple(read_shards(paths, captions)), captions)


def _in_order(shards: list[Path]) -> list[Path]:
    """Shards that are named by numbers, 0.tar to 10.tar, in the order of these."""
    if all(path.stem.isascii() and path.stem.isdigit() for path in shards):
        return sorted(shards, key=lambda path: int(path.stem))
    return shards


def _captions_beside(folder: Path, templates: Sequence[str] | None) -> tuple[tuple[str, ...], ...]:
    """The captions of the classes that stand beside shards, or above their split; empty where none do."""
    for place in (folder, folder.parent):
        names = Folder(place).text(NAMES)
        if names is not None:
            own = Folder(place).text(TEMPLATES)
            found = () if own is None else words.templates(own, TEMPLATES)
            return _captions(words.class_names(names, NAMES), templates, found)
    return ()


def _class_folder(folder: Path, templates: Sequence[str] | None) -> PairSet | None:
    split = SPLIT if any(path.is_dir() for path in (folder / SPLIT).glob("*")) else ""
    found = find_classes(Folder(folder), split)
    if found is None:
        return None
    captions = _captions(found.names, templates, found.templates)
    if len(captions) < 2:
        raise DataError(f"{folder} has one class alone, {found.names[0]!r}. Training tells classes apart: give two.")
    pairs = tuple(
        Pair(str(path.relative_to(folder)), ImagePlace(path), captions[label], label) for path, label in found.images()
    )
    return PairSet(str(folder), pairs, captions)


def _captions(names: Sequence[str], given: Sequence[str] | None, own: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """The captions of each class."""
    usual = [each.replace("{}", "{c}") for each in SINGLE]
    chosen = given or own or usual
    return tuple(tuple(words.prompt(template, name) for template in chosen) for name in names)
