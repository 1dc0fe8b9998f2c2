"""The optimizer, its schedule, the limit of the logit scale, and weights between two models."""

from typing import Any

import keras
import numpy as np
import pytest

from mobileclip_keras.keras_models import kernels
from mobileclip_keras.keras_models.kernels import plain_runtime
from mobileclip_keras.keras_models.models.copying import copy_model
from mobileclip_keras.keras_models.models.model import MobileClipModel
from mobileclip_keras.keras_models.training.interpolation import InterpolationError, interpolate
from mobileclip_keras.keras_models.training.optimizer import AtMost, fine_tuning_recipe
from mobileclip_keras.verify.data import synthetic

from .small import small_model
from .support import nightly_on

pytestmark = pytest.mark.usefixtures("small_towers")

TEXT = "small_mct_of_64_words"
PAIRS = {"image": synthetic.images(4, 64, seed=0), "text": synthetic.tokens(4, seed=0) % 64}


def values(model: Any) -> dict[str, np.ndarray]:
    return {v.path: np.array(keras.ops.convert_to_numpy(v)) for v in model.weights}


@pytest.mark.backend
def test_only_matrices_decay() -> None:
    variables = [
        keras.Variable(np.ones(shape, "float32"), name=name)
        for name, shape in (("kernel", (2, 3)), ("bias", (3,)), ("gamma", (3,)), ("logit_scale", ()))
    ]
    recipe = fine_tuning_recipe(10, 0.1, warmup_steps=0, weight_decay=0.5)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(recipe.optimizer))
    for optimizer in (recipe.optimizer, again):
        for variable in variables:
            variable.assign(np.ones(variable.shape))
        optimizer.build(variables)
        optimizer.apply([keras.ops.zeros(variable.shape) for variable in variables], variables)
        after = [float(keras.ops.convert_to_numpy(variable).max()) for variable in variables]
        assert after == pytest.approx([1 - 0.1 * 0.5, 1, 1, 1])


def steps_of(optimizer: keras.optimizers.Optimizer, gradients: list[list[np.ndarray]]) -> list[np.ndarray]:
    """What becomes of a matrix, a vector and a limited number."""
    variables = [keras.Variable(np.ones((1, 1, 3, 1)), name="w"), keras.Variable(np.ones(4), name="b")]
    variables.append(keras.Variable(np.float32(0.9), name="scale"))
    variables[2].constraint = AtMost(1.0)
    for step in gradients:
        optimizer.apply([keras.ops.convert_to_tensor(gradient, "float32") for gradient in step], variables)
    assert int(optimizer.iterations) == len(gradients)
    return [keras.ops.convert_to_numpy(variable) for variable in variables]


@pytest.mark.backend
def test_all_variables_at_once_are_updated_as_by_keras(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    sizes = (1.0, 1e-7, -1.0)  # small ones beside epsilon; the limited number rises
    gradients = [
        [rng.random(shape) * size for shape, size in zip(((1, 1, 3, 1), (4,), ()), sizes, strict=True)]
        for _ in range(7)
    ]
    found = steps_of(fine_tuning_recipe(9, 0.1, warmup_steps=3, weight_decay=0.5).optimizer, gradients)
    monkeypatch.setattr(kernels, "update_by_adamw", plain_runtime.update_by_adamw)
    expected = steps_of(fine_tuning_recipe(9, 0.1, warmup_steps=3, weight_decay=0.5).optimizer, gradients)
    for ours, keras_own in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, keras_own, rtol=1e-6)
    assert found[2] == pytest.approx(1.0)


