"""Channels brought nearer to each other before they are rounded: floats stay what they are, and rounding costs less."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from mobileclip_keras.converters.deploy.quantize import round_job, smoothing
from mobileclip_keras.converters.deploy.quantize import weights as weights_module
from mobileclip_keras.converters.deploy.quantize.changing import changed_model
from mobileclip_keras.converters.deploy.quantize.means import Given, measuring
from mobileclip_keras.converters.deploy.quantize.rounded_inputs import rounded_inputs
from mobileclip_keras.converters.deploy.quantize.rounding import rounded
from mobileclip_keras.converters.deploy.quantize.smoothing import factors_of, smooth, sources_of
from mobileclip_keras.converters.deploy.quantize.weights import Weight, weights_of
from mobileclip_keras.converters.deploy.request import make_request
from mobileclip_keras.keras_models.layers.dense import Linear, VectorLinear
from mobileclip_keras.keras_models.store.variables import variables_by_name

from .small import small_model
from .support import TOKENS

pytestmark = [
    pytest.mark.usefixtures("small_towers"),
    pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow decides for every runtime"),
]

ROWS = TOKENS[:4].astype(np.int32)
ALL_BLOCKS = {"qkv", "proj", "fc1", "projection"}
SMOOTHED = {
    "small_mct": ALL_BLOCKS,
    "small_transformer_causal": ALL_BLOCKS,
    "small_vit": ALL_BLOCKS,
    "small_mci": {"proj", "fc1"},  # attention follows a batch norm there, which is part of its kernel
    "small_mci_layer": {"proj", "fc1"},
}


def numbers_of(variable: keras.Variable) -> np.ndarray:
    return np.array(keras.ops.convert_to_numpy(variable))


def uneven(model: Any) -> None:
    """Gives channels the spread that those of trained transformers have: a few are much larger."""
    chance = np.random.default_rng(0)
    for name, variable in variables_by_name(model).items():
        if name.endswith("gamma"):
            variable.assign(np.exp(1.5 * chance.normal(size=variable.shape)))
        elif name.endswith("kernel"):
            variable.assign(numbers_of(variable) * np.exp(chance.normal(size=variable.shape[-1:])))


def model_of(tower: str) -> tuple[Any, str, np.ndarray]:
    """A model in its inference form, the kind of its tower, and inputs."""
    image = tower.startswith(("small_mci", "small_vit"))
    model = small_model(*(tower, None) if image else (None, tower), form="inference")
    uneven(model)
    if not image:
        return model, "text", ROWS
    size = model.image_encoder.image_size
    return model, "image", np.random.default_rng(0).random((2, size, size, 3)).astype(np.float32)


def smoothed(model: Any, kind: str, rows: np.ndarray) -> dict[str, np.ndarray]:
    weights = weights_of(model)
    with measuring(weights) as means:
        round_job.features(model, kind, rows)
    return smooth(model, weights, means)


@pytest.mark.parametrize("tower", SMOOTHED)
def test_features_stay_what_they_are_to_the_last_bit(tower: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights_module, "SMALLEST", 64)  # all dense layers of a small model
    model, kind, rows = model_of(tower)
    before = {name: numbers_of(variable) for name, variable in variables_by_name(model).items()}
    exact = round_job.features(model, kind, rows)
    changed = smoothed(model, kind, rows)
    after = {name: numbers_of(variable) for name, variable in variables_by_name(model).items()}
    assert np.array_equal(round_job.features(model, kind, rows), exact)
    assert changed.keys() == {name for name in after if not np.array_equal(after[name], before[name])}
    assert all(np.array_equal(after[name], array) for name, array in changed.items())
    dense = {name.split("/")[-2] for name in changed if name.endswith("kernel")} - {"conv"}
    assert dense >= SMOOTHED[tower]
    for name in changed:
        exponents = np.log2(np.abs(after[name] / before[name])[before[name] != 0])
        assert np.array_equal(exponents, np.rint(exponents)), "powers of 2"


def test_every_kind_of_source_is_known() -> None:
    """In each tower, the dense layers that take factors; the others follow a GELU or a folded norm."""
    for tower, wanted in SMOOTHED.items():
        model, kind, _ = model_of(tower)
        found = {source.dense.name for source in sources_of(getattr(model, f"{kind}_encoder"))}
        assert found == wanted, tower


def test_what_a_layer_is_given_is_divided_as_if_it_were_measured_again() -> None:
    model, kind, rows = model_of("small_transformer_causal")
    weights = weights_of(model)
    with measuring(weights) as means:
        round_job.features(model, kind, rows)
    assert smooth(model, weights, means)
    with measuring(weights) as again:
        round_job.features(model, kind, rows)
    assert again.keys() == means.keys()
    for name, given in means.items():
        for found, wanted in zip(vars(given).values(), vars(again[name]).values(), strict=True):
            assert (found is None) == (wanted is None)
            assert found is None or np.allclose(found, wanted, rtol=1e-6)


def dense_of(kernel: np.ndarray, sample: np.ndarray, group: int | None = None) -> tuple[Weight, Given]:
    layer = (VectorLinear if group else Linear)(kernel.shape[1], use_bias=False, name="fc1")
    layer.build((None, len(kernel)))
    layer.kernel.assign(kernel)
    weight = Weight("text_encoder/fc1/kernel", "dense", layer, layer.kernel, None, (1,), group)
    with measuring([weight]) as means:
        layer(sample)
    return weight, means[weight.name]


def test_a_few_large_channels_cost_less() -> None:
    """Of inputs and kernel together, each rounded."""
    chance = np.random.default_rng(0)
    sizes = np.ones(256)
    sizes[[3, 70, 200]] = 40
    inputs = (chance.normal(size=(300, 256)) * sizes).astype(np.float32)
    kernel = chance.normal(size=(256, 64)).astype(np.float32)
    weight, given = dense_of(kernel, inputs[::2])
    factors = factors_of(weight, given)
    assert factors[[3, 70, 200]].min() >= 4 * np.median(factors)
    unseen, exact, errors = inputs[1::2], inputs[1::2] @ kernel, []
    for each in (np.ones(256, np.float32), factors):
        weight.variable.assign(rounded(kernel * each[:, None], (1,), 8))
        with rounded_inputs([weight]):
            made = keras.ops.convert_to_numpy(weight.layer(keras.ops.convert_to_tensor(unseen / each)))
        errors.append(np.square(made - exact).mean())
    assert errors[1] < errors[0] / 3


def test_even_channels_are_left_alone() -> None:
    chance = np.random.default_rng(0)
    inputs = chance.choice([-1.0, 1.0], (100, 64)).astype(np.float32)
    weight, given = dense_of(chance.choice([-1.0, 1.0], (64, 32)).astype(np.float32), inputs)
    assert np.array_equal(factors_of(weight, given), np.ones(64))


def test_a_small_gain_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's error grows where it was multiplied."""
    chance = np.random.default_rng(0)
    inputs = chance.normal(size=(300, 256)).astype(np.float32)
    inputs[:, ::64] *= 3
    weight, given = dense_of(chance.normal(size=(256, 64)).astype(np.float32), inputs)
    assert np.array_equal(factors_of(weight, given), np.ones(256))
    monkeypatch.setattr(smoothing, "GAIN", 1)
    assert not np.array_equal(factors_of(weight, given), np.ones(256))


