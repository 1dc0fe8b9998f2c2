"""Zero-shot classification: images sorted into classes that exist only as words."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from ..inputs.preprocessing import ImagePreprocessor
from ..inputs.tokenizer import Tokenizer
from ..models.features import BATCH_SIZE, encode, logit_bias, logit_scale
from ..registry import get_variant
from .calibration import Calibration, CalibrationError, calibrate, sigmoid, together
from .classifier_file import read_classifier, write_classifier
from .embedding.fingerprint import Fingerprint
from .prompts import check_background, check_labels, fill, get_templates

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from ..models.model import MobileClipModel


NONE = "none of these"
"""The label of a prediction that no label fits."""


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
        background: labels of what else an image may show. They compete with the others, and together they are the
            answer "none of these".

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
        background: Iterable[str] = (),
    ) -> None:
        if model.image_encoder is None or model.text_encoder is None:
            raise ValueError("Zero-shot classification needs a model with both towers.")
        self.model = model
        self.labels = check_labels(labels)
        self.templates = get_templates(templates)
        self.tokenizer = tokenizer or Tokenizer(model.text_encoder.context_length)
        self.preprocessor = preprocessor or preprocessor_of(model)
        self.batch_size = batch_size
        self.background = check_background(background, self.labels)
        self.calibration: Calibration | None = None

    @cached_property
    def text_features(self) -> "NDArray[np.floating]":
        """(classes, embed_dim), of length 1; computed once."""
        return self._features_of(self.labels)

    @cached_property
    def background_features(self) -> "NDArray[np.floating]":
        """(background labels, embed_dim), of length 1; computed once."""
        if not self.background:
            return np.empty((0, self.model.text_encoder.embed_dim), self.text_features.dtype)
        return self._features_of(self.background)

    def _features_of(self, labels: Sequence[str]) -> "NDArray[np.floating]":
        prompts = [fill(template, label) for label in labels for template in self.templates]
        features = encode(self.model, "text", self.tokenizer(prompts), self.batch_size)
        means = features.reshape(len(labels), len(self.templates), -1).mean(axis=1)
        return means / np.maximum(np.linalg.norm(means, axis=-1, keepdims=True), 1e-12)

    def logits(self, images: "ArrayLike") -> "NDArray[np.floating]":
        """Cosine similarities times the model's logit scale, plus its logit bias, (batch, classes).

        Args:
            images: preprocessed, float32 (batch, height, width, 3).
        """
        return self.compare(encode(self.model, "image", images, self.batch_size))

    def compare(self, image_features: "NDArray[np.floating]") -> "NDArray[np.floating]":
        """As `logits`, from features of length 1, (batch, embed_dim)."""
        return self._compare(image_features, self.text_features)

    def _compare(
        self, image_features: "NDArray[np.floating]", text_features: "NDArray[np.floating]"
    ) -> "NDArray[np.floating]":
        logits = logit_scale(self.model) * image_features @ text_features.T
        bias = logit_bias(self.model)
        return logits if bias is None else logits + logits.dtype.type(bias)

    def classify(self, images: Any, top_k: int = 5) -> list[list[Prediction]]:
        """The best labels of each image, the most probable first.

        Args:
            images: one or more of what ImagePreprocessor takes: paths, bytes, Pillow images, arrays.
            top_k: how many labels; all of them where there are fewer.

        Returns:
            A list of `Prediction`s for each image, also for a single one. The probabilities of all labels, and of
            "none of these" where there is a background or a calibration knows it, add up to 1; of a model with a
            logit bias, each is that of its label alone.

        Raises:
            ImageError: naming the image that cannot be read.
        """
        return [
            prediction
            for features in self._image_features(images)
            for prediction in self.rank(
                self.compare(features), top_k, self._compare(features, self.background_features)
            )
        ]

    def _image_features(self, images: Any) -> "Iterator[NDArray[np.floating]]":
        """The features of images, a batch at a time."""
        sources = _listed(images)
        for start in range(0, len(sources), self.batch_size):
            batch = self.preprocessor(sources[start : start + self.batch_size])
            fill = len(sources) > self.batch_size
            yield encode(self.model, "image", batch, self.batch_size, fill)

    def rank(
        self, logits: "NDArray[np.floating]", top_k: int = 5, background: "NDArray[np.floating] | None" = None
    ) -> list[list[Prediction]]:
        """The best labels of each row of `logits`, with probabilities: a softmax over all of them, or a sigmoid of
        each for a model with a logit bias.

        Args:
            logits: (batch, classes), as `compare` gives them.
            top_k: how many labels; all of them where there are fewer.
            background: (batch, background labels), the same of the background; None for none.
        """
        if top_k < 1:
            raise ValueError(f"top_k must be 1 or more, not {top_k}.")
        if background is None:
            background = np.empty((len(logits), 0))
        probabilities, none = self._probabilities(logits, background)
        labels = self.labels
        if none is not None:
            probabilities, labels = np.concatenate([probabilities, none[:, None]], axis=1), (*labels, NONE)
        best = np.argsort(-probabilities, axis=-1, kind="stable")[:, :top_k]
        return [
            [Prediction(labels[index], float(row[index])) for index in order]
            for row, order in zip(probabilities, best, strict=True)
        ]

    def _probabilities(
        self, logits: "NDArray[np.floating]", background: "NDArray[np.floating]", plain: bool = False
    ) -> "tuple[NDArray[np.floating], NDArray[np.floating] | None]":
        """Of each label, and of none of them where that is an answer; `plain` leaves the calibration out."""
        calibration = None if plain else self.calibration
        if self.model.logit_bias is not None:
            return (sigmoid(logits) if calibration is None else calibration.alone(logits)), None
        if calibration is not None:
            probabilities, none = together(calibration, logits, background)
            return probabilities, None if calibration.none is None else none
        everything = np.concatenate([logits, background.astype(logits.dtype)], axis=1)
        powers = np.exp(everything - everything.max(axis=-1, keepdims=True))
        probabilities = powers / powers.sum(axis=-1, keepdims=True)
        count = logits.shape[1]
        return probabilities[:, :count], probabilities[:, count:].sum(axis=1) if background.shape[1] else None

    def _plain(self, logits: "NDArray[np.floating]", background: "NDArray[np.floating]") -> "NDArray[np.floating]":
        """Of each label, without the calibration."""
        return self._probabilities(logits, background, plain=True)[0]

    def calibrate(self, images: Any, labels: Sequence[Any]) -> Calibration:
        """Fits probabilities and thresholds on labelled examples; from then on `classify` and `tag` use them.

        A dozen examples of each label are a good start. They should be such as will be classified, in the same shares.

        Args:
            images: as for `classify`.
            labels: what each of them shows: one of the classifier's labels; None for none of them; or a list of labels
                for any number of them. If each shows one or none, the softmax is calibrated too.

        Returns:
            The calibration, with the expected calibration error before and after.

        Raises:
            CalibrationError: for labels that the classifier does not have, or too few examples.
            ImageError: naming the image that cannot be read.
            MissingPackageError: without SciPy.
        """
        truth = self._truth(_listed(images), labels)
        features = np.concatenate([np.empty((0, self.text_features.shape[1])), *self._image_features(images)])
        scores, background = self.compare(features), self._compare(features, self.background_features)
        self.calibration = calibrate(scores, background, truth, self._plain, self.model.logit_bias is not None)
        return self.calibration

    def _truth(self, images: Sequence[Any], labels: Sequence[Any]) -> "NDArray[np.bool_]":
        if len(images) != len(labels):
            raise CalibrationError(f"There are {len(labels)} labels for {len(images)} images.")
        truth = np.zeros((len(labels), len(self.labels)), bool)
        for row, given in enumerate(labels):
            several = isinstance(given, Iterable) and not isinstance(given, str)
            shown = list(given) if several else [] if given is None or given == NONE else [given]
            for label in shown:
                if label not in self.labels:
                    raise CalibrationError(f"Example {row} has the label {label!r}, which the classifier lacks.")
                truth[row, self.labels.index(label)] = True
        return truth

    def tag(self, images: Any, threshold: float = 0.5) -> list[list[Prediction]]:
        """All labels that fit each image, which may be none, the most probable first.

        Args:
            images: as for `classify`.
            threshold: the least probability, 0 to 1.

        Returns:
            A list of `Prediction`s for each image. Each probability is that of its label alone.

        Raises:
            CalibrationError: where `calibrate` was not called.
            ImageError: naming the image that cannot be read.
        """
        if self.calibration is None:
            raise CalibrationError("Tags need thresholds: call calibrate with labelled images first.")
        found = []
        for features in self._image_features(images):
            for row in self.calibration.alone(self.compare(features)):
                order = np.argsort(-row, kind="stable")
                found.append([Prediction(self.labels[i], float(row[i])) for i in order if row[i] >= threshold])
        return found

    def save(self, path: str | Path, force: bool = False) -> None:
        """Writes labels, templates, background and calibration as a JSON file, with the fingerprint of the model.

        Args:
            path: of the file, which ends in .json.
            force: whether to replace a file that is there.

        Raises:
            OutputError: where it cannot be written; nothing is left behind.
        """
        content = {
            "labels": list(self.labels),
            "templates": list(self.templates),
            "background": list(self.background),
            "calibration": None if self.calibration is None else self.calibration.as_record(),
        }
        write_classifier(Path(path), content, self._fingerprint(), force)

    @classmethod
    def load(cls, path: str | Path, model: "MobileClipModel", **options: Any) -> Self:
        """A classifier that was saved.

        Args:
            path: of the file.
            model: the one that it was saved with. Thresholds of another mean nothing.
            options: tokenizer, preprocessor and batch_size, as the class takes them.

        Raises:
            CalibrationError: where the file is missing or holds anything else.
            FingerprintError: where the model, its preprocessing or its precision is another one.
        """
        record = read_classifier(Path(path))
        made = cls(model, record["labels"], record["templates"], background=record["background"], **options)
        Fingerprint.from_record(record["fingerprint"]).check(made._fingerprint(), str(path))
        if record["calibration"] is not None:
            made.calibration = Calibration.from_record(record["calibration"], len(made.labels))
        return made

    def _fingerprint(self) -> Fingerprint:
        from .embedding.fingerprinting import fingerprint_of

        preprocessor = self.preprocessor if isinstance(self.preprocessor, ImagePreprocessor) else None
        tokenizer = self.tokenizer if isinstance(self.tokenizer, Tokenizer) else None
        return fingerprint_of(self.model, preprocessor, tokenizer)


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
