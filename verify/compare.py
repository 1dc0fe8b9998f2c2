"""Comparing features with a reference: errors, ratios, and whether they pass."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .criteria import BY_LUCK, FLOAT64_TOLERANCE, LENGTH_TOLERANCE, LOGIT_FLOOR, LOGIT_SCALE, MAX_RATIO, RMS_RATIO

PROBES = 64
"""Directions that the features of one tower alone are compared with."""


@dataclass(frozen=True)
class Features:
    """A model's outputs for the fixed inputs, normalised or not; None for a tower that is not there.

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
    logit_scale: float | None = None
    """Relative difference of the factor of the logits; None where there are no logits."""
    logit_bias: float | None = None
    """Difference of what is added to the logits; None where nothing is."""

    @property
    def passed(self) -> bool:
        # A comparison with NaN is false, so NaN fails.
        values = (self.image, self.text, self.logit_scale, self.logit_bias)
        return all(value <= FLOAT64_TOLERANCE for value in values if value is not None)


@dataclass(frozen=True)
class RoundingCheck:
    """A form in float32, by one program, against PyTorch in float64 (criteria 2 and 3).

    PyTorch's errors are the largest over its float32 runs.
    """

    form: str
    program: str
    rms: float
    maximum: float
    torch_rms: float
    torch_maximum: float
    top1_differences: int
    """Images and texts whose best match differs from PyTorch's in float64 and is there worse by over LOGIT_FLOOR."""
    length_error: float
    """How far the length of a feature is from 1, at most."""

    @property
    def rms_ratio(self) -> float:
        return self.rms / self.torch_rms

    @property
    def max_ratio(self) -> float:
        return self.maximum / self.torch_maximum

    @property
    def may_be_luck(self) -> bool:
        """Whether it failed, and by no more than more runs of PyTorch could explain."""
        others = self.top1_differences == 0 and self.length_error <= LENGTH_TOLERANCE
        return not self.passed and others and self.rms_ratio <= BY_LUCK * RMS_RATIO

    @property
    def passed(self) -> bool:
        return (
            self.rms <= RMS_RATIO * self.torch_rms
            and self.maximum <= max(MAX_RATIO * self.torch_maximum, LOGIT_FLOOR)
            and self.top1_differences == 0
            and self.length_error <= LENGTH_TOLERANCE
        )


def check_exact(
    form: str,
    keras64: Features,
    torch64: Features,
    scales: tuple[float, float] | None = None,
    biases: tuple[float | None, float | None] = (None, None),
) -> ExactCheck:
    """Criterion 1; `scales` and `biases` are the factors of the logits, and what is added, of Keras and PyTorch."""
    scale = None if scales is None else abs(scales[0] - scales[1]) / scales[1]
    ours, theirs = biases
    bias = None if ours is theirs is None else float("inf") if None in biases else abs((ours or 0) - (theirs or 0))
    image, text = _relative(keras64.image, torch64.image), _relative(keras64.text, torch64.text)
    return ExactCheck(form, image, text, scale, bias)


def check_rounding(
    form: str, program: str, keras32: Features, torch32: Sequence[Features], torch64: Features
) -> RoundingCheck:
    """Criteria 2 and 3.

    Args:
        form: that was computed.
        program: that computed it.
        keras32: its features in float32, of length 1.
        torch32: PyTorch's in float32, of several equally good runs.
        torch64: PyTorch's in float64.
    """
    return check_against(form, program, keras32, torch64, *torch_errors(torch32, torch64))


def torch_errors(torch32: Sequence[Features], torch64: Features) -> tuple[float, float]:
    """The largest root mean square, and the largest maximum, of the errors of PyTorch's float32 runs."""
    truth = torch64.logits()
    errors = [run.logits() - truth for run in torch32]
    return max(map(_rms, errors)), max(float(np.abs(error).max()) for error in errors)


def check_against(
    form: str, program: str, ours: Features, torch64: Features, torch_rms: float, torch_maximum: float
) -> RoundingCheck:
    """As `check_rounding`, where PyTorch's own errors are known."""
    truth, logits = torch64.logits(), ours.logits()
    errors = logits - truth
    return RoundingCheck(
        form,
        program,
        _rms(errors),
        float(np.abs(errors).max()),
        torch_rms,
        torch_maximum,
        _other_top1(logits, truth),
        max(_length_error(array) for array in (ours.image, ours.text) if array is not None),
    )


def _length_error(features: np.ndarray) -> float:
    return float(np.abs(np.linalg.norm(features.astype(np.float64), axis=-1) - 1).max())


@dataclass(frozen=True)
class Cost:
    """How far a looser way of computing is from PyTorch in float64. Nothing is judged by it (criterion 6)."""

    way: str
    """"bfloat16" and the like, in plain words."""
    rms: float
    """Of the logits' errors at scale 100."""
    maximum: float
    smallest_cosine: float
    """Of a feature to PyTorch's."""
    top1_differences: int
    """As in RoundingCheck."""

    def to_json(self) -> dict[str, Any]:
        """Numbers that are not finite, of features that overflow, become None."""
        return {
            key: None if isinstance(value, float) and not np.isfinite(value) else value
            for key, value in asdict(self).items()
        }


def measure_cost(way: str, ours: Features, torch64: Features) -> Cost:
    """What a looser way of computing costs."""
    towers = [(ours.image, torch64.image), (ours.text, torch64.text)]
    with np.errstate(all="ignore"):  # float16 may overflow, and the cost says so
        truth, logits = torch64.logits(), ours.logits()
        cosines = [
            np.sum(_unit(mine) * _unit(theirs), axis=-1)
            for mine, theirs in towers
            if mine is not None and theirs is not None
        ]
    errors = logits - truth
    return Cost(
        way,
        _rms(errors),
        float(np.abs(errors).max()),
        float(np.concatenate(cosines).min()),
        _other_top1(logits, truth),
    )


def _other_top1(ours: np.ndarray, truth: np.ndarray) -> int:
    return sum(_other_matches(ours, truth, axis) for axis in (0, 1))


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
