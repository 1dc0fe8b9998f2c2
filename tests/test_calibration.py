"""Calibrated scores: temperatures, thresholds, "none of these", and how they are kept."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mobileclip_keras as mk
from mobileclip_keras.keras_models.tasks import calibration
from mobileclip_keras.keras_models.tasks.calibration import (
    Calibration,
    CalibrationError,
    calibrate,
    pairs_error,
    sigmoid,
    together,
    top_error,
)
from mobileclip_keras.keras_models.tasks.embedding.errors import FingerprintError
from mobileclip_keras.keras_models.tasks.prompts import PromptError
from mobileclip_keras.keras_models.tasks.zero_shot import NONE, ZeroShotClassifier
from tests.small import small_model

pytestmark = pytest.mark.usefixtures("small_towers")

PHOTOS = sorted((Path(__file__).parents[1] / "verify" / "photos").glob("*.jpg"))
LABELS = 6
NO_BACKGROUND = np.empty((4000, 0))


def softmax(scores: np.ndarray, *_: Any) -> np.ndarray:
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def drawn(probabilities: np.ndarray, seed: int = 1) -> np.ndarray:
    """One answer for each row, drawn by its probabilities, as a truth."""
    chosen = (np.random.default_rng(seed).uniform(size=(len(probabilities), 1)) > probabilities.cumsum(axis=1)).sum(1)
    return np.eye(probabilities.shape[1], dtype=bool)[np.minimum(chosen, probabilities.shape[1] - 1)]


@pytest.fixture
def scores() -> np.ndarray:
    return np.random.default_rng(0).normal(20, 4, (4000, LABELS))


def test_the_temperature_of_the_examples_is_found(scores: np.ndarray) -> None:
    found = calibrate(scores, NO_BACKGROUND, drawn(softmax(scores / 5)), softmax)
    assert found.temperature == pytest.approx(5, rel=0.1) and found.none is None
    assert found.error_before > 0.2 and found.error_after < 0.03
    probabilities, none = together(found, scores, NO_BACKGROUND)
    np.testing.assert_allclose(probabilities, softmax(scores / found.temperature), atol=1e-9)
    assert none.shape == (4000,) and not none.any()


def test_none_of_these_is_an_answer_that_is_learnt(scores: np.ndarray) -> None:
    logits = np.concatenate([scores / 3, np.full((4000, 1), 8.0)], axis=1)
    truth = drawn(softmax(logits))[:, :-1]
    assert 0.1 < (~truth.any(axis=1)).mean() < 0.9
    found = calibrate(scores, NO_BACKGROUND, truth, softmax)
    assert found.temperature == pytest.approx(3, rel=0.1) and found.none == pytest.approx(8, abs=0.8)
    assert found.error_after < 0.03 < found.error_before
    probabilities, none = together(found, scores, NO_BACKGROUND)
    np.testing.assert_allclose(probabilities.sum(axis=1) + none, 1)
    assert none.mean() == pytest.approx((~truth.any(axis=1)).mean(), abs=0.02)


def test_a_background_gains_what_the_examples_say(scores: np.ndarray) -> None:
    background = np.random.default_rng(5).normal(20, 4, (4000, 3))
    rest = np.log(np.exp(background / 3).sum(axis=1, keepdims=True)) + 1
    truth = drawn(softmax(np.concatenate([scores / 3, rest], axis=1)))[:, :-1]
    found = calibrate(scores, background, truth, softmax)
    assert found.temperature == pytest.approx(3, rel=0.1) and found.none == pytest.approx(1, abs=0.2)
    some = truth.any(axis=1)
    unknown = calibrate(scores[some], background[some], truth[some], softmax)
    assert unknown.none == 0, "without examples of none, the background is as it is"


def test_each_label_has_a_threshold_of_its_own(scores: np.ndarray) -> None:
    offsets = np.linspace(-14, -10, LABELS)
    truth = np.random.default_rng(2).uniform(size=scores.shape) < sigmoid(0.6 * scores + offsets)
    assert (truth.sum(axis=1) > 1).any()
    found = calibrate(scores, NO_BACKGROUND, truth, softmax)
    assert found.slope == pytest.approx(0.6, rel=0.1) and (found.temperature, found.none) == (1, None)
    np.testing.assert_allclose(found.thresholds, -offsets / 0.6, atol=0.8)
    np.testing.assert_allclose(found.alone(np.array([found.thresholds])), 0.5)
    assert found.error_after < 0.02 < found.error_before == pairs_error(softmax(scores), truth)


def test_few_examples_that_are_all_right_make_nothing_certain(scores: np.ndarray) -> None:
    some = scores[:12]
    right = np.eye(LABELS, dtype=bool)[some.argmax(axis=1)]
    found = calibrate(some, NO_BACKGROUND[:12], right, softmax)
    assert 0.05 < found.temperature < 3 and max(map(abs, found.offsets)) < 1e3
    assert together(found, some, NO_BACKGROUND[:12])[0].max() < 1
    assert found.alone(some).max() < 1


@pytest.mark.parametrize("spread", [0, 1e-6, 2e-3, 0.1])
@pytest.mark.parametrize("labels", [1, 3])
def test_scores_that_are_nearly_the_same_give_numbers_that_can_be_kept(labels: int, spread: float) -> None:
    generator = np.random.default_rng(4)
    scores = 30 + spread * generator.normal(size=(600, labels))
    best = scores.argmax(axis=1) if labels > 1 else (scores[:, 0] < 30).astype(int)  # as clear as can be
    truth = np.eye(max(labels, 2), dtype=bool)[best][:, :labels]
    found = calibrate(scores, np.empty((600, 0)), truth, softmax)
    kept = Calibration.from_record(json.loads(json.dumps(found.as_record())), labels)
    assert kept == found and np.isfinite([*found.thresholds, found.error_after]).all()
    if spread < 1e-3:
        assert found.slope < 10, "rounding says nothing of labels"


def test_the_error_is_that_of_examples_that_were_not_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels that have nothing to do with scores: a fit of many offsets looks better on its own examples."""
    generator = np.random.default_rng(3)
    scores = generator.normal(size=(40, 30))
    truth = generator.uniform(size=scores.shape) < 0.2
    honest = calibrate(scores, np.empty((40, 0)), truth, softmax)
    own = pairs_error(honest.alone(scores), truth)
    assert honest.error_after > own


