"""Multi-modal reinforced training, against the formulas of the paper computed by PyTorch alone."""

from typing import Any

import keras
import numpy as np
import pytest

from mobileclip_keras.keras_models.models.distiller import Distiller, as_teacher_takes
from mobileclip_keras.keras_models.models.features import logit_scale
from mobileclip_keras.keras_models.models.model import MobileClipModel
from mobileclip_keras.keras_models.registry import OPENAI_MEAN, OPENAI_STD
from mobileclip_keras.keras_models.training.distillation import TeacherFeatures, distillation_loss
from mobileclip_keras.keras_models.training.losses import contrastive_loss
from mobileclip_keras.verify.data import synthetic

from .small import small_model
from .support import nightly_on, unit

pytestmark = pytest.mark.usefixtures("small_towers", "quickly_compiled")

ROWS, TEXT = 5, "small_mct_of_64_words"
RANDOM = np.random.default_rng(0)
PAIRS = {"image": synthetic.images(ROWS, 64, seed=0)[:ROWS], "text": synthetic.tokens(ROWS, seed=0)[:ROWS] % 64}
WEIGHTS = np.linspace(0.5, 2, ROWS)


def features(*widths: int) -> list[np.ndarray]:
    return [unit(RANDOM.normal(size=(ROWS, width))) for width in widths]


def tensor(array: np.ndarray) -> Any:
    """In float64, where Keras would make float32 of it on PyTorch."""
    return keras.ops.convert_to_tensor(array, dtype="float64")


def by_torch(student: list[np.ndarray], scale: float, teachers: list[tuple[Any, Any, float]], weights: Any) -> Any:
    """The contrastive and the distillation loss: equations of the paper, by PyTorch's own functions."""
    import torch
    from torch.nn import functional

    image, text = map(torch.tensor, student)
    logits, right = scale * image @ text.T, torch.arange(len(image))
    each = [functional.cross_entropy(way, right, reduction="none") for way in (logits, logits.T)]
    weights = torch.tensor(np.ones(len(image)) if weights is None else weights)
    distilled: Any = 0
    for teacher_image, teacher_text, teacher_scale in teachers:
        expected = teacher_scale * torch.tensor(teacher_image) @ torch.tensor(teacher_text).T
        for mine, theirs in ((logits, expected), (logits.T, expected.T)):
            log = functional.log_softmax(mine, dim=1)
            rows = functional.kl_div(log, functional.softmax(theirs, dim=1), reduction="none").sum(1)
            distilled = distilled + (weights * rows).mean() / 2 / len(teachers)
    return float((weights * sum(each) / 2).mean()), float(distilled)


@pytest.mark.backend
@pytest.mark.torch
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_both_losses_are_those_of_the_paper(weights: Any) -> None:
    image, text, one, one_text, other, other_text = features(16, 16, 24, 24, 8, 8)
    teachers = [(one, one_text, 100.0), (other, other_text, 7.0)]
    contrastive, distilled = by_torch([image, text], 12.0, teachers, weights)
    image, text = map(tensor, (image, text))
    as_teachers = [TeacherFeatures(tensor(mine), tensor(its), scale) for mine, its, scale in teachers]
    assert float(contrastive_loss(image, text, 12.0, weights)) == pytest.approx(contrastive, rel=1e-12)
    assert float(distillation_loss(image, text, 12.0, as_teachers, weights)) == pytest.approx(distilled, rel=1e-12)
    agreed = [TeacherFeatures(image, text, 12.0)]
    assert abs(float(distillation_loss(image, text, 12.0, agreed))) < 1e-14


def own_features(model: MobileClipModel, texts: Any) -> list[np.ndarray]:
    return [
        np.asarray(keras.ops.convert_to_numpy(each))
        for each in (model.encode_image(PAIRS["image"]), model.encode_text(texts))
    ]


@pytest.fixture(scope="module")
def student(small_towers: None) -> MobileClipModel:
    return small_model("small_vit", TEXT, "float64")


