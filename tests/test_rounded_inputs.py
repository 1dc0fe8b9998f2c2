"""Layers that compute in integers round what they are given; plans are judged with that."""

from typing import Any

import keras
import numpy as np
import pytest

from mobileclip_keras.converters.deploy.quantize.options import PRECISIONS, Option, option
from mobileclip_keras.converters.deploy.quantize.rounded_inputs import in_integers, rounded_inputs, to_bytes
from mobileclip_keras.converters.deploy.quantize.shares import measure_shares
from mobileclip_keras.converters.deploy.quantize.weights import Weight, weights_of
from mobileclip_keras.converters.deploy.runtimes.registry import RUNTIMES
from mobileclip_keras.keras_models.kernels.plain import group_of
from mobileclip_keras.keras_models.layers.dense import Linear, VectorLinear

from .small import small_model
from .support import TOKENS

pytestmark = pytest.mark.usefixtures("small_towers")

LITERT, ONNX = RUNTIMES["litert"], RUNTIMES["onnx"]


def in_bytes(rows: np.ndarray, size: int) -> np.ndarray:
    return keras.ops.convert_to_numpy(to_bytes(keras.ops.convert_to_tensor(rows), size))


def test_each_row_has_256_levels_of_its_own() -> None:
    rows = np.random.default_rng(0).normal(1, 1, (2, 3, 500)).astype(np.float32)
    rows[0, 0] *= 1000
    rows[1, 1, ::2], rows[1, 2] = 0, 0
    made = in_bytes(rows, 500)
    for row, was in zip(made.reshape(-1, 500), rows.reshape(-1, 500), strict=True):
        step = (max(was.max(), 0) - min(was.min(), 0)) / 255
        assert len(np.unique(row)) <= 256 and np.abs(row - was).max() <= 1.01 * step
        assert not row[was == 0].any(), "0 stays 0"
    assert np.abs(made - rows)[0, 0].max() > 100 * np.abs(made - rows)[0, 1].max() > 0


def test_the_levels_of_a_row_reach_to_zero() -> None:
    rows = np.random.default_rng(0).uniform(90, 100, (1, 500)).astype(np.float32)
    for made in (in_bytes(rows, 500), -in_bytes(-rows, 500)):
        assert np.allclose(np.diff(np.unique(made)).min(), rows.max() / 255, rtol=1e-3)


def test_neighbours_have_levels_of_their_own_where_a_layer_takes_them_apart() -> None:
    rows = np.random.default_rng(0).normal(size=(2, 64)).astype(np.float32)
    rows[:, 40:] *= 1000
    errors = [np.abs(in_bytes(rows, size) - rows)[:, :32].max() for size in (64, 32)]
    assert errors[0] > 1 > 0.1 > errors[1]
    assert np.array_equal(in_bytes(rows, 32)[:, :32], in_bytes(rows[:, :32], 32))


def test_a_layer_of_groups_rounds_each_by_itself() -> None:
    layer = VectorLinear(24, use_bias=False, name="projection")
    layer.build((None, 192))
    weight = Weight("text_encoder/projection/kernel", "dense", layer, layer.kernel, None, (1,), group_of(192))
    rows = np.random.default_rng(0).normal(size=(2, 192)).astype(np.float32)
    rows[:, 191] = 1000
    with rounded_inputs([weight]):
        made = keras.ops.convert_to_numpy(layer(rows))
    apart = [keras.ops.convert_to_numpy(layer(in_bytes(rows, size))) for size in (64, 192)]
    assert np.array_equal(made, apart[0]) and np.abs(made - apart[1]).max() > 0.01


def test_only_layers_that_compute_in_integers_round() -> None:
    weights = weights_of(small_model("small_mci", None, form="inference"))
    plan = {each.name: PRECISIONS[place % len(PRECISIONS)] for place, each in enumerate(weights)}
    found = in_integers(weights, plan, LITERT)
    assert found and {each.kind for each in found} == {"dense"}
    assert {plan[each.name] for each in found} == {"int4", "int8"}
    assert in_integers(weights, plan, ONNX) == []


@pytest.mark.parametrize("tower", ["image", "text"])
def test_layers_round_within_the_context_alone(tower: str) -> None:
    names = ("small_mci", None) if tower == "image" else (None, "small_mct")
    model = small_model(*names, form="inference")
    given = np.random.default_rng(0).random((2, 64, 64, 3)).astype(np.float32) if tower == "image" else TOKENS[:2]

    def compute() -> np.ndarray:
        return keras.ops.convert_to_numpy(getattr(model, f"{tower}_encoder")(given))

    plain, weights = compute(), [each for each in weights_of(model) if each.kind == "dense"]
    with pytest.raises(KeyError), rounded_inputs(weights):
        rounded = compute()
        raise KeyError
    assert 1e-6 < np.abs(rounded - plain).max() < 0.1 * np.abs(plain).max()
    for weight in weights:  # each of them rounds, the one that pools first too
        with rounded_inputs([weight]):
            assert np.abs(compute() - plain).max() > 0, weight.name
    assert np.array_equal(compute(), plain)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="shares are measured by TensorFlow")
def test_shares_know_what_rounding_the_inputs_costs() -> None:
    model = small_model(None, "small_mct", form="inference")
    weights = [each for each in weights_of(model) if each.kind == "dense"]
    options = {each.name: _options(each) for each in weights}
    rows = TOKENS[:3].astype(np.int32)

    def encode(batch: Any) -> Any:
        return model.text_encoder(batch, training=False)

    features = keras.ops.convert_to_numpy(encode(rows))
    never_called = Linear(24, use_bias=False, name="never_called")
    never_called.build((None, 16))
    another = Weight("text_encoder/never_called/kernel", "dense", never_called, never_called.kernel, None, (1,))
    measured = measure_shares(encode, rows, features, weights, options, [*weights[1:], another])
    assert set(measured.inputs) == set(measured.products) == {each.name for each in weights[1:]}
    precisions = dict.fromkeys(options, PRECISIONS)
    alone, both = (measured.of(precisions, integers) for integers in (False, True))
    assert alone == measured.weights
    for weight in weights:
        more = {name: both[weight.name][name] - share for name, share in alone[weight.name].items()}
        assert more["float16"] == more["float32"] == 0
        assert more["int8"] == pytest.approx(more["int4"]) == pytest.approx(measured.inputs.get(weight.name, 0))
        if weight is not weights[0]:
            assert more["int8"] > 0
            size = int(np.prod(weight.variable.shape))
            assert measured.products[weight.name] % size == 0 and measured.products[weight.name] <= 77 * size
    assert set(measured.of({weights[1].name: ("int8",)}, True)[weights[1].name]) == {"int8"}


def _options(weight: Weight) -> dict[str, Option]:
    return {name: option(weight, name, {}) for name in PRECISIONS}