def test_the_calibration_error_is_the_gap_between_confidence_and_truth() -> None:
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.2, 0.5], [0.1, 0.1]])
    truth = np.array([[True, False], [False, True], [False, True], [False, False]])
    # Confidences 0.9 twice, half of them right; 0.5, right; 0.8 for none, right.
    assert top_error(probabilities, truth) == pytest.approx((2 * 0.4 + 0.5 + 0.2) / 4)
    assert pairs_error(np.array([[0.25], [0.25]]), np.array([[True], [False]])) == pytest.approx(0.25)


@pytest.fixture
def model() -> mk.MobileClipModel:
    return small_model("small_vit", "small_transformer", form="inference", variant="mobileclip_s0")


def test_a_classifier_calibrates_tags_and_is_kept(model: mk.MobileClipModel, tmp_path: Path) -> None:
    classifier = ZeroShotClassifier(model, ["cat", "rocket"], background=["nothing"], batch_size=4)
    plain = classifier.classify(PHOTOS)
    assert {answer.label for answer in plain[0]} == {"cat", "rocket", NONE}
    assert [sum(answer.probability for answer in row) for row in plain] == pytest.approx([1] * len(PHOTOS), abs=1e-5)
    with pytest.raises(CalibrationError, match="call calibrate"):
        classifier.tag(PHOTOS)
    shown = ["cat" if index % 3 else None for index in range(len(PHOTOS))]
    found = classifier.calibrate(PHOTOS, shown)
    assert found is classifier.calibration and found.examples == len(PHOTOS) and found.none is not None
    answers = classifier.classify(PHOTOS)
    assert answers != plain
    assert [sum(answer.probability for answer in row) for row in answers] == pytest.approx([1] * len(PHOTOS))
    tags = classifier.tag(PHOTOS, threshold=0)
    scores = classifier.logits(classifier.preprocessor(PHOTOS))
    for row, likely in zip(tags, found.alone(scores), strict=True):
        assert {tag.label: tag.probability for tag in row} == pytest.approx(
            dict(zip(classifier.labels, likely, strict=True)), abs=1e-4
        )
        assert row[0].probability >= row[1].probability
    assert all(tag.probability >= 0.6 for row in classifier.tag(PHOTOS, threshold=0.6) for tag in row)

    classifier.save(tmp_path / "pets.json")
    again = ZeroShotClassifier.load(tmp_path / "pets.json", model, batch_size=4)
    assert again.classify(PHOTOS) == answers and again.tag(PHOTOS, 0) == tags and again.background == ("nothing",)
    with pytest.raises(mk.MobileClipError, match="exists already"):
        classifier.save(tmp_path / "pets.json")
    with pytest.raises(mk.MobileClipError, match=r"must end in \.json\."):
        classifier.save(tmp_path / "pets.txt")
    model.text_encoder.weights[0].assign(model.text_encoder.weights[0] + 1)
    with pytest.raises(FingerprintError, match="the weights of the text tower"):
        ZeroShotClassifier.load(tmp_path / "pets.json", model)


def test_examples_and_files_that_will_not_do(model: mk.MobileClipModel, tmp_path: Path) -> None:
    classifier = ZeroShotClassifier(model, ["cat", "rocket"])
    for labels, message in {
        ("cat",): "There are 1 labels for 2 images",
        ("cat", "dog"): "Example 1 has the label 'dog', which the classifier lacks",
        (0, 1): "Example 0 has the label 0, which the classifier lacks",
        (None, None): "two examples or more, one of them with a label",
    }.items():
        with pytest.raises(CalibrationError, match=message):
            classifier.calibrate(PHOTOS[:2], labels)
    assert classifier.calibration is None
    with pytest.raises(PromptError, match="'cat' is there twice"):
        ZeroShotClassifier(model, ["cat"], background=["cat"])
    path = tmp_path / "a.json"
    classifier.save(path)
    record = json.loads(path.read_text())
    for change, message in {
        "labels": "labels must be a list",
        "format": "format must be a whole number",
        "calibration": "The calibration cannot be used: it must be an object",
        "fingerprint": "The fingerprint cannot be understood",
    }.items():
        path.write_text(json.dumps({**record, change: "x"}))
        with pytest.raises(mk.MobileClipError, match=message):
            ZeroShotClassifier.load(path, model)
    with pytest.raises(CalibrationError, match="cannot be read"):
        ZeroShotClassifier.load(tmp_path / "gone.json", model)


def test_without_scipy_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch, scores: np.ndarray) -> None:
    monkeypatch.setitem(__import__("sys").modules, "scipy.optimize", None)
    with pytest.raises(mk.MobileClipError, match=r"mobileclip-keras\[calibrate\]"):
        calibration.calibrate(scores, NO_BACKGROUND, drawn(softmax(scores)), softmax)
