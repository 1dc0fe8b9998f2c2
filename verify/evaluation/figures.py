"""From features to the figures of each kind of data set, with their intervals."""

from typing import TYPE_CHECKING, Any

import numpy as np

from . import intervals, metrics
from .data.dataset import CLASSIFICATION, MULTILABEL
from .intervals import Figure

if TYPE_CHECKING:
    from numpy.typing import NDArray

BEST = (1, 5, 10)
"""Recall is among that many."""
IMAGE_RECALL, TEXT_RECALL, MEAN_RECALL = "image_retrieval_recall@{}", "text_retrieval_recall@{}", "mean_recall@{}"
NAMES = (
    *("acc1", "acc5", "mean_per_class_recall", "mean_average_precision"),
    *(name.format(k) for name in (IMAGE_RECALL, TEXT_RECALL, MEAN_RECALL) for k in BEST),
)
"""Every figure that there is, under CLIP_benchmark's names; the mean recall is DataComp's."""

Columns = dict[str, "NDArray[Any]"]


def figures(kind: str, columns: Columns, vectors: "NDArray[np.float32] | None") -> dict[str, Figure]:
    """The figures of a data set by their names.

    Args:
        kind: of the data set.
        columns: "images", features of length 1, (images, width). For retrieval "texts", (texts, width), and
            "image_of_text", (texts, 1), in growing order; else "labels", (images, 1) or (images, classes).
        vectors: one for each class; None for retrieval.
    """
    if kind == CLASSIFICATION:
        assert vectors is not None
        return _classification(columns["images"], columns["labels"][:, 0], vectors)
    if kind == MULTILABEL:
        assert vectors is not None
        scores, targets = metrics.logits(columns["images"], vectors), np.asarray(columns["labels"])
        value = float(metrics.average_precisions(scores, targets).mean())
        return {"mean_average_precision": intervals.mean_precision(value, scores, targets)}
    return _retrieval(columns["images"], columns["texts"], columns["image_of_text"][:, 0])


def _classification(
    images: "NDArray[np.float32]", labels: "NDArray[np.int32]", vectors: "NDArray[np.float32]"
) -> dict[str, Figure]:
    labels = np.asarray(labels)
    ranks = metrics.class_ranks(images, vectors, labels)
    found = {"acc1": intervals.share(ranks < 1)}
    if len(vectors) >= 5:
        found["acc5"] = intervals.share(ranks < 5)
    recall = float(metrics.recall_of_classes(ranks, labels).mean())
    found["mean_per_class_recall"] = intervals.mean_of_classes(recall, ranks == 0, labels)
    return found


def _retrieval(
    images: "NDArray[np.float32]", texts: "NDArray[np.float32]", image_of_text: "NDArray[np.int32]"
) -> dict[str, Figure]:
    image_of_text = np.asarray(image_of_text)
    of_texts = metrics.image_ranks(texts, images, image_of_text)
    of_images = metrics.text_ranks(texts, images, image_of_text)
    count = np.bincount(image_of_text, minlength=len(images)).astype(np.float64)
    one = np.ones(len(images))
    found = {}
    for k in BEST:
        texts_found = np.bincount(image_of_text, of_texts < k, minlength=len(images))
        images_found = (of_images < k).astype(np.float64)
        by_text, by_image = metrics.accuracy(of_texts, k), metrics.accuracy(of_images, k)
        found[IMAGE_RECALL.format(k)] = intervals.ratio(by_text, [texts_found], [count])
        found[TEXT_RECALL.format(k)] = intervals.share(of_images < k)
        mean = (by_text + by_image) / 2
        found[MEAN_RECALL.format(k)] = intervals.ratio(mean, [texts_found, images_found], [count, one])
    return found