@nightly_on("jax")
@pytest.mark.torch
def test_the_loss_of_stored_embeddings_and_synthetic_captions(student: MobileClipModel) -> None:
    syn_text = PAIRS["text"][::-1].copy()
    pairs = [features(24, 24, 24) for _ in range(2)]  # of two teachers: images, texts, synthetic texts
    stored = [np.concatenate(each, axis=1) for each in zip(*pairs, strict=True)]
    batch = {**PAIRS, "syn_text": syn_text}
    batch |= dict(zip(("teacher_image", "teacher_text", "teacher_syn_text"), stored, strict=True))
    expected = 0.0
    for place, texts in ((1, PAIRS["text"]), (2, syn_text)):
        teachers = [(each[0], each[place], 100.0) for each in pairs]
        mine = own_features(student, texts)
        contrastive, distilled = by_torch(mine, logit_scale(student), teachers, WEIGHTS)
        expected += 0.3 * contrastive + 0.7 * distilled
    distiller = Distiller(student, weight=0.7)
    for chunk_size in (None, 2):
        distiller.compile(keras.optimizers.SGD(), chunk_size=chunk_size)
        found = distiller.evaluate(batch, sample_weight=WEIGHTS, batch_size=ROWS, verbose=0)
        assert found == pytest.approx(
            expected, rel=1e-5
        )  # Keras casts given arrays, and keeps its mean of losses, in float32


@nightly_on("jax", "tensorflow")
@pytest.mark.torch
def test_teachers_that_are_models_teach_and_stay_as_they_are(student: MobileClipModel) -> None:
    teachers = [small_model("small_mci", TEXT, "float64"), small_model("small_vit", TEXT, "float64", form="train")]
    teachers[1].logit_scale.assign(1.0)
    given = [(*own_features(teacher, PAIRS["text"]), logit_scale(teacher)) for teacher in teachers]
    _, distilled = by_torch(own_features(student, PAIRS["text"]), logit_scale(student), given, None)
    distiller = Distiller(student, teachers, weight=1.0)
    assert {v.path for v in distiller.trainable_variables} == {v.path for v in student.trainable_variables}
    before = [np.array(keras.ops.convert_to_numpy(v)) for teacher in teachers for v in teacher.weights]
    learned = np.array(keras.ops.convert_to_numpy(student.image_encoder.projection.kernel))
    distiller.compile(keras.optimizers.SGD(1e-3), jit_compile=False)
    assert distiller.evaluate(PAIRS, batch_size=ROWS, verbose=0) == pytest.approx(distilled, rel=1e-5)
    distiller.fit(PAIRS, batch_size=ROWS, verbose=0)
    after = [keras.ops.convert_to_numpy(v) for teacher in teachers for v in teacher.weights]
    assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))
    assert not np.array_equal(learned, keras.ops.convert_to_numpy(student.image_encoder.projection.kernel))


def test_a_teacher_gets_images_in_its_own_size_and_colours() -> None:
    pixels = np.repeat(RANDOM.random((2, 8, 8, 3), np.float32), 8, axis=1).repeat(8, axis=2)
    student = small_model("small_vit", None, variant="mobileclip_s0")  # 64 pixels, 0 and 1
    teacher = small_model("small_vit_clip", None, variant="mobileclip_l14")  # 56 pixels, OpenAI's mean and deviation
    found = keras.ops.convert_to_numpy(as_teacher_takes(keras.ops.convert_to_tensor(pixels), student, teacher))
    assert found.shape == (2, 56, 56, 3)
    whole = keras.ops.convert_to_numpy(
        as_teacher_takes(keras.ops.convert_to_tensor(pixels[:, 4:60, 4:60]), student, teacher)
    )
    assert np.abs(whole - (pixels[:, 4:60, 4:60] - np.array(OPENAI_MEAN)) / np.array(OPENAI_STD)).max() < 1e-5


def test_what_cannot_be_distilled_is_refused(student: MobileClipModel) -> None:
    with pytest.raises(ValueError, match="weight is the share"):
        Distiller(student, weight=1.5)
    with pytest.raises(ValueError, match="cannot be its own teacher"):
        Distiller(student, [student])
    with pytest.raises(ValueError, match="need both towers"):
        Distiller(student, [small_model("small_vit", None)])
    with pytest.raises(ValueError, match="There is no teacher"):
        Distiller(student)(PAIRS)
    with pytest.raises(ValueError, match="3 numbers, which 2 teachers cannot share"):
        Distiller(student)({**PAIRS, "teacher_image": np.ones((5, 3)), "teacher_text": np.ones((5, 3))})
