"""Comparing features with a reference: errors, ratios, and whether they pass."""

from dataclasses import dataclass

import numpy as np

from .criteria import FLOAT64_TOLERANCE, LOGIT_FLOOR, LOGIT_SCALE, MAX_RATIO, RMS_RATIO

PROBES = 64
"""Directions that the features of one tower alone are compared with."""


@dataclass(frozen=True)
class Features:
    """A model's outputs for the fixed inputs, before normalisation; None for a tower that is not there.

    image: (images, embed_dim). text: (texts, embed_dim).
    """

    image: np.ndarray | None
    text: np.ndarray | None

    def logits(self) -> np.ndarray:
        """(images, texts) similarities at scale 100, in float64.

        For one tower alone: (inputs, PROBES), with fixed random directions in place of the other tower's features. The
        tower's own features would not do: they resemble each other, so they would test few directions.
        """
        if self.image is None or self.text is None:
            features = self.image if self.image is not None else self.text
            assert features is not None
            probes = np.random.default_rng(0).standard_normal((PROBES, features.shape[-1]))
            return LOGIT_SCALE * _unit(features) @ _unit(probes).T
        return LOGIT_SCALE * _unit(self.image) @ _unit(self.text).T


def _unit(features: np.ndarray) -> np.ndarray:
    features = features.astype(np.float64)
    return features / np.linalg.norm(features, axis=-1, keepdims=True)


@dataclass(frozen=True)
class ExactCheck:
    """A form in float64 against PyTorch in float64 (criterion 1)."""

    form: str
    image: float | None
    """Largest difference of image features, relative to the largest feature; None without the tower."""
    text: float | None

    @property
    def passed(self) -> bool:
        # A comparison with NaN is false, so NaN fails.
        return all(value <= FLOAT64_TOLERANCE for value in (self.image, self.text) if value is not None)


@dataclass(frozen=True)
class RoundingCheck:
    """A form in float32 against PyTorch in float64, beside PyTorch's own float32 (criteria 2 and 3)."""

    form: str
    rms: float
    maximum: float
    torch_rms: float
    torch_maximum: float
    top1_differences: int
    """Images and texts whose best match differs from PyTorch's in float64 and is there worse by over LOGIT_FLOOR."""

    @property
    def rms_ratio(self) -> float:
        return self.rms / self.torch_rms

    @property
    def max_ratio(self) -> float:
        return self.maximum / self.torch_maximum

    @property
    def passed(self) -> bool:
        return (
            self.rms <= RMS_RATIO * self.torch_rms
            and self.maximum <= max(MAX_RATIO * self.torch_maximum, LOGIT_FLOOR)
            and self.top1_differences == 0
        )


def check_exact(form: str, keras64: Features, torch64: Features) -> ExactCheck:
    """Criterion 1."""
    return ExactCheck(form, _relative(keras64.image, torch64.image), _relative(keras64.text, torch64.text))


def check_rounding(form: str, keras32: Features, torch32: Features, torch64: Features) -> RoundingCheck:
    """Criteria 2 and 3."""
    truth = torch64.logits()
    ours, theirs = keras32.logits(), torch32.logits()
    different = sum(_other_matches(ours, truth, axis) for axis in (0, 1))
    return RoundingCheck(
        form,
        _rms(ours - truth),
        float(np.abs(ours - truth).max()),
        _rms(theirs - truth),
        float(np.abs(theirs - truth).max()),
        different,
    )


def _other_matches(ours: np.ndarray, truth: np.ndarray, axis: int) -> int:
    best = truth.max(axis, keepdims=True)
    chosen = np.take_along_axis(truth, ours.argmax(axis, keepdims=True), axis)
    return int(np.sum(best - chosen > LOGIT_FLOOR))


def stage_errors(ours: dict[str, np.ndarray], truth: dict[str, np.ndarray]) -> dict[str, float]:
    """Each stage's largest difference relative to its largest value, by name."""
    return {name: _relative_error(ours[name], truth[name]) for name in truth}


def _relative(ours: np.ndarray | None, truth: np.ndarray | None) -> float | None:
    return None if ours is None or truth is None else _relative_error(ours, truth)


def _relative_error(ours: np.ndarray, truth: np.ndarray) -> float:
    return float(np.abs(ours.astype(np.float64) - truth).max() / np.abs(truth).max())


def _rms(errors: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(errors))))
