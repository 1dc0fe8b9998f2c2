"""Zero-shot classification: images sorted into classes that exist only as words."""

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..inputs.preprocessing import ImagePreprocessor
from ..inputs.tokenizer import Tokenizer
from ..models.features import BATCH_SIZE, encode, logit_bias, logit_scale
from ..registry import get_variant
from .prompts import check_labels, fill, get_templates

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from ..models.model import MobileClipModel


class Prediction(NamedTuple):
    """A label and how probable it is among the classifier's labels."""

    label: str
    probability: float


class ZeroShotClassifier:
    """Finds the label that fits an image best (arXiv 2103.00020, section 3.1).

    Each template makes a prompt of a label. The mean of these prompts' features, scaled to length 1, stands for the
    label. It is computed once, when it is first needed.

    Args:
        model: with both towers.
        labels: what an image may show; at least one, none twice.
        templates: "single" ("a photo of a {}."), "short" (7) or "openai" (80), or templates of your own with
            {} where the label goes: one, or a list. More of them take longer at first and tend to be more
            accurate. "{}" alone takes labels as they are.
        tokenizer: None for MobileCLIP's.
        preprocessor: None for that of the model's variant, in the size of its image tower.
        batch_size: images, or prompts, that are computed at once.

    Raises:
        PromptError: for labels or templates that no prompts can be made of; also a ValueError.
        ValueError: where a tower is missing, or the model is of no variant and there is no preprocessor.

    Example:
        >>> classifier = ZeroShotClassifier(model, ["cat", "dog"])
        >>> classifier.classify("cat.jpg", top_k=1)
        [[Prediction(label='cat', probability=...)]]
    """

    def __init__(
        self,
        model: "MobileClipModel",
        labels: Iterable[str],
        templates: str | Iterable[str] = "single",
        tokenizer: Callable[[list[str]], "ArrayLike"] | None = None,
        preprocessor: Callable[[Any], "NDArray[np.float32]"] | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> None:
        if model.image_encoder is None or model.text_encoder is None:
            raise ValueError("Zero-shot classification needs a model with both towers.")
        self.model = model
        self.labels = check_labels(labels)
        self.templates = get_templates(templates)
        self.tokenizer = tokenizer or Tokenizer(model.text_encoder.context_length)
        self.preprocessor = preprocessor or preprocessor_of(model)
        self.batch_size = batch_size

    @cached_property
    def text_features(self) -> "NDArray[np.floating]":
        """(classes, embed_dim), of length 1; computed once."""
        prompts = [fill(template, label) for label in self.labels for template in self.templates]
        features = encode(self.model, "text", self.tokenizer(prompts), self.batch_size)
        means = features.reshape(len(self.labels), len(self.templates), -1).mean(axis=1)
        return means / np.maximum(np.linalg.norm(means, axis=-1, keepdims=True), 1e-12)

    def logits(self, images: "ArrayLike") -> "NDArray[np.floating]":
        """Cosine similarities times the model's logit scale, plus its logit bias, (batch, classes).

        Args:
            images: preprocessed, float32 (batch, height, width, 3).
        """
        return self.compare(encode(self.model, "image", images, self.batch_size))

    def compare(self, image_features: "NDArray[np.floating]") -> "NDArray[np.floating]":
        """As `logits`, from features of length 1, (batch, embed_dim)."""
        logits = logit_scale(self.model) * image_features @ self.text_features.T
        bias = logit_bias(self.model)
        return logits if bias is None else logits + logits.dtype.type(bias)

    def classify(self, images: Any, top_k: int = 5) -> list[list[Prediction]]:
        """The best labels of each image, the most probable first.

        Args:
            images: one or more of what ImagePreprocessor takes: paths, bytes, Pillow images, arrays.
            top_k: how many labels; all of them where there are fewer.

        Returns:
            A list of `Prediction`s for each image, also for a single one. The probabilities of all labels add
            up to 1; of a model with a logit bias, each is that of its label alone.

        Raises:
            ImageError: naming the image that cannot be read.
        """
        sources = _listed(images)
        found: list[list[Prediction]] = []
        for start in range(0, len(sources), self.batch_size):
            batch = self.preprocessor(sources[start : start + self.batch_size])
            fill = len(sources) > self.batch_size
            features = encode(self.model, "image", batch, self.batch_size, fill)
            found += self.rank(self.compare(features), top_k)
        return found

    def rank(self, logits: "NDArray[np.floating]", top_k: int = 5) -> list[list[Prediction]]:
        """The best labels of each row of `logits`, with probabilities: a softmax over all of them, or a sigmoid of
        each for a model with a logit bias."""
        if top_k < 1:
            raise ValueError(f"top_k must be 1 or more, not {top_k}.")
        if self.model.logit_bias is None:
            powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
            probabilities = powers / powers.sum(axis=-1, keepdims=True)
        else:
            probabilities = (1 + np.tanh(logits / 2)) / 2  # a sigmoid, which cannot overflow when it is written so
        best = np.argsort(-probabilities, axis=-1, kind="stable")[:, :top_k]
        return [
            [Prediction(self.labels[index], float(row[index])) for index in order]
            for row, order in zip(probabilities, best, strict=True)
        ]


def _listed(images: Any) -> Sequence[Any]:
    several = isinstance(images, list | tuple) or getattr(images, "ndim", None) == 4
    return images if several else [images]


def preprocessor_of(model: "MobileClipModel") -> ImagePreprocessor:
    """The preprocessing of a model's variant, in the size of its image tower.

    Raises:
        ValueError: where the model is of no variant.
    """
    if model.variant is None:
        raise ValueError("The model is of no published variant, so it needs a preprocessor=.")
    variant = get_variant(model.variant)
    return ImagePreprocessor(model.image_encoder.image_size, variant.mean, variant.std, variant.interpolation)
