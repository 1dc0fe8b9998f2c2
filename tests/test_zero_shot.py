"""Zero-shot classification, retrieval, prediction in batches and the training objective."""

import math
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import mobileclip_keras as mk
from mobileclip_keras.keras_models.inputs.image_reading import ImageError
from mobileclip_keras.keras_models.models.features import encode
from mobileclip_keras.keras_models.models.image_encoder import MobileClipImageEncoder
from mobileclip_keras.keras_models.models.model import MobileClipModel
from mobileclip_keras.keras_models.models.text_encoder import MobileClipTextEncoder
from mobileclip_keras.keras_models.tasks.prompts import (
    OPENAI,
    SHORT,
    PromptError,
    check_labels,
    fill,
    get_templates,
)
from mobileclip_keras.keras_models.tasks.retrieval import SearchError
from mobileclip_keras.keras_models.training.losses import contrastive_loss
from tests.small import randomise, small_model
from tests.support import call, nightly_on

pytestmark = pytest.mark.usefixtures("small_towers", "quickly_compiled")

PHOTOS = sorted((Path(__file__).parents[1] / "verify" / "photos").glob("*.jpg"))


@pytest.fixture
def model() -> mk.MobileClipModel:
    return small_model("small_vit", "small_transformer", form="inference", variant="mobileclip_s0")


def pairs(count: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(1)
    texts = [f"number {generator.integers(1 << 30)}" for _ in range(count)]
    images = generator.uniform(0, 1, (count, 64, 64, 3)).astype("float32")
    return {"image": images, "text": mk.Tokenizer()(texts)}


def array(tensor: Any) -> np.ndarray:
    return keras.ops.convert_to_numpy(tensor)


# Prompts


def test_templates_are_clips_own() -> None:
    from open_clip import zero_shot_metadata as published

    assert list(OPENAI) == [template("{}") for template in published.OPENAI_IMAGENET_TEMPLATES]
    assert list(SHORT) == [template("{}") for template in published.SIMPLE_IMAGENET_TEMPLATES]
    assert len(set(OPENAI)) == 80 and set(SHORT) < set(OPENAI)


def test_an_article_of_the_label_gives_way_to_the_templates() -> None:
    assert fill("a photo of a {}.", "a dog") == "a photo of a dog."
    assert fill("a photo of the {}.", "An  owl") == "a photo of the owl."
    assert fill("a {}", "the cat") == "a cat"
    assert fill("{}", "a dog") == "a dog"
    assert fill("a photo of many {}.", "the cats") == "a photo of many the cats."
    assert fill("a pizza {}, a {}", "antelope") == "a pizza antelope, a antelope"
    assert fill("a {}", "set {0}") == "a set {0}"


@pytest.mark.parametrize("templates", ["a photo", [], ["a {}", "a photo"], "open-ai", [7]])
def test_templates_that_will_not_do(templates: Any) -> None:
    with pytest.raises(PromptError, match="template"):
        get_templates(templates)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], "no labels"),
        (["cat", " "], "not ' '"),
        (["cat", "dog", " cat"], "'cat' is there twice"),
        (["cat", None], "not None"),
        ("cat", "not one string"),
    ],
)
def test_labels_that_will_not_do(labels: Any, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        check_labels(labels)


# Classification


@pytest.mark.backend
def test_classification_is_the_softmax_of_scaled_cosines(model: mk.MobileClipModel) -> None:
    labels, templates = ["cat", "a dog", "rocket"], ["a photo of a {}.", "the {}"]
    classifier = mk.ZeroShotClassifier(model, labels, templates, batch_size=3)
    found = classifier.classify(PHOTOS, top_k=2)

    tokenize, preprocess = mk.Tokenizer(), mk.ImagePreprocessor(64)
    classes = []
    for label in ("cat", "dog", "rocket"):
        features = array(model.encode_text(tokenize([f"a photo of a {label}.", f"the {label}"])))
        mean = features.astype("float64").mean(axis=0)
        classes.append(mean / np.linalg.norm(mean))
    scale = math.exp(float(array(model.logit_scale)))
    logits = scale * array(model.encode_image(preprocess(PHOTOS))) @ np.array(classes).T
    np.testing.assert_allclose(classifier.logits(preprocess(PHOTOS)), logits, atol=1e-4)
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert np.ptp(expected) > 1e-3
    for predictions, row in zip(found, expected, strict=True):
        best = np.argsort(-row)[:2]
        assert [prediction.label for prediction in predictions] == [labels[index] for index in best]
        assert [prediction.probability for prediction in predictions] == pytest.approx(row[best], abs=1e-5)


def test_texts_are_encoded_once_and_batches_change_nothing(
    model: mk.MobileClipModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[tuple[str, int]] = []
    run = model.feature_model().predict_on_batch

    def counted(inputs: Any):
        (key, rows), *_ = inputs.items()
        sizes.append((key, len(rows)))
        return run(inputs)

    monkeypatch.setattr(model.feature_model(), "predict_on_batch", counted)
    classifier = mk.ZeroShotClassifier(model, ["cat", "dog"], "short", batch_size=5)
    some = classifier.classify(PHOTOS[:7])
    assert sizes == [("image", 5)] + [("text", 5)] * 3 + [("image", 5)]  # 14 prompts and 7 images, filled up
    sizes.clear()
    one = classifier.classify(str(PHOTOS[6]))
    assert sizes == [("image", 1)]
    assert one[0][0].probability == pytest.approx(some[6][0].probability, abs=1e-5)
    assert sum(prediction.probability for prediction in some[0]) == pytest.approx(1)


def test_every_kind_of_image_is_taken(model: mk.MobileClipModel) -> None:
    from PIL import Image

    classifier = mk.ZeroShotClassifier(model, ["cat", "dog"])
    image = Image.open(PHOTOS[0])
    kinds = [PHOTOS[0], PHOTOS[0].read_bytes(), image, np.asarray(image), np.asarray(image)[None]]
    found = [classifier.classify(kind) for kind in kinds] + [[row] for row in classifier.classify(kinds[:4])]
    for predictions in found:
        assert [prediction.label for prediction in predictions[0]] == [best.label for best in found[0][0]]
        assert predictions[0][0].probability == pytest.approx(found[0][0][0].probability, abs=1e-5)
    with pytest.raises(ImageError, match="nothing"):
        classifier.classify([PHOTOS[0], "nothing.jpg"])
    with pytest.raises(ValueError, match="top_k"):
        classifier.classify(PHOTOS[0], top_k=0)


def test_what_a_classifier_needs(model: mk.MobileClipModel) -> None:
    with pytest.raises(ValueError, match="both towers"):
        mk.ZeroShotClassifier(mk.MobileClipModel(image_encoder=model.image_encoder), ["cat"])
    unnamed = mk.MobileClipModel(model.image_encoder, model.text_encoder)
    with pytest.raises(ValueError, match="preprocessor="):
        mk.ZeroShotClassifier(unnamed, ["cat"])
    classifier = mk.ZeroShotClassifier(unnamed, ["cat"], preprocessor=mk.ImagePreprocessor(64))
    assert classifier.classify(PHOTOS[:1]) == [[("cat", 1.0)]]


@pytest.mark.backend
@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "float64"])
def test_features_have_length_1_in_every_dtype(dtype: str) -> None:
    model = small_model(form="inference", dtype=dtype, variant="mobileclip_s0")
    features = encode(model, "image", pairs(3)["image"], 2)
    assert features.dtype == ("float64" if dtype == "float64" else "float32")
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-6)


