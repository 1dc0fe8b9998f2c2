"""Finding the image files that the command line names, and reading them in batches that fit into memory."""

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...keras_models.errors import MobileClipError
from ...keras_models.inputs.image_reading import is_url, readable_suffixes
from ...keras_models.inputs.preprocessing import ImageError, ImagePreprocessor
from ...keras_models.tasks.embedding.finding import files_below

if TYPE_CHECKING:
    from numpy.typing import NDArray

LARGEST_BATCH = 64
# Memory that a tower needs for one image, as a multiple of the image's float32 array. MobileCLIP-S0 needs 22, as
# measured; the largest towers have four times its channels.
MEMORY_FACTOR = 100
# Assumed to be free where the system does not say.
USUAL_MEMORY = 2 << 30


class NoImagesError(MobileClipError):
    """A file, folder or pattern leads to no image file."""


def find_images(arguments: Sequence[str]) -> list[str]:
    """Paths of image files, each once, those of a folder sorted.

    Args:
        arguments: files, folders or patterns with *, ? or **. A file may have any name. Below folders and for
            patterns, only files count whose suffix is that of a format that can be read; below folders, hidden
            files and folders do not.

    Raises:
        NoImagesError: where a folder or pattern leads to none.
    """
    suffixes = readable_suffixes()
    found: dict[str, None] = {}
    for argument in arguments:
        if os.path.isdir(argument):
            files = [path for path in files_below(argument) if _is_image(path, suffixes)]
        elif glob.has_magic(argument) and not os.path.exists(argument) and not is_url(argument):
            files = [path for path in sorted(glob.glob(argument, recursive=True)) if _is_image(path, suffixes)]
        else:
            files = [argument]  # also a missing one or a URL: the reader reports it and goes on
        if not files:
            raise NoImagesError(f"{argument} leads to no image files.")
        found |= dict.fromkeys(files)
    return list(found)


def _is_image(path: str, suffixes: frozenset[str]) -> bool:
    return Path(path).suffix.lower() in suffixes and os.path.isfile(path)


def batch_size_for(image_size: int, count: int) -> int:
    """How many of `count` images can be computed at once in a quarter of the memory that is free."""
    one = image_size**2 * 3 * 4 * MEMORY_FACTOR
    return max(1, min(LARGEST_BATCH, count, _free_memory() // 4 // one))


def _free_memory() -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    except (OSError, ValueError):
        pass
    return USUAL_MEMORY


@dataclass
class ImageBatches:
    """Preprocessed images, batch by batch. Images that cannot be read are left out.

    Args:
        files: paths.
        preprocess: gives float32 (1, px, px, 3) for a path.
        batch_size: images in every batch but the last.
    """

    files: Sequence[str]
    preprocess: ImagePreprocessor
    batch_size: int
    unreadable: dict[str, str] = field(default_factory=dict)
    """The reason for each file that was left out; complete once all batches were taken."""

    def __iter__(self) -> "Iterator[tuple[list[str], NDArray[np.float32]]]":
        """Pairs of paths and images, (paths, height, width, 3); `unreadable` grows meanwhile."""
        names: list[str] = []
        images: list[NDArray[np.float32]] = []
        for file in self.files:
            try:
                images.append(self.preprocess(file)[0])
            except ImageError as error:
                self.unreadable[file] = str(error)
                continue
            names.append(file)
            if len(names) == self.batch_size:
                yield names, np.stack(images)
                names, images = [], []
        if names:
            yield names, np.stack(images)
