"""The figures are those of clip-benchmark on the same features, and their intervals hold what they should."""

import json
from typing import Any

import numpy as np
import pytest
import torch

from mobileclip_keras.verify.evaluation import intervals, metrics
from mobileclip_keras.verify.evaluation.clip_benchmark import their_metrics
from mobileclip_keras.verify.evaluation.figures import figures
from mobileclip_keras.verify.evaluation.intervals import Figure

pytest.importorskip("clip_benchmark")
benchmark, retrieval = their_metrics()

pytestmark = pytest.mark.torch
IMAGES, WIDTH = 400, 16


def units(*shape: int, seed: int = 0) -> np.ndarray:
    array = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return array / np.linalg.norm(array, axis=-1, keepdims=True)


class Towers(torch.nn.Module):
    """What clip-benchmark takes for a model: features that are known already, by the number of the input."""

    def __init__(self, images: np.ndarray, texts: np.ndarray) -> None:
        super().__init__()
        self.images, self.texts = torch.from_numpy(images), torch.from_numpy(texts)

    def encode_image(self, rows: torch.Tensor) -> torch.Tensor:
        return self.images[rows]

    def encode_text(self, rows: torch.Tensor) -> torch.Tensor:
        return self.texts[rows]


class Loader(list):
    """Batches with what clip-benchmark asks of their data set."""

    def __init__(self, batches: list[Any], classes: int) -> None:
        super().__init__(batches)
        self.dataset = type("Dataset", (), {"classes": list(map(str, range(classes)))})


def loader(targets: np.ndarray, classes: int) -> Loader:
    rows = torch.arange(len(targets)).split(64)
    return Loader([(batch, torch.from_numpy(targets)[batch]) for batch in rows], classes)


def theirs(images: np.ndarray, prompts: np.ndarray, targets: np.ndarray, templates: int) -> dict[str, float]:
    """clip-benchmark's own figures; a prompt's text is its number."""
    classes = len(prompts) // templates
    names = [json.dumps(list(range(start, start + templates))) for start in range(0, len(prompts), templates)]

    def tokenize(texts: list[str]) -> torch.Tensor:
        return torch.tensor([json.loads(text)[index] for index, text in enumerate(texts)])

    return benchmark.evaluate(
        Towers(images, prompts), loader(targets, classes), tokenize, names, ["{c}"] * templates, "cpu", amp=False
    )


def show(title: str, ours: "dict[str, Figure]", expected: dict[str, float]) -> None:
    """Prints both, all digits: `pytest -s` shows it."""
    print(f"\n{title:<28}{'ours':<24}clip-benchmark")
    for name, value in expected.items():
        print(f"{name:<28}{ours[name].value if name in ours else 'not given'!s:<24}{value}")


@pytest.mark.parametrize(("classes", "templates"), [(10, 3), (5, 1), (4, 2), (300, 1)])
def test_accuracy_is_clip_benchmarks_to_the_last_digit(classes: int, templates: int) -> None:
    prompts = np.random.default_rng(3).normal(size=(classes * templates, WIDTH)).astype(np.float32)
    random = np.random.default_rng(4)
    labels = random.integers(0, classes, IMAGES)
    vectors = metrics.class_vectors(prompts, templates)
    images = units(IMAGES, WIDTH) + vectors[labels] * 0.4
    images /= np.linalg.norm(images, axis=-1, keepdims=True)
    ours = figures("classification", {"images": images, "labels": labels[:, None].astype(np.int32)}, vectors)
    expected = theirs(images, prompts, labels, templates)
    assert {name: figure.value for name, figure in ours.items()} == {
        name: value for name, value in expected.items() if not np.isnan(value)
    }
    assert 0.02 < ours["acc1"].value < 0.99  # neither all nor nothing
    show(f"{classes} classes, {templates} templates", ours, expected)


def test_mean_average_precision_is_clip_benchmarks() -> None:
    """Theirs adds up in float32, ours in float64; scikit-learn's, too, where no scores are equal."""
    from sklearn.metrics import average_precision_score

    prompts = units(7 * 2, WIDTH, seed=5)
    targets = (np.random.default_rng(6).random((IMAGES, 7)) < 0.2).astype(np.uint8)
    targets[:, 6] = 0  # a class without images
    images, vectors = units(IMAGES, WIDTH), metrics.class_vectors(prompts, 2)
    found = figures("multilabel", {"images": images, "labels": targets}, vectors)["mean_average_precision"]
    expected = theirs(images, prompts, targets.astype(np.int64), 2)["mean_average_precision"]
    assert found.value == pytest.approx(expected, rel=7 * 2**-24)
    name = "mean_average_precision"
    show("multilabel", {name: found}, {name: expected})
    scores = metrics.logits(images, vectors)
    each = [average_precision_score(targets[:, number], scores[:, number]) for number in range(6)]
    assert found.value == pytest.approx(sum(each) / 7, rel=1e-12)


