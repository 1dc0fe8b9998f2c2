"""What files, folders and patterns lead to, found while it is embedded: no list of a collection is ever made."""

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from ...inputs.image_reading import is_url, readable_suffixes
from .errors import DataError

SHARDS = (".tar", ".tar.gz", ".tgz")
PARQUET = (".parquet",)
TEXTS = (".txt",)
STORE_FILE = "store.json"
"""Marks a folder as a store. Below folders, stores are not looked into."""
FILES_AT_ONCE = 64
"""Image files of one unit."""


class Unit(NamedTuple):
    """Some image files, or one file that holds many inputs: what is read in one piece."""

    kind: str
    """"images", "shard", "parquet" or "texts"."""
    paths: tuple[str, ...]


def find_units(arguments: Iterable[str]) -> Iterator[Unit]:
    """What the arguments lead to, in the same order in every run.

    Args:
        arguments: image files, WebDataset shards (.tar), Parquet files, text files (.txt); folders, with the images,
            shards and Parquet files below them; patterns with *, ? or **. Hidden files and stores are left out of
            folders, and text files too: where they lie beside pictures, they are seldom meant.

    Raises:
        DataError: where a folder or a pattern leads to nothing.
    """
    files: list[str] = []
    for path in _files(arguments):
        kind = kind_of(path)
        if kind == "images":
            files.append(path)
        if files and (kind != "images" or len(files) == FILES_AT_ONCE):
            yield Unit("images", tuple(files))
            files = []
        if kind != "images":
            yield Unit(kind, (path,))
    if files:
        yield Unit("images", tuple(files))


def check_arguments(arguments: Iterable[str]) -> None:
    """Refuses, before any work, what leads to nothing.

    A missing file among others is left to the run, which lists it and goes on.

    Raises:
        DataError: for a folder or a pattern without data, a missing path that has no ending of a file that can be
            embedded, such as a mistyped folder, and where nothing that is named exists.
    """
    given = list(arguments)
    missing = [argument for argument in given if not os.path.exists(next(_files([argument])))]
    suffixes = readable_suffixes()
    for argument in missing:
        if len(missing) == len(given) or not (is_url(argument) or _has_ending(argument, suffixes)):
            is_one = "is a URL, and URLs are not fetched." if is_url(argument) else "does not exist."
            raise DataError(f"{argument} {is_one}")


def kind_of(path: str) -> str:
    """What kind of unit a file is, by its name."""
    name = path.lower()
    return (
        "shard"
        if name.endswith(SHARDS)
        else "parquet"
        if name.endswith(PARQUET)
        else ("texts" if name.endswith(TEXTS) else "images")
    )


def _files(arguments: Iterable[str]) -> Iterator[str]:
    suffixes = readable_suffixes()
    found: Iterator[str]
    for argument in arguments:
        if os.path.isdir(argument):
            found = (path for path in files_below(argument) if _is_data(path, suffixes))
        elif glob.has_magic(argument) and not os.path.exists(argument) and not is_url(argument):
            found = iter(sorted(path for path in glob.iglob(argument, recursive=True) if _is_named(path, suffixes)))
        else:
            found = iter([argument])  # also a missing one or a URL: the reader says so, and the run goes on
        first = next(found, None)
        if first is None:
            raise DataError(f"{argument} leads to nothing that can be embedded.")
        yield first
        yield from found


def files_below(folder: str) -> Iterator[str]:
    """Paths of all files below a folder, sorted; nothing that is hidden, and nothing of a store."""
    for place, folders, files in os.walk(folder):
        if STORE_FILE in files:
            folders[:] = []
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (os.path.join(place, name) for name in sorted(files) if not name.startswith("."))


def _is_data(path: str, suffixes: frozenset[str]) -> bool:
    return _has_ending(path, suffixes) and not path.lower().endswith(TEXTS) and os.path.isfile(path)


def _is_named(path: str, suffixes: frozenset[str]) -> bool:
    return _has_ending(path, suffixes) and os.path.isfile(path)


def _has_ending(path: str, suffixes: frozenset[str]) -> bool:
    return path.lower().endswith((*SHARDS, *PARQUET, *TEXTS)) or Path(path).suffix.lower() in suffixes
