"""The optimizer, its schedule, the limit of the logit scale, and weights between two models."""

from typing import Any

import keras
import numpy as np
import pytest

from mobileclip_keras.keras_models.models.copying import copy_model
from mobileclip_keras.keras_models.models.model import MobileClipModel
from mobileclip_keras.keras_models.training.interpolation import InterpolationError, interpolate
from mobileclip_keras.keras_models.training.optimizer import fine_tuning_recipe
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