# Retrieval


def test_search_finds_the_nearest(model: mk.MobileClipModel) -> None:
    generator = np.random.default_rng(0)
    names, features = [f"{index}.jpg" for index in range(20)], generator.normal(size=(20, 16))
    index = mk.EmbeddingIndex(names, features, model)
    assert [match[0].name for match in index.search(features[[4, 7]] * 3, top_k=1)] == ["4.jpg", "7.jpg"]
    assert index.search(features[4])[0][0].score == pytest.approx(1)
    query = array(model.encode_text(mk.Tokenizer()(["a red car"])))[0]
    scores = features @ query / np.linalg.norm(features, axis=1)
    matches = index.search("a red car", top_k=30)[0]
    assert [match.name for match in matches] == [names[found] for found in np.argsort(-scores)]
    assert [match.score for match in matches] == pytest.approx(sorted(scores, reverse=True), abs=1e-5)
    several = index.search(["a red car", "a boat"])
    assert [match.name for match in several[0]] == [match.name for match in matches[:5]]
    assert several[0] != several[1]


def test_what_cannot_be_searched(model: mk.MobileClipModel) -> None:
    with pytest.raises(SearchError, match="2 names for 3 features"):
        mk.EmbeddingIndex(["a", "b"], np.ones((3, 16)))
    with pytest.raises(SearchError, match="finite"):
        mk.EmbeddingIndex(["a"], np.full((1, 16), np.nan))
    with pytest.raises(SearchError, match="needs the model"):
        mk.EmbeddingIndex(["a"], np.ones((1, 16))).search("a car")
    with pytest.raises(SearchError, match="text tower"):
        mk.EmbeddingIndex(["a"], np.ones((1, 16)), mk.MobileClipModel(image_encoder=model.image_encoder))
    with pytest.raises(SearchError, match="different models"):
        mk.EmbeddingIndex(["a"], np.ones((1, 8)), model).search("a car")


