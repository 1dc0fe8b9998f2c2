"""What a model learns from teachers: to find the pairs of a batch as likely as they do.

Source: MobileCLIP (arXiv 2311.17049), section 3, "loss function".
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from keras import ops

from .. import kernels
from .losses import weighted_mean, wide


class TeacherFeatures(NamedTuple):
    """What one teacher makes of a batch of pairs.

    Attributes:
        image: float (batch, the teacher's own embed_dim), of length 1.
        text: the same of the texts.
        scale: what this teacher's similarities are multiplied with: 100 for CLIP models.
    """

    image: Any
    text: Any
    scale: Any


def distillation_loss(
    image_features: Any,
    text_features: Any,
    logit_scale: Any,
    teachers: Sequence[TeacherFeatures],
    weights: Any = None,
) -> Any:
    """How far a student's softmax similarities are from those of an ensemble of teachers.

    For each teacher, the mean of two Kullback-Leibler divergences KL(teacher || student), of the texts for each image
    and of the images for each text; then the mean over the teachers.

    Args:
        image_features: the student's, (batch, embed_dim), of length 1.
        text_features: (batch, embed_dim), of length 1; row i belongs to image i.
        logit_scale: the student's, a scalar, after exp.
        teachers: one or more.
        weights: of each pair, (batch,) or (batch, 1); None for 1.

    Returns:
        A scalar, float32 at least; 0 where the student agrees with each teacher.
    """
    student = _log_probabilities(image_features, text_features, logit_scale)
    total: Any = 0.0
    for teacher in teachers:
        expected = [ops.stop_gradient(each) for each in _log_probabilities(*teacher)]
        pairs = zip(expected, student, strict=True)
        total = total + sum(_divergences(mine, ops.cast(own, mine.dtype)) for mine, own in pairs) / 2
    return weighted_mean(total / len(teachers), weights)


def _divergences(expected: Any, found: Any) -> Any:
    """KL(expected || found) of each row of logarithms of probabilities."""
    return ops.sum(kernels.exp(expected) * (expected - found), axis=-1)


def _log_probabilities(images: Any, texts: Any, scale: Any) -> tuple[Any, Any]:
    """Of each text, (images, texts), and of each image, (texts, images)."""
    images, texts = wide(images), wide(texts)
    logits = ops.cast(scale, images.dtype) * (images @ ops.transpose(texts))
    other = ops.transpose(logits)
    return logits - ops.logsumexp(logits, axis=-1, keepdims=True), other - ops.logsumexp(other, axis=-1, keepdims=True)