def test_recall_is_clip_benchmarks_to_the_last_digit() -> None:
    counts = np.random.default_rng(7).integers(1, 6, IMAGES)
    image_of_text = np.repeat(np.arange(IMAGES), counts).astype(np.int32)
    images = units(IMAGES, WIDTH)
    texts = units(len(image_of_text), WIDTH, seed=8) + images[image_of_text]
    texts /= np.linalg.norm(texts, axis=-1, keepdims=True)
    ours = figures("retrieval", {"images": images, "texts": texts, "image_of_text": image_of_text[:, None]}, None)
    numbers = [[str(row) for row in np.flatnonzero(image_of_text == image)] for image in range(IMAGES)]
    batches = [(rows, [numbers[row] for row in rows]) for rows in torch.arange(IMAGES).split(50)]
    expected = retrieval.evaluate(
        Towers(images, texts), batches, lambda found: torch.tensor(list(map(int, found))), "cpu", False, [1, 5, 10]
    )
    assert {name: float(np.float32(ours[name].value)) for name in expected} == expected
    show("retrieval", ours, expected)
    for k in (1, 5, 10):
        both = (ours[f"image_retrieval_recall@{k}"].value + ours[f"text_retrieval_recall@{k}"].value) / 2
        assert ours[f"mean_recall@{k}"].value == both


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    images, texts = units(50, WIDTH), units(100, WIDTH, seed=1)
    of_text = np.repeat(np.arange(50), 2).astype(np.int32)
    whole = [f(texts, images, of_text) for f in (metrics.image_ranks, metrics.text_ranks)]
    monkeypatch.setattr(metrics, "BLOCK", 333)
    for ranks, f in zip(whole, (metrics.image_ranks, metrics.text_ranks), strict=True):
        np.testing.assert_array_equal(ranks, f(texts, images, of_text))


def test_of_equal_scores_the_first_ranks_higher() -> None:
    images, classes = np.ones((2, 1), np.float32), np.ones((3, 1), np.float32)
    assert metrics.class_ranks(images, classes, np.array([0, 2])).tolist() == [0, 2]


# Intervals


def test_logits_are_at_scale_100() -> None:
    images, classes = units(5, WIDTH), units(3, WIDTH, seed=1)
    np.testing.assert_allclose(metrics.logits(images, classes), 100 * (images @ classes.T), rtol=1e-5, atol=1e-4)


def test_wilsons_interval_is_the_textbooks() -> None:
    from scipy.stats import binomtest

    for right, count in ((0, 10), (10, 10), (7, 10), (67_786, 100_000)):
        found = intervals.share(np.arange(count) < right)
        expected = binomtest(right, count).proportion_ci(method="wilson")
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
        assert 0 <= found.low <= found.value == right / count <= found.high <= 1


def test_samples_of_what_is_always_right_are_always_right() -> None:
    """Whatever images are drawn: a class that a sample misses does not count, an image counts with all its texts."""
    labels, texts = np.arange(30, dtype=np.int32), np.arange(1.0, 31.0)
    for found in (
        intervals.mean_of_classes(1.0, np.ones(30, bool), labels),
        intervals.ratio(1.0, [texts], [texts]),
        intervals.ratio(1.0, [texts, np.ones(30)], [texts, np.ones(30)]),
    ):
        assert (found.low, found.high) == (1, 1)
    assert intervals.mean_of_classes(0.2, np.ones(30, bool), labels).low == 0.2, "the value itself is always held"


def test_intervals_hold_the_truth_as_often_as_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """95 % of 200 samples are 190, give or take 3 standard deviations of 3.1."""
    monkeypatch.setattr(intervals, "RESAMPLES", 200)
    random = np.random.default_rng(0)
    recalls = np.linspace(0.3, 0.9, 5)
    held = {"classes": 0, "texts": 0}
    for _ in range(200):
        labels = random.integers(0, 5, 300).astype(np.int32)
        right = random.random(300) < recalls[labels]
        mean = metrics.recall_of_classes(np.where(right, 0, 1), labels).mean()
        found = intervals.mean_of_classes(float(mean), right, labels)
        held["classes"] += found.low <= recalls.mean() <= found.high
        easy = random.random(300) < 0.5  # the 5 texts of an image are alike
        hits = random.binomial(5, np.where(easy, 0.9, 0.3)).astype(float)
        found = intervals.ratio(float(hits.sum() / 1500), [hits], [np.full(300, 5.0)])
        held["texts"] += found.low <= 0.6 <= found.high
    assert all(180 <= count <= 200 for count in held.values()), held


def test_the_interval_of_mean_precision_is_as_wide_as_new_samples_differ() -> None:
    random = np.random.default_rng(0)

    def sample() -> tuple[np.ndarray, np.ndarray]:
        targets = (random.random((200, 3)) < 0.3).astype(np.uint8)
        return random.normal(size=(200, 3)).astype(np.float32) + targets, targets

    values = [metrics.average_precisions(*sample()).mean() for _ in range(200)]
    widths = []
    for _ in range(10):
        scores, targets = sample()
        found: Figure = intervals.mean_precision(
            float(metrics.average_precisions(scores, targets).mean()), scores, targets
        )
        widths.append(found.high - found.low)
    assert np.mean(widths) == pytest.approx(2 * intervals.Z * np.std(values), rel=0.2)