# Prediction


@pytest.mark.backend
def test_predict_equals_the_model_in_batches_of_any_kind(model: mk.MobileClipModel, tmp_path: Path) -> None:
    inputs = pairs(5)
    direct = call(model, inputs)
    for found in (
        model.predict(inputs, batch_size=2, verbose=0),
        model.predict((({key: rows[i : i + 2] for key, rows in inputs.items()},) for i in (0, 2, 4)), verbose=0),
    ):
        assert set(found) == {"image_features", "text_features", "logit_scale"}
        for name, values in found.items():
            assert isinstance(values, np.ndarray)
            np.testing.assert_allclose(values, array(direct[name]), atol=1e-5)
    images = model.predict({"image": inputs["image"]}, verbose=0)
    assert set(images) == {"image_features", "logit_scale"} and images["logit_scale"].shape == ()
    # What predict keeps is no part of the model.
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert [weight.path for weight in loaded.weights] == [weight.path for weight in model.weights]
    np.testing.assert_allclose(array(call(loaded, inputs)["text_features"]), array(direct["text_features"]), atol=1e-6)


# Training


def test_contrastive_loss_against_its_definition() -> None:
    generator = np.random.default_rng(0)
    images, texts = (rows / np.linalg.norm(rows, axis=1)[:, None] for rows in generator.normal(size=(2, 6, 4)))
    logits = 20 * images @ texts.T

    def cross_entropies(rows: np.ndarray) -> np.ndarray:
        return -np.log(np.diag(np.exp(rows) / np.exp(rows).sum(axis=1, keepdims=True)))

    each = (cross_entropies(logits) + cross_entropies(logits.T)) / 2
    assert float(contrastive_loss(images, texts, 20.0)) == pytest.approx(each.mean())
    weights = np.arange(6.0)
    assert float(contrastive_loss(images, texts, 20.0, weights)) == pytest.approx((each * weights).mean())
    same = np.ones((6, 4)) / 2
    assert float(contrastive_loss(same, same, 100.0)) == pytest.approx(math.log(6))


@pytest.mark.backend
@pytest.mark.parametrize("dtype", ["float32", pytest.param("mixed_bfloat16", marks=nightly_on("jax", "tensorflow"))])
def test_fit_without_a_loss_learns_which_belong_together(dtype: str) -> None:
    keras.utils.set_random_seed(0)
    pixels = keras.Sequential([keras.Input((64, 64, 3)), keras.layers.AveragePooling2D(32), keras.layers.Flatten()])
    images, texts = MobileClipImageEncoder(pixels, 16, 64), MobileClipTextEncoder("small_transformer", 16, dtype=dtype)
    model, inputs = MobileClipModel(images, texts, dtype=dtype), pairs(8)
    inputs["image"] = np.kron(inputs["image"][:, ::32, ::32], np.ones((1, 32, 32, 1), "float32"))
    randomise(MobileClipModel(text_encoder=texts))
    before = float(array(model.logit_scale))
    model.compile(keras.optimizers.Adam(1e-2))
    history = model.fit(inputs, batch_size=8, epochs=40, verbose=0).history["loss"]
    assert history[-1] < 0.7 * history[0]
    assert float(array(model.logit_scale)) != before
    found = model(inputs)
    expected = contrastive_loss(found["image_features"], found["text_features"], found["logit_scale"])
    loss = model.evaluate(inputs, batch_size=8, verbose=0)
    assert float(loss) == pytest.approx(float(array(expected)), rel=0.05)


def test_a_loss_given_to_compile_is_used_and_pairs_are_asked_for(model: mk.MobileClipModel) -> None:
    inputs = pairs(4)
    model.compile("sgd", run_eagerly=True)
    with pytest.raises(ValueError, match="'image' and 'text'"):
        model.evaluate({"image": inputs["image"]}, verbose=0)
    model.compile("sgd", loss={"image_features": "mse"}, run_eagerly=True)
    targets = {"image_features": np.zeros((4, 16), "float32")}
    assert model.evaluate(inputs, targets, verbose=0) == pytest.approx(1 / 16, rel=1e-3)
