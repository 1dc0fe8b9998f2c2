"""Scores that mean something: probabilities, thresholds and "none of these", fitted on labelled examples.

One temperature for the softmax (arXiv 1706.04599, section 4.2), and a sigmoid for each label alone (Platt, 1999), whose
slope is shared: an example of one label then tells something about all others.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ..errors import MissingPackageError, MobileClipError
from ..store.foreign.json_fields import fields, listed, nullable, number, problems, whole

if TYPE_CHECKING:
    from numpy.typing import NDArray

BINS = 15
"""Of confidence, for the expected calibration error."""
FOLDS = 5
"""The error after calibration is that of examples which the fit has not seen."""
MOST_LABELS = 100_000
SMALLEST_SPREAD = 1e-3
"""Of scores. What differs less differs by rounding, and says nothing of labels."""
LARGEST = 1e6
"""No fitted number is larger: what separates examples perfectly would fit without end."""


class CalibrationError(MobileClipError, ValueError):
    """These examples cannot calibrate this classifier, or something is asked of it that needs a calibration."""


@dataclass(frozen=True)
class Calibration:
    """What labelled examples say about the scores of one classifier.

    A score is a cosine similarity times the model's logit scale, plus its bias.
    """

    temperature: float
    """What scores are divided by before the softmax."""
    none: float | None
    """The score of "none of these" once divided, or what is added to the background's; None for no such answer."""
    slope: float
    """Of the sigmoid of each label alone: its probability is that of slope * score + offset."""
    offsets: tuple[float, ...]
    """One for each label."""
    examples: int
    error_before: float
    """The expected calibration error without the calibration, 0 to 1."""
    error_after: float
    """With it, on examples that it was not fitted on."""

    @property
    def thresholds(self) -> tuple[float, ...]:
        """The score of each label above which it is more probable than not."""
        return tuple(-offset / self.slope for offset in self.offsets)

    def alone(self, scores: "NDArray[np.floating]") -> "NDArray[np.float64]":
        """The probability of each label, whatever the others: (batch, labels) to (batch, labels)."""
        return sigmoid(self.slope * np.asarray(scores, np.float64) + np.array(self.offsets))

    def as_record(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {**asdict(self), "offsets": list(self.offsets)}

    @classmethod
    def from_record(cls, record: Any, labels: int) -> Self:
        """From what `as_record` gave, for a classifier of as many labels.

        Raises:
            CalibrationError: where it holds anything else.
        """
        wrong = problems(record, _fields(labels))
        if wrong:
            raise CalibrationError(f"The calibration cannot be used: {'; '.join(wrong)}.")
        named = {name: record[name] for name in cls.__dataclass_fields__}
        return cls(**{**named, "offsets": tuple(named["offsets"])})


def _fields(labels: int) -> Any:
    finite = number(-LARGEST, LARGEST)
    return fields(
        {
            "temperature": number(1 / LARGEST, LARGEST),
            "none": nullable(finite),
            "slope": number(1 / LARGEST, LARGEST),
            "offsets": listed(finite, most=labels, least=labels),
            "examples": whole(1, 10**12),
            "error_before": number(0, 1),
            "error_after": number(0, 1),
        }
    )


def calibrate(
    scores: "NDArray[np.floating]",
    background: "NDArray[np.floating]",
    truth: "NDArray[np.bool_]",
    plain: Any,
    independent: bool = False,
) -> Calibration:
    """Fits a calibration.

    Args:
        scores: of each label, (examples, labels).
        background: of each background label, (examples, background labels), which may be none.
        truth: whether a label is right, (examples, labels). An example without any is "none of these".
        plain: gives the probabilities without a calibration, (examples, labels) from scores and background.
        independent: whether those are of each label alone, as in a model with a logit bias.

    Raises:
        CalibrationError: where there are too few examples.
        MissingPackageError: without SciPy.
    """
    if len(scores) < 2 or not truth.any():
        raise CalibrationError("A calibration needs two examples or more, one of them with a label.")
    single = not independent and bool((truth.sum(axis=1) <= 1).all())
    fold = np.arange(len(scores)) % min(FOLDS, len(scores))
    held_out = np.zeros(truth.shape)
    for each in np.unique(fold):
        train, test = fold != each, fold == each
        if not truth[train].any():
            train = np.ones(len(fold), bool)
        fitted = _fit(scores[train], background[train], truth[train], single)
        held_out[test] = together(fitted, scores[test], background[test])[0] if single else fitted.alone(scores[test])
    error = top_error if single else pairs_error
    whole_fit = _fit(scores, background, truth, single)
    before, after = error(plain(scores, background), truth), error(held_out, truth)
    return Calibration(**{**asdict(whole_fit), "examples": len(scores), "error_before": before, "error_after": after})


def _fit(
    scores: "NDArray[np.floating]", background: "NDArray[np.floating]", truth: "NDArray[np.bool_]", single: bool
) -> Calibration:
    doubles = np.asarray(scores, np.float64), np.asarray(background, np.float64)
    temperature, none = _fit_softmax(*doubles, truth) if single else (1.0, None)
    slope, offsets = _fit_sigmoids(doubles[0], truth)
    return Calibration(temperature, none, slope, tuple(map(float, offsets)), 0, 0.0, 0.0)


def _fit_softmax(
    scores: "NDArray[np.float64]", background: "NDArray[np.float64]", truth: "NDArray[np.bool_]"
) -> tuple[float, float | None]:
    """Temperature and score of "none of these" of the greatest likelihood, with a weak preference for 1 and 0."""
    is_none = ~truth.any(axis=1)
    is_known = bool(is_none.any())
    has_none = is_known or background.shape[1] > 0
    centre = 0.0 if background.shape[1] else float(np.median(scores.max(axis=1)))
    answers = np.where(is_none, scores.shape[1], truth.argmax(axis=1))

    def loss(found: "NDArray[np.float64]") -> float:
        none = (found[1] + centre * np.exp(-found[0]) if is_known else 0.0) if has_none else None
        logits = _logits(np.exp(found[0]), none, scores, background)
        right = logits[np.arange(len(logits)), answers]
        likelihood = (log_sum(logits) - right).sum()
        return float(likelihood + found[0] ** 2 / 2 + found[1] ** 2 / 200)

    log_temperature, shift = _least(loss, np.zeros(2), [(-12, 12), (-1e4, 1e4)])
    temperature = float(np.exp(log_temperature))
    if not is_known:  # nothing says how often the background is right: its score stays
        return temperature, 0.0 if has_none else None
    return temperature, float(shift + centre / temperature)


def _fit_sigmoids(scores: "NDArray[np.float64]", truth: "NDArray[np.bool_]") -> "tuple[float, NDArray[np.float64]]":
    """The slope that all labels share, and the offset of each.

    An offset may differ from the mean of all by about 1 where few examples say so: that is what a label without
    examples has.
    """
    centre, spread = float(scores.mean()), float(scores.std())
    if spread < SMALLEST_SPREAD:
        spread = 1.0
    # Of a steeper slope, offsets would be too large: they are about slope * centre.
    steepest = float(np.log(LARGEST / 2 * spread / max(1.0, abs(centre))))
    x = (scores - centre) / spread
    labels = scores.shape[1]
    signs = np.where(truth, 1.0, -1.0)

    def loss(found: "NDArray[np.float64]") -> "tuple[float, NDArray[np.float64]]":
        slope, mean, own = np.exp(found[0]), found[1], found[2:]
        margins = signs * (slope * x + mean + own)
        value = np.logaddexp(0, -margins).sum() + found[0] ** 2 / 2 + mean**2 / 200 + (own**2).sum() / 2
        pull = -signs * sigmoid(-margins)
        gradient = np.concatenate([[(pull * x).sum() * slope + found[0], pull.sum() + mean / 100], pull.sum(0) + own])
        return float(value), gradient

    bounds = [(-8, min(8, steepest)), *[(-1e3, 1e3)] * (1 + labels)]
    found = _least(loss, np.zeros(2 + labels), bounds, has_gradient=True)
    slope = float(np.exp(found[0])) / spread
    return slope, found[1] + found[2:] - slope * centre


def _least(
    loss: Any, start: "NDArray[np.float64]", bounds: Sequence[tuple[float, float]], has_gradient: bool = False
) -> "NDArray[np.float64]":
    """Where a loss is least."""
    try:
        from scipy.optimize import minimize
    except ImportError as error:
        raise MissingPackageError('Calibrating needs SciPy: pip install "mobileclip-keras[calibrate]".') from error
    return minimize(loss, start, jac=has_gradient or None, method="L-BFGS-B", bounds=bounds).x


def together(
    calibration: Calibration, scores: "NDArray[np.floating]", background: "NDArray[np.floating]"
) -> "tuple[NDArray[np.float64], NDArray[np.float64]]":
    """The probabilities of all labels, (batch, labels), and of none of them, (batch,), which add up to 1."""
    logits = _logits(calibration.temperature, calibration.none, np.asarray(scores), np.asarray(background))
    powers = np.exp(logits - log_sum(logits)[:, None])
    labels = powers[:, : np.shape(scores)[1]]
    return labels, powers[:, np.shape(scores)[1] :].sum(axis=1)


def _logits(
    temperature: float, none: float | None, scores: "NDArray[np.floating]", background: "NDArray[np.floating]"
) -> "NDArray[np.float64]":
    """Of the labels and, where there is that answer, of none of them."""
    labels = np.asarray(scores, np.float64) / temperature
    if none is None:
        return labels
    rest = log_sum(np.asarray(background, np.float64) / temperature) if background.shape[1] else np.zeros(len(labels))
    return np.concatenate([labels, (rest + none)[:, None]], axis=1)


def top_error(probabilities: "NDArray[np.floating]", truth: "NDArray[np.bool_]") -> float:
    """The expected calibration error of the most probable answer (arXiv 1706.04599, equation 3).

    What is left to 1 is the probability of "none of these", which is right where no label is.
    """
    none = np.clip(1 - probabilities.sum(axis=1, keepdims=True), 0, 1)
    everything = np.concatenate([probabilities, none], axis=1)
    right = np.concatenate([truth, ~truth.any(axis=1, keepdims=True)], axis=1)
    best = everything.argmax(axis=1)
    rows = np.arange(len(best))
    return _error(everything[rows, best], right[rows, best])


def pairs_error(probabilities: "NDArray[np.floating]", truth: "NDArray[np.bool_]") -> float:
    """The same of every label of every example alone."""
    return _error(probabilities.ravel(), truth.ravel())


def _error(confidence: "NDArray[np.floating]", right: "NDArray[np.bool_]") -> float:
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, confidence - right, BINS)
    return float(np.abs(gaps).sum() / len(confidence))


def log_sum(logits: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """The logarithm of the sum of exponentials of each row."""
    most = logits.max(axis=1)
    return most + np.log(np.exp(logits - most[:, None]).sum(axis=1))


def sigmoid(logits: "NDArray[Any]") -> "NDArray[Any]":
    """Written so that it cannot overflow."""
    return (1 + np.tanh(logits / 2)) / 2
