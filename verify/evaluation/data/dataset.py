"""What an evaluation reads: images, one after the other, each with what is known of it."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ....keras_models.errors import MobileClipError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CLASSIFICATION, MULTILABEL, RETRIEVAL = "classification", "multilabel", "retrieval"
KINDS = (CLASSIFICATION, MULTILABEL, RETRIEVAL)
LARGEST_FILE = 256 << 20
"""Bytes of one image, or of what stands beside it."""


class DataError(MobileClipError):
    """A data set is not what an evaluation reads; the message names the file and the row."""


@dataclass(frozen=True)
class Sample:
    """One image of a data set."""

    name: str
    """Where it stands, for messages: "test/0.tar, row 3 (s0000002)"."""
    image: bytes
    """The image file."""
    target: "int | NDArray[np.uint8] | tuple[str, ...]"
    """Its class; or one 0 or 1 for each class; or its captions."""

    def digest(self) -> bytes:
        """The SHA-256 of image and target, 32 bytes."""
        if isinstance(self.target, int):
            target = str(self.target).encode()
        elif isinstance(self.target, tuple):
            target = json.dumps(self.target).encode()
        else:
            target = self.target.tobytes()
        return hashlib.sha256(hashlib.sha256(self.image).digest() + target).digest()


@dataclass(frozen=True)
class Dataset:
    """A data set, of which nothing but its words is in memory."""

    name: str
    """As the user gave it, and for a repository its id."""
    split: str
    kind: str
    """One of KINDS."""
    read: Callable[[], Iterator[Sample]]
    """Its images from the first on, always in the same order. Raises DataError."""
    classes: tuple[str, ...] = ()
    """Names of the classes; a target is a place in this list. None for retrieval."""
    templates: tuple[str, ...] = ()
    """Sentences with {c} where the name of a class goes; empty where the data set has none."""
    images: int | None = None
    """How many there are, where that is known beforehand."""
    revision: str | None = None
    """The commit of a repository."""

    def start(self) -> bytes:
        """The fingerprint of the data set before its first image."""
        return hashlib.sha256(json.dumps([self.kind, self.classes]).encode()).digest()


def link(fingerprint: bytes, digest: bytes) -> bytes:
    """The fingerprint of some images and one more.

    It is a chain of SHA-256, so that its state is 32 bytes and a run that was killed can go on.
    """
    return hashlib.sha256(fingerprint + digest).digest()
