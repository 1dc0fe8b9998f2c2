"""The figures of an evaluation, defined as CLIP_benchmark defines them (github.com/LAION-AI/CLIP_benchmark, folder
clip_benchmark/metrics).

All are ranks of what is right among what there is. Of two equal scores, the one that stands first ranks higher. Arrays
may lie on the disk: they are read in blocks.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SCALE = 100.0
"""Of logits: cosine similarities times this."""
BLOCK = 1 << 24
"""Scores that are in memory at once."""


def class_vectors(prompts: "NDArray[np.float32]", templates: int) -> "NDArray[np.float32]":
    """One vector of length 1 for each class: the mean of its prompts' features of length 1.

    Args:
        prompts: (classes * templates, width), the templates of a class beside each other.
        templates: how many there are.
    """
    units = prompts / np.linalg.norm(prompts, axis=-1, keepdims=True)
    means = units.reshape(-1, templates, units.shape[-1]).mean(axis=1)
    return means / np.linalg.norm(means, axis=-1, keepdims=True)


def class_ranks(
    images: "NDArray[np.float32]", classes: "NDArray[np.float32]", labels: "NDArray[np.int32]"
) -> "NDArray[np.int64]":
    """How many classes score above the right one, for each image: 0 where it is the best.

    Args:
        images: features of length 1, (images, width).
        classes: `class_vectors`, (classes, width).
        labels: (images,).
    """
    found = np.empty(len(images), np.int64)
    for rows in _blocks(len(images), len(classes)):
        found[rows] = _rank(logits(images[rows], classes), np.asarray(labels[rows]))
    return found


def accuracy(ranks: "NDArray[np.int64]", k: int) -> float:
    """The share of images whose class is among the k best."""
    return float((ranks < k).sum()) / len(ranks)


def recall_of_classes(ranks: "NDArray[np.int64]", labels: "NDArray[np.int32]") -> "NDArray[np.float64]":
    """The share of each class's images that are classified right, of classes that have images."""
    right = np.bincount(labels, ranks == 0)
    count = np.bincount(labels)
    return right[count > 0] / count[count > 0]


def average_precisions(scores: "NDArray[np.floating]", targets: "NDArray[np.uint8]") -> "NDArray[np.float64]":
    """The average precision of each class; 0 for a class without images.

    Args:
        scores: logits, (images, classes).
        targets: 0 or 1, (images, classes).
    """
    found = np.zeros(scores.shape[1])
    places = np.arange(1, len(scores) + 1)
    for number in range(scores.shape[1]):
        order = np.argsort(-scores[:, number], kind="stable")
        right = targets[order, number] > 0
        precision = np.cumsum(right) / places
        found[number] = precision[right].sum() / max(right.sum(), 1)
    return found


def logits(images: "NDArray[np.float32]", classes: "NDArray[np.float32]") -> "NDArray[np.floating]":
    """(images, classes), at scale 100."""
    return np.float32(SCALE) * np.asarray(images) @ classes.T


def image_ranks(
    texts: "NDArray[np.float32]", images: "NDArray[np.float32]", image_of_text: "NDArray[np.int32]"
) -> "NDArray[np.int64]":
    """How many images score above its own, for each text.

    Args:
        texts: features of length 1, (texts, width).
        images: (images, width).
        image_of_text: (texts,).
    """
    found = np.empty(len(texts), np.int64)
    for rows in _blocks(len(texts), len(images)):
        found[rows] = _rank(np.asarray(texts[rows]) @ np.asarray(images).T, np.asarray(image_of_text[rows]))
    return found


def text_ranks(
    texts: "NDArray[np.float32]", images: "NDArray[np.float32]", image_of_text: "NDArray[np.int32]"
) -> "NDArray[np.int64]":
    """How many texts score above the best of its own, for each image; arguments as for `image_ranks`.

    The texts of an image stand beside each other, and every image has one.
    """
    starts = np.searchsorted(image_of_text, np.arange(len(images) + 1))
    found = np.empty(len(images), np.int64)
    for rows in _blocks(len(images), len(texts)):
        scores = np.asarray(images[rows]) @ np.asarray(texts).T
        best = [
            starts[image] + int(np.argmax(scores[place, starts[image] : starts[image + 1]]))
            for place, image in enumerate(range(rows.start, rows.stop))
        ]
        found[rows] = _rank(scores, np.asarray(best))
    return found


def _rank(scores: "NDArray[np.floating]", right: "NDArray[np.integer]") -> "NDArray[np.int64]":
    own = scores[np.arange(len(scores)), right][:, None]
    before = np.arange(scores.shape[1]) < right[:, None]
    return ((scores > own) | ((scores == own) & before)).sum(axis=1)


def _blocks(rows: int, columns: int) -> Iterator[slice]:
    step = max(1, BLOCK // max(columns, 1))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))
