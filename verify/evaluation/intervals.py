"""95 % intervals of what a sample of images shows."""

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Z = 1.959963984540054
"""95 % of a normal distribution lie within this many standard deviations."""
RESAMPLES = 1000
SEED = 0
BLOCK = 1 << 22
"""Weights that are in memory at once."""
WILSON = "Wilson"
BOOTSTRAP = f"bootstrap, {RESAMPLES} samples of images"


@dataclass(frozen=True)
class Figure:
    """A measured figure, from 0 to 1."""

    value: float
    low: float
    high: float
    interval: str
    """How the interval was made."""


def share(right: "NDArray[np.bool_]") -> Figure:
    """The share of independent images that are right, with Wilson's score interval (Wilson 1927, JASA 22)."""
    count, successes = len(right), float(right.sum())
    value = successes / count
    centre = (value + Z * Z / (2 * count)) / (1 + Z * Z / count)
    half = Z / (1 + Z * Z / count) * sqrt(value * (1 - value) / count + Z * Z / (4 * count * count))
    # Where all or none are right, the bound is the value, up to a rounding.
    return Figure(value, max(0.0, min(centre - half, value)), min(1.0, max(centre + half, value)), WILSON)


def mean_of_classes(value: float, right: "NDArray[np.bool_]", labels: "NDArray[np.int32]") -> Figure:
    """The mean recall of classes.

    A sample of images, drawn again, is a multinomial sample of (class, right or wrong). Classes that a
    sample misses do not count in it.

    Args:
        value: of all images.
        right: of each image.
        labels: of each image.
    """
    classes = int(labels.max()) + 1
    cells = np.bincount(labels * 2 + right, minlength=2 * classes)
    drawn = np.random.default_rng(SEED).multinomial(len(labels), cells / cells.sum(), size=RESAMPLES)
    pairs = drawn.reshape(RESAMPLES, classes, 2)
    count = pairs.sum(axis=2)
    recall = np.where(count > 0, pairs[..., 1] / np.maximum(count, 1), np.nan)
    return _between(value, np.nanmean(recall, axis=1))


def ratio(value: float, tops: "list[NDArray[Any]]", bottoms: "list[NDArray[Any]]") -> Figure:
    """The mean of some ratios, each of a sum over images to another, such as of texts found to texts.

    Texts of one image are not independent, so images are drawn.

    Args:
        value: of all images.
        tops: of each ratio, what each image adds above the line.
        bottoms: and below it.
    """
    top, bottom = np.stack(tops), np.stack(bottoms)

    def means(weights: "NDArray[np.float64]") -> "NDArray[np.float64]":
        return ((weights @ top.T) / (weights @ bottom.T)).mean(axis=1)

    return _between(value, _resampled(top.shape[1], means))


def mean_precision(value: float, scores: "NDArray[np.floating]", targets: "NDArray[np.uint8]") -> Figure:
    """The mean of average precisions; an image that is drawn several times counts as often."""
    orders = [np.argsort(-scores[:, number], kind="stable") for number in range(scores.shape[1])]

    def means(weights: "NDArray[np.float64]") -> "NDArray[np.float64]":
        total = np.zeros(len(weights))
        for number, order in enumerate(orders):
            weight = weights[:, order]
            right = weight * targets[order, number]
            precision = np.cumsum(right, axis=1) / np.maximum(np.cumsum(weight, axis=1), 1)
            total += (right * precision).sum(axis=1) / np.maximum(right.sum(axis=1), 1)
        return total / len(orders)

    return _between(value, _resampled(len(scores), means))


def _resampled(images: int, statistic: "Callable[[NDArray[np.float64]], NDArray[np.float64]]") -> "NDArray[np.float64]":
    """A statistic of RESAMPLES samples. It takes how often each image was drawn, (samples, images)."""
    random = np.random.default_rng(SEED)
    step = max(1, BLOCK // images)
    found = []
    for start in range(0, RESAMPLES, step):
        size = min(step, RESAMPLES - start)
        drawn = random.integers(images, size=(size, images))
        weights = np.stack([np.bincount(row, minlength=images) for row in drawn]).astype(np.float64)
        found.append(statistic(weights))
    return np.concatenate(found)


def _between(value: float, drawn: "NDArray[np.float64]") -> Figure:
    """The middle 95 % of what was drawn, which always holds the value itself."""
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Figure(value, float(min(low, value)), float(max(high, value)), BOOTSTRAP)