@pytest.mark.backend
@pytest.mark.parametrize("options", [{}, {"clip_norm": 1.0}, {"clipvalue": 1.0}, {"use_ema": True}, {"amsgrad": True}])
def test_what_the_quick_update_does_not_know_is_left_to_keras(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def counted(*arguments: Any) -> bool:
        calls.append(arguments)
        return plain_runtime.update_by_adamw(*arguments)

    monkeypatch.setattr(kernels, "update_by_adamw", counted)
    steps_of(fine_tuning_recipe(9, 0.1, **options).optimizer, [[np.ones((1, 1, 3, 1)), np.ones(4), np.ones(())]] * 2)
    assert len(calls) == (not options)


@pytest.mark.backend
@pytest.mark.skipif(keras.backend.backend() == "jax", reason="has Keras' own way alone")
@pytest.mark.parametrize("towers", [("small_mci", "small_mct"), ("small_vit", "small_transformer")])
def test_all_variables_of_every_kind_of_tower_are_updated_at_once(
    towers: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some kernels lie in memory in another order than their averages are made in."""
    rng = np.random.default_rng(0)
    model = small_model(*towers)
    gradients = [keras.ops.convert_to_tensor(rng.normal(size=v.shape), "float32") for v in model.trainable_variables]
    found = []
    for quick in (True, False):
        copy, optimizer = copy_model(model), fine_tuning_recipe(9, 0.1).optimizer
        optimizer.build(copy.trainable_variables)
        with monkeypatch.context() as patch:
            if quick:
                patch.setattr(optimizer, "update_step", None)  # Keras' own way, which goes variable by variable
            else:
                patch.setattr(kernels, "update_by_adamw", plain_runtime.update_by_adamw)
            for _ in range(2):
                optimizer.apply(gradients, copy.trainable_variables)
        found.append(values(copy))
    for path, value in found[1].items():
        np.testing.assert_allclose(found[0][path], value, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="about TensorFlow")
def test_variables_that_a_strategy_spreads_are_left_to_keras() -> None:
    import tensorflow as tf

    variable = keras.Variable(np.ones(3, "float32"), name="b")
    optimizer = fine_tuning_recipe(9, 0.1).optimizer
    optimizer.build([variable])
    gradients, variables = [keras.ops.ones(3)], [variable]
    averages = [[each for each in optimizer.variables if kind in each.name] for kind in ("momentum", "velocity")]
    with tf.distribute.OneDeviceStrategy("/cpu:0").scope():
        assert not kernels.update_by_adamw(optimizer, gradients, variables, *averages, [False])
    assert np.array_equal(variable, np.ones(3))
    assert kernels.update_by_adamw(optimizer, gradients, variables, *averages, [False])
    assert not np.array_equal(variable, np.ones(3))


@pytest.mark.torch
@pytest.mark.backend
@pytest.mark.skipif(keras.backend.backend() != "torch", reason="about PyTorch")
def test_a_gradient_is_laid_out_as_its_variable() -> None:
    """Strides of axes with one element differ, and on GPUs the fused kernel refuses that."""
    import torch

    from mobileclip_keras.keras_models.kernels.torch_adamw import _laid_out_as

    for gradient in (torch.rand(3).as_strided((1, 1, 3, 1), (1, 1, 1, 1)), torch.rand(1, 3, 1, 1).permute(0, 2, 1, 3)):
        value = torch.empty(gradient.shape)
        laid_out = _laid_out_as(value, gradient)
        assert laid_out.stride() == value.stride() and torch.equal(laid_out, gradient)
    turned = torch.rand(4, 3).T
    laid_out = _laid_out_as(torch.empty(3, 4), turned)
    assert laid_out.is_contiguous() and torch.equal(laid_out, turned)


def test_the_learning_rate_rises_and_falls() -> None:
    recipe = fine_tuning_recipe(110, 1e-3, warmup_steps=10, final_learning_rate=1e-5)
    rates = [float(recipe.schedule(step)) for step in (0, 5, 10, 60, 110, 500)]
    assert rates == pytest.approx([1e-4, 5.5e-4, 1e-3, (1e-3 + 1e-5) / 2, 1e-5, 1e-5], rel=1e-5)
    assert float(fine_tuning_recipe(100).schedule(10)) == pytest.approx(1e-5)
    for steps, warmup in ((0, None), (10, 10), (10, -1)):
        with pytest.raises(ValueError, match="at least one step after the warm-up"):
            fine_tuning_recipe(steps, warmup_steps=warmup)


@nightly_on("jax", "tensorflow")
def test_the_logit_scale_stays_below_100_and_is_not_stuck_there() -> None:
    model = small_model("small_vit", TEXT)
    model.freeze(image=True, text=True)
    model.logit_scale.assign(np.log(100.5))
    model.compile(keras.optimizers.SGD(1e4), jit_compile=False)
    scales = []
    for _ in range(3):
        model.fit(PAIRS, verbose=0)
        scales.append(float(np.exp(np.float64(keras.ops.convert_to_numpy(model.logit_scale)))))
    assert 99.999 < scales[0] < 100 and scales[2] < 99


# --- Between two models ---


def pair() -> tuple[MobileClipModel, MobileClipModel]:
    model = small_model("small_vit", TEXT, variant="mobileclip_s0")
    tuned = copy_model(model)
    for index, variable in enumerate(tuned.weights):
        variable.assign(keras.ops.convert_to_numpy(variable) + index % 3)
    return model, tuned


@pytest.mark.backend
def test_weights_between_two_models() -> None:
    model, tuned = pair()
    before, after = values(model), values(tuned)
    for alpha in (0, 0.25, 1):
        made = interpolate(model, tuned, alpha)
        for (path, value), old, new in zip(values(made).items(), before.values(), after.values(), strict=True):
            if alpha in (0, 1) or path.endswith("num_batches_tracked"):
                assert np.array_equal(value, new if alpha else old)
            else:
                assert np.abs(value - (0.75 * old + 0.25 * new)).max() < 1e-6 * max(1, np.abs(new).max())
    assert all(np.array_equal(one, other) for one, other in zip(before.values(), values(model).values(), strict=True))


def test_models_without_weights_between_them_are_refused() -> None:
    model, tuned = pair()
    with pytest.raises(InterpolationError, match=r"alpha lies between 0, .* got 1\.5"):
        interpolate(model, tuned, 1.5)
    cases = {
        "form is train and inference": tuned.reparameterize(),
        "variant is mobileclip_s0 and mobileclip_s1": small_model("small_vit", TEXT, variant="mobileclip_s1"),
        "image tower's backbone is small_vit and small_mci": small_model("small_mci", TEXT, variant="mobileclip_s0"),
        "only one has text_encoder/": small_model("small_vit", None, variant="mobileclip_s0"),
    }
    for message, other in cases.items():
        with pytest.raises(InterpolationError, match=message):
            interpolate(model, other, 0.5)
    tuned.enable_lora(2)
    with pytest.raises(InterpolationError, match="Call its merge_lora first"):
        interpolate(model, tuned, 0.5)
