"""Keras against outputs of the original code: every reference checkpoint, in every form, on every backend."""

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
    synthetic_model,
    unit,
)

OPEN_CLIP_B = "open_clip__MobileCLIP-B"

# Apple's own files, and one of timm's: every kind of tower and of layout that is not large. What the other files
# add, other names for the same tensors, does not depend on the backend.
EVERYWHERE = (
    "apple__mobileclip_s0",
    "apple__mobileclip_s1",
    "apple__mobileclip_s2",
    "apple__mobileclip_b",
    "timm__fastvit_mci1",
)
ON_TENSORFLOW = tuple(name for name in REFERENCES if name not in EVERYWHERE)


def check(reference: str) -> None:
    expected = golden(reference)
    size = get_variant(REFERENCES[reference]).image_size
    with float64_enabled():
        model = synthetic_model(reference, like_open_clip=reference == OPEN_CLIP_B)
        for form in FORMS:
            folded = model if form == "train" else model.reparameterize(form)
            check_float64(folded, features(folded, size), expected)
            del folded
            gc.collect()  # a large one is 4 GiB
    if model.text_encoder is None:
        return
    single = copy_model(model, "float32")
    del model
    gc.collect()
    for form in FORMS:
        folded = single if form == "train" else single.reparameterize(form)
        made = {tower: unit(array.astype(np.float64)) for tower, array in features(folded, size).items()}
        logits = float(expected["logit_scale"]) * made["image"] @ made["text"].T
        allowed = max(MAX_RATIO * float(expected["torch_float32_logit_error"]), LOGIT_FLOOR)
        assert np.abs(logits - expected["logits"]).max() <= allowed, form


def check_float64(model: MobileClipModel, made: Arrays, expected: Arrays) -> None:
    for tower, array in made.items():
        assert array.dtype == np.float64
        assert error(array, expected[f"{tower}_features"]) <= FLOAT64_TOLERANCE, (model.form, tower)
    if model.text_encoder is not None:
        scale = np.exp(float(keras.ops.convert_to_numpy(model.logit_scale)))
        assert scale == pytest.approx(float(expected["logit_scale"]), rel=1e-14)
        logits = scale * unit(made["image"]) @ unit(made["text"]).T
        assert error(logits, expected["logits"]) <= FLOAT64_TOLERANCE, model.form


@pytest.mark.backend
@pytest.mark.parametrize("reference", EVERYWHERE)
def test_outputs_of_the_original_code_on_every_backend(reference: str) -> None:
    check(reference)


@pytest.mark.parametrize("reference", marked(ON_TENSORFLOW, is_large))
def test_outputs_of_the_original_code(reference: str) -> None:
    check(reference)


def test_a_vit_of_apple_as_it_was_trained_is_not_as_open_clip_computes_it() -> None:
    """The same tensors: open_clip pads the stem otherwise and takes another epsilon."""
    expected = golden(OPEN_CLIP_B)
    model = synthetic_model(OPEN_CLIP_B)
    as_trained = apply(model.image_encoder, images(224))
    assert error(apply(model.text_encoder, TOKENS), expected["text_features"]) <= FLOAT64_TOLERANCE
    assert 0.01 < error(as_trained, expected["image_features"]) < 1
    logits = 80 * unit(as_trained) @ unit(expected["text_features"]).T
    assert 0.01 < np.abs(logits - expected["logits"]).max() < 10


def test_every_reference_file_is_used() -> None:
    assert set(EVERYWHERE) | set(ON_TENSORFLOW) == set(REFERENCES)
