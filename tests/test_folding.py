"""Reparameterisation: the same function with fewer weights."""

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

from mobileclip_keras.keras_models.architectures import FORMS, IMAGE_TOWERS, TEXT_TOWERS
from mobileclip_keras.keras_models.blocks.branches import RepMixer
from mobileclip_keras.keras_models.blocks.feed_forward import FeedForward
from mobileclip_keras.keras_models.kernels import float64_enabled
from mobileclip_keras.keras_models.layers.convolution import ConvNorm, Convolution
from mobileclip_keras.keras_models.layers.initializers import to_be_overwritten
from mobileclip_keras.keras_models.models.copying import copy_model
from mobileclip_keras.keras_models.models.image_encoder import MobileClipImageEncoder
from mobileclip_keras.keras_models.models.model import MobileClipModel
from mobileclip_keras.keras_models.models.text_encoder import MobileClipTextEncoder
from mobileclip_keras.keras_models.registry import VARIANTS
from mobileclip_keras.keras_models.towers.folded_convolution import as_convolution
from mobileclip_keras.keras_models.towers.folding import fold
from mobileclip_keras.weight_maps.generate import EMBED_DIMS
from mobileclip_keras.weight_maps.table import tower_rows

from .small import SMALL_IMAGE_TOWERS, SMALL_TEXT_TOWERS, randomise, small_model
from .support import LARGE_TOWERS, TOKENS, apply, error, images, marked, weights

pytestmark = pytest.mark.usefixtures("small_towers", "quickly_compiled")

TOLERANCE = 1e-10


def check_folding(model: MobileClipModel, size: int) -> None:
    tower, inputs = ("image_encoder", images(size, 2)) if model.text_encoder is None else ("text_encoder", TOKENS[:2])
    expected = apply(getattr(model, tower), inputs)
    assert np.abs(expected).max() > 0.01
    for form in ("reparameterized", "inference"):
        folded = model.reparameterize(form)
        assert folded.form == form
        assert error(apply(getattr(folded, tower), inputs), expected) < TOLERANCE, form
        if form == "reparameterized":
            further = folded.reparameterize()
            assert error(apply(getattr(further, tower), inputs), expected) < TOLERANCE


# --- Every tower ---


@pytest.mark.nightly
@pytest.mark.real
@pytest.mark.parametrize("tower", marked(IMAGE_TOWERS, lambda tower: tower in LARGE_TOWERS))
def test_every_image_tower_computes_the_same_when_folded(tower: str) -> None:
    with to_be_overwritten():
        encoder = MobileClipImageEncoder(tower, EMBED_DIMS[tower], dtype="float64", projection_bias=True)
        model = MobileClipModel(image_encoder=encoder, dtype="float64")
    randomise(model)
    check_folding(model, 128 if tower.startswith("mci") else encoder.image_size)


@pytest.mark.nightly
@pytest.mark.real
@pytest.mark.parametrize("tower", TEXT_TOWERS)
def test_every_text_tower_computes_the_same_when_folded(tower: str) -> None:
    with to_be_overwritten():
        encoder = MobileClipTextEncoder(tower, EMBED_DIMS[tower], dtype="float64")
        model = MobileClipModel(text_encoder=encoder, dtype="float64")
    randomise(model)
    check_folding(model, 0)


@pytest.mark.backend
@pytest.mark.parametrize("tower", SMALL_IMAGE_TOWERS)
def test_image_towers_fold_on_every_backend(tower: str) -> None:
    with float64_enabled():
        check_folding(small_model(tower, None, "float64"), SMALL_IMAGE_TOWERS[tower].image_size)


@pytest.mark.backend
@pytest.mark.parametrize("tower", SMALL_TEXT_TOWERS)
def test_text_towers_fold_on_every_backend(tower: str) -> None:
    with float64_enabled():
        check_folding(small_model(None, tower, "float64"), 0)


# --- Rounding ---


@pytest.mark.parametrize(("dtype", "epsilon"), [("float32", 2**-23), ("float16", 2**-10), ("bfloat16", 2**-7)])
def test_rounding_a_skip_into_a_kernel_keeps_the_sum_of_its_taps(dtype: str, epsilon: float) -> None:
    """A RepMixer's middle tap is about 1; what rounding it adds is the same at every position of every image."""
    mixer = RepMixer(64)
    mixer.build((None, 8, 8, 64))
    for variable in mixer.weights:
        variable.assign(np.random.default_rng(len(variable.path)).uniform(0.01, 1.0, variable.shape))
    folded = RepMixer(64, form="inference", dtype=dtype)
    folded.build((None, 8, 8, 64))
    fold(mixer, folded)
    exact = as_convolution(mixer).kernel.reshape(9, 64)
    kernel = _as_float64(folded.reparam_conv.kernel).reshape(9, 64)
    assert np.all(np.abs(kernel - exact).max(0) <= epsilon * np.abs(exact).max(0))
    rounded = _as_float64(keras.ops.cast(exact, dtype))
    plain, kept = (np.sqrt(np.mean((taps.sum(0) - exact.sum(0)) ** 2)) for taps in (rounded, kernel))
    assert plain > epsilon / 10
    assert kept < plain / 10


def _as_float64(values: Any) -> np.ndarray:
    return keras.ops.convert_to_numpy(keras.ops.cast(values, "float32")).astype(np.float64)


