"""Pairs in WebDataset shards: of each row an image, and a .txt with its captions or a .cls with its class."""

from collections.abc import Iterator
from pathlib import Path

from ....verify.evaluation.data import words
from ....verify.evaluation.data.dataset import DataError
from ....verify.evaluation.data.shards import Row, read_shard
from ....verify.evaluation.data.webdataset import IMAGES
from .pair import ImagePlace, Pair


def read_shards(paths: list[Path], captions: tuple[tuple[str, ...], ...]) -> Iterator[Pair]:
    """The pairs of shards. Of images, only their places are kept.

    Args:
        paths: .tar files.
        captions: those of each class, for rows with a .cls; empty where there are no classes.
    """
    for path in paths:
        try:
            for row in read_shard(path, path.name):
                yield _pair(path, row, captions)
        except DataError as error:
            yield Pair(path.name, problem=f"it is damaged, and what follows is not read: {str(error).rstrip('.')}")


def _pair(path: Path, row: Row, captions: tuple[tuple[str, ...], ...]) -> Pair:
    suffix = next((each for each in IMAGES if each in row.parts), None)
    if suffix is None:
        return Pair(row.where, problem=f"it has no image (.{', .'.join(IMAGES)})")
    place = ImagePlace(path, *row.places[suffix])
    try:
        if "txt" in row.parts:
            texts = words.captions(row.parts["txt"], row.where)
            if all(text.strip() for text in texts):
                return Pair(row.where, place, tuple(text.strip() for text in texts))
            return Pair(row.where, problem="its text is empty")
        if "cls" in row.parts and captions:
            label = words.label(row.parts["cls"], row.where, len(captions))
            return Pair(row.where, place, captions[label], label)
    except DataError as error:
        return Pair(row.where, problem=str(error).removeprefix(f"{row.where}: ").rstrip("."))
    lacks = "no .txt" if captions else "no .txt, and no classnames.txt stands beside the shards"
    return Pair(row.where, problem=f"it has {lacks}")
