"""Keras against outputs of the original code: real towers, in every form, on every backend."""

import gc

import keras
import numpy as np
import pytest

from mobileclip_keras.keras_models.architectures import FORMS
from mobileclip_keras.keras_models.kernels import float64_enabled
from mobileclip_keras.keras_models.models.copying import copy_model
from mobileclip_keras.keras_models.models.model import MobileClipModel
from mobileclip_keras.verify.criteria import FLOAT64_TOLERANCE, LOGIT_FLOOR, MAX_RATIO

from .support import (
    REFERENCES,
    TOKENS,
    Arrays,
    apply,
    error,
    features,
    get_variant,
    golden,
    images,
    is_large,
    marked,
    nightly_on,
    synthetic_model,
    unit,
)

pytestmark = pytest.mark.real

S0, B = "apple__mobileclip_s0", "apple__mobileclip_b"
OPEN_CLIP_B = "open_clip__MobileCLIP-B"

# For a commit. test_small_towers.py has every kind of tower in every layout and form; what is left to real size are
# long sums, which mci0 shows on TensorFlow and both on PyTorch, and the other convention of the ViT. At night, all.
BY_BACKEND = (
    pytest.param(S0, marks=nightly_on("jax")),
    pytest.param(B, marks=nightly_on("jax", "tensorflow")),
)


def check_in_float64(reference: str, forms: tuple[str, ...], count: int) -> MobileClipModel:
    """Compares features of the first `count` images and texts; gives the model in train form."""
    expected, size = golden(reference, count), get_variant(REFERENCES[reference]).image_size
    model = synthetic_model(reference, like_open_clip=reference == OPEN_CLIP_B)
    for form in forms:
        folded = model if form == "train" else model.reparameterize(form)
        check_features(folded, features(folded, size, count), expected)
        del folded
        gc.collect()  # a large one is 4 GiB
    return model


def check_in_float32(reference: str, model: MobileClipModel, forms: tuple[str, ...]) -> None:
    expected, size = golden(reference), get_variant(REFERENCES[reference]).image_size
    for form in forms:
        folded = model if form == "train" else model.reparameterize(form)
        made = {tower: unit(array.astype(np.float64)) for tower, array in features(folded, size).items()}
        logits = float(expected["logit_scale"]) * made["image"] @ made["text"].T
        allowed = max(MAX_RATIO * float(expected["torch_float32_logit_error"]), LOGIT_FLOOR)
        assert np.abs(logits - expected["logits"]).max() <= allowed, form


def check_features(model: MobileClipModel, made: Arrays, expected: Arrays) -> None:
    for tower, array in made.items():
        assert array.dtype == np.float64
        assert error(array, expected[f"{tower}_features"]) <= FLOAT64_TOLERANCE, (model.form, tower)
    if model.text_encoder is not None:
        scale = np.exp(float(keras.ops.convert_to_numpy(model.logit_scale)))
        assert scale == pytest.approx(float(expected["logit_scale"]), rel=1e-14)
        logits = scale * unit(made["image"]) @ unit(made["text"]).T
        assert error(logits, expected["logits"]) <= FLOAT64_TOLERANCE, model.form


@pytest.mark.backend
@pytest.mark.parametrize("reference", BY_BACKEND)
def test_outputs_of_the_original_code_on_every_backend(reference: str) -> None:
    with float64_enabled():
        model = check_in_float64(reference, ("train", "inference"), count=1)
    check_in_float32(reference, copy_model(model, "float32"), ("inference",))


def test_outputs_of_the_original_code_as_open_clip_computes() -> None:
    check_in_float64(OPEN_CLIP_B, ("train",), count=1)


@pytest.mark.nightly
@pytest.mark.backend
@pytest.mark.parametrize("reference", marked(REFERENCES, is_large))
def test_outputs_of_the_original_code_in_every_form(reference: str) -> None:
    with float64_enabled():
        model = check_in_float64(reference, FORMS, count=4)
    if model.text_encoder is None:
        return
    single = copy_model(model, "float32")
    del model
    gc.collect()
    check_in_float32(reference, single, FORMS)


@pytest.mark.nightly
def test_a_vit_of_apple_as_it_was_trained_is_not_as_open_clip_computes_it() -> None:
    """The same tensors: open_clip pads the stem otherwise and takes another epsilon."""
    expected = golden(OPEN_CLIP_B, 2)
    model = synthetic_model(OPEN_CLIP_B)
    as_trained = apply(model.image_encoder, images(224, 2))
    assert error(apply(model.text_encoder, TOKENS[:2]), expected["text_features"]) <= FLOAT64_TOLERANCE
    assert 0.01 < error(as_trained, expected["image_features"]) < 1
    logits = 80 * unit(as_trained) @ unit(expected["text_features"]).T
    assert 0.01 < np.abs(logits - expected["logits"]).max() < 10