def test_what_is_too_large_for_the_dtype_does_not_touch_its_neighbours() -> None:
    source = ConvNorm(2, (1, 3), depthwise=True)
    target = Convolution(2, (1, 3), depthwise=True, use_bias=True, dtype="float16")
    for layer in (source, target):
        layer.build((None, 4, 4, 2))
    source.conv.kernel.assign(np.reshape([1e6, 1.0, 0.5, -2e6, 0.25, 3.0], (1, 3, 2, 1)))
    fold(source, target)
    expected = np.reshape([np.inf, 1.0, 0.5, -np.inf, 0.25, 3.0], (1, 3, 2, 1))
    np.testing.assert_allclose(keras.ops.convert_to_numpy(target.kernel), expected, rtol=0.002)


# --- What is left, and what is kept ---


def test_nothing_linear_is_left_beside_a_convolution_or_dense_layer() -> None:
    folded = small_model().reparameterize()
    names = {variable.path for variable in folded.weights}
    for gone in ("moving_", "num_batches", "layer_scale", "/bn/", "conv_kxk", "identity", "small_conv"):
        assert not [name for name in names if gone in name], gone
    assert any("reparam_conv" in name for name in names)


def test_apples_reparameterisation_keeps_the_norms_and_layer_scales() -> None:
    names = {variable.path for variable in small_model().reparameterize("reparameterized").weights}
    for kept in ("mlp/conv/bn/moving_mean", "token_mixer/qkv/kernel", "layer_scale_1/gamma", "reparam_conv"):
        assert any(kept in name for name in names), kept
    assert not any("conv_kxk" in name for name in names)


def test_the_model_that_is_folded_stays_as_it_is() -> None:
    model = small_model()
    before, form = weights(model), model.form
    model.reparameterize()
    assert model.form == form == "train"
    for was, now in zip(before, weights(model), strict=True):
        assert np.array_equal(was, now)


@pytest.mark.backend
@pytest.mark.parametrize("copied", [MobileClipModel.reparameterize, copy_model], ids=["folded", "copied"])
def test_a_model_outlives_what_its_copy_predicts(copied: Callable) -> None:
    """On JAX, Keras donates a model's arrays to `predict` and `fit`, which deletes them."""
    model = small_model("small_vit", "small_transformer")
    inputs = {"image": images(64, 2), "text": TOKENS[:2]}
    copied(model).predict(inputs, verbose=0)
    before = model.predict(inputs, verbose=0)
    other = copied(model)
    model.predict(inputs, verbose=0)
    assert np.allclose(other.predict(inputs, verbose=0)["text_features"], before["text_features"], atol=1e-5)
    for one, was in zip(weights(model), weights(other), strict=False):
        assert np.isfinite(one).all() and np.isfinite(was).all()


def test_folding_to_the_same_form_is_a_copy() -> None:
    model = small_model()
    for form in FORMS:
        made = model.reparameterize(form)
        again = made.reparameterize(form)
        assert again is not made
        for one, other in zip(weights(made), weights(again), strict=True):
            assert np.array_equal(one, other)
        again.weights[-1].assign(np.zeros(again.weights[-1].shape))
        assert np.any(weights(made)[-1])


@pytest.mark.parametrize(
    ("form", "wanted", "choices"),
    [
        ("inference", "train", "'inference'"),
        ("reparameterized", "train", "'reparameterized' or 'inference'"),
        ("train", "folded", "'train' or 'reparameterized' or 'inference'"),
    ],
)
def test_what_is_folded_cannot_be_unfolded(form: str, wanted: str, choices: str) -> None:
    model = small_model(form=form)
    with pytest.raises(ValueError, match=f"A model in '{form}' form can be made {choices}, not '{wanted}'"):
        model.reparameterize(wanted)


def test_only_linear_layers_have_a_convolution_that_equals_them() -> None:
    with pytest.raises(TypeError, match="A FeedForward is not linear"):
        as_convolution(FeedForward(3))
    assert as_convolution.dispatch(Convolution) is not as_convolution.dispatch(object)


def test_other_backbones_are_carried_over_whole() -> None:
    inputs = keras.Input((32, 32, 3))
    backbone = keras.Model(inputs, keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3)(inputs)))
    model = MobileClipModel(image_encoder=MobileClipImageEncoder(backbone, 8, image_size=32))
    folded = model.reparameterize()
    assert np.array_equal(apply(folded.image_encoder, images(32)), apply(model.image_encoder, images(32)))


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=lambda variant: variant.short_name)
def test_parameters_are_as_many_as_apple_publishes(variant: str) -> None:
    for tower, published in (
        (variant.image_tower, variant.image_parameters),
        (variant.text_tower, variant.text_parameters),
    ):
        layout = "apple" if variant.published.layout == "apple" else "open_clip"
        count = sum(
            math.prod(row.target_shape)
            for row in tower_rows(tower, layout, "reparameterized")
            if row.source != "-" and not row.target.endswith(("moving_mean", "moving_variance", "tracked"))
        )
        if variant.published.layout == "apple":
            assert count == round(published * 1e6), tower
        else:
            assert count / 1e6 == pytest.approx(published, abs=0.05, rel=0.002), tower
