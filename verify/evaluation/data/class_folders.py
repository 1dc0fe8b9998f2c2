"""A folder with a folder for each class, as torchvision's ImageFolder reads it: classes in the order of their names."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ....keras_models.inputs.image_reading import readable_suffixes
from ....keras_models.store.foreign.foreign_files import ForeignFileError, read_limited
from . import words
from .dataset import CLASSIFICATION, LARGEST_FILE, DataError, Dataset, Sample
from .places import Folder
from .webdataset import NAMES, TEMPLATES


@dataclass(frozen=True)
class Classes:
    """Folders of images, one for each class.

    Attributes:
        folders: in the order of the classes.
        names: of the classes.
        templates: of the data set; empty where it has none.
        count: how many images there are.
    """

    folders: tuple[Path, ...]
    names: tuple[str, ...]
    templates: tuple[str, ...]
    count: int

    def images(self) -> Iterator[tuple[Path, int]]:
        """Each image file and the number of its class, always in the same order."""
        suffixes = readable_suffixes()
        for number, folder in enumerate(self.folders):
            for path in _images(folder, suffixes):
                yield path, number


def open_class_folders(place: Folder, split: str) -> Dataset | None:
    """The images in FOLDER/SPLIT/CLASS/, or in FOLDER/CLASS/, as a data set; None where there are none.

    Raises:
        DataError: as `find_classes`.
    """
    found = find_classes(place, split)
    if found is None:
        return None

    def read() -> Iterator[Sample]:
        for path, number in found.images():
            yield Sample(path.relative_to(place.folder).as_posix(), _content(path), number)

    return Dataset(place.name, split, CLASSIFICATION, read, found.names, found.templates, found.count)


def find_classes(place: Folder, split: str) -> Classes | None:
    """The classes in FOLDER/SPLIT/CLASS/, or in FOLDER/CLASS/; None where there are no images.

    Names of classes are those of the folders, or the lines of classnames.txt in that order.

    Raises:
        DataError: where classnames.txt does not fit, or a class has no images.
    """
    below = place.folder / split
    top = below if below.is_dir() else place.folder
    folders = sorted(path for path in top.iterdir() if path.is_dir() and not path.name.startswith("."))
    suffixes = readable_suffixes()
    counts = {folder: sum(1 for _ in _images(folder, suffixes)) for folder in folders}
    if not any(counts.values()):
        return None
    empty = [folder.name for folder, count in counts.items() if not count]
    if empty:
        raise DataError(f"{top} has folders without images, which are no classes: {', '.join(empty[:10])}.")
    names, lines = place.text(NAMES), place.text(TEMPLATES)
    classes = tuple(folder.name for folder in folders) if names is None else words.class_names(names, NAMES)
    if len(classes) != len(folders):
        raise DataError(f"{NAMES} names {len(classes)} classes, and {top} has {len(folders)} folders.")
    templates = () if lines is None else words.templates(lines, TEMPLATES)
    return Classes(tuple(folders), classes, templates, sum(counts.values()))


def _images(folder: Path, suffixes: frozenset[str]) -> Iterator[Path]:
    """Image files below a folder, in the order of their names, without hidden ones."""
    for top, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and Path(name).suffix.lower() in suffixes:
                yield Path(top, name)


def _content(path: Path) -> bytes:
    try:
        return read_limited(path, LARGEST_FILE)
    except ForeignFileError as error:
        raise DataError(str(error)) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