def test_a_channel_that_is_never_seen_or_never_used_has_a_factor() -> None:
    chance = np.random.default_rng(0)
    inputs, kernel = chance.normal(size=(100, 64)).astype(np.float32), chance.normal(size=(64, 32)).astype(np.float32)
    inputs[:, 5], kernel[9], inputs[:, 20], kernel[20] = 0, 0, 0, 0
    inputs[:, 3] *= 1e6
    kernel[3] *= 1e-6
    factors = factors_of(*dense_of(kernel, inputs))
    assert np.isfinite(factors).all() and factors.max() == smoothing.LARGEST and factors.min() > 0


def test_groups_have_steps_of_their_own() -> None:
    """So a group that is larger as a whole is no reason to change anything."""
    chance = np.random.default_rng(0)
    inputs = chance.choice([-1.0, 1.0], (100, 64)).astype(np.float32)
    inputs[:, 48:] *= 64
    kernel = chance.choice([-1.0, 1.0], (64, 32)).astype(np.float32)
    assert np.array_equal(factors_of(*dense_of(kernel, inputs, 16)), np.ones(64))
    assert not np.array_equal(factors_of(*dense_of(kernel, inputs)), np.ones(64))


@pytest.mark.parametrize(("to", "smooths"), [("litert", True), ("onnx", False)])
def test_rounded_weights_are_written_with_what_was_divided(to: str, smooths: bool, tmp_path: Path) -> None:
    """A runtime that computes with floats rounds no inputs."""
    model, kind, rows = model_of("small_mct")
    exact = round_job.features(model, kind, rows)
    request = make_request(to, ("text",), quantize="int8-weights")
    (name,) = round_job.round_weights(model, request, {"text": rows}, tmp_path)["sets"]
    written = dict(np.load(tmp_path / f"{name}.npz"))
    norms = [each for each in written if each.endswith(("gamma", "beta"))]
    assert bool(norms) == smooths
    fresh, _, _ = model_of("small_mct")
    with changed_model(fresh, str(tmp_path / f"{name}.npz")):
        made = round_job.features(fresh, kind, rows)
        assert all(np.array_equal(numbers_of(variables_by_name(fresh)[each]), written[each]) for each in norms)
    assert 0 < np.abs(made - exact).max() < 0.05
    assert np.array_equal(round_job.features(fresh, kind, rows), exact), "and put back"
