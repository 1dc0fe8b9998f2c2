"""Weights rounded to few levels: what `deploy/quantize` does to arrays, plans and features, without any runtime."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

from mobileclip_keras.converters.deploy.quantize import weights as weights_module
from mobileclip_keras.converters.deploy.quantize.compensation import compensated
from mobileclip_keras.converters.deploy.quantize.means import measuring, shift
from mobileclip_keras.converters.deploy.quantize.options import Option, option, precisions, uniform_plan
from mobileclip_keras.converters.deploy.quantize.ranking import Nearness, likely_errors, nearness
from mobileclip_keras.converters.deploy.quantize.recipes import candidates, weight_sets
from mobileclip_keras.converters.deploy.quantize.rounding import (
    how_stored,
    rounded,
    smallest_type,
    to_half,
    to_integers,
)
from mobileclip_keras.converters.deploy.quantize.search import plans_by_size, smallest_that_holds
from mobileclip_keras.converters.deploy.quantize.weights import Weight, described, weights_of
from mobileclip_keras.converters.deploy.runtimes.registry import RUNTIMES
from mobileclip_keras.keras_models.kernels.plain import group_of
from mobileclip_keras.keras_models.layers.dense import Linear, VectorLinear

from .small import small_model
from .support import TOKENS

pytestmark = pytest.mark.usefixtures("small_towers")

HEAVY = np.random.default_rng(0).standard_t(4, (3, 3, 64, 48)).astype(np.float32)


# --- Levels ---


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("channels", [(3,), (2, 3), (0,)])
def test_rounded_numbers_are_few_levels_of_each_channel(bits: int, channels: tuple[int, ...]) -> None:
    array = HEAVY[..., :8] if channels == (2, 3) else HEAVY
    array = np.repeat(array, 100, axis=1) if channels == (2, 3) else array
    made = rounded(array, channels, bits)
    integers, scales = to_integers(made, channels, bits)
    others = tuple(axis for axis in range(4) if axis not in channels)
    assert made.shape == array.shape and integers.dtype == np.int8
    assert (np.abs(integers).max(others) == 2 ** (bits - 1) - 1).all()  # so a file reads the scale off the largest
    shape = [size if axis in channels else 1 for axis, size in enumerate(array.shape)]
    assert np.allclose(integers * scales.reshape(shape), made, rtol=1e-6)
    assert smallest_type(made, channels) == f"int{bits}"
    assert smallest_type(array, channels) == "float32"


def test_a_file_finds_what_scales_were_given() -> None:
    assert how_stored(rounded(HEAVY, (3,), 8), (3,)) == ("int8", (3,))
    assert how_stored(rounded(HEAVY, (), 8), (3,)) == ("int8", ())
    assert how_stored(rounded(HEAVY, (), 4), (3,), ("int8",))[0] == "float32", "no integers of 4 bits there"
    assert how_stored(to_half(HEAVY), (3,)) == ("float16", (3,)) and how_stored(HEAVY, (3,)) == ("float32", (3,))


def test_a_table_of_narrow_rows_has_one_scale_and_a_byte_for_each() -> None:
    def table(width: int) -> Weight:
        layer = keras.layers.Embedding(200, width, name="words")
        layer.build()
        return Weight("text_encoder/words/embeddings", "embedding", layer, layer.embeddings, None, described(layer)[2])

    assert (table(64).channels, table(512).channels) == ((), (0,))
    assert option(table(64), "int8", {}).bytes == 200 * 64 + 200
    assert option(table(512), "int8", {}).bytes == 200 * 512 + 4 * 200


def test_clipping_lessens_the_error_and_never_adds_to_it() -> None:
    error, plain = {}, {}
    for bits in (4, 8):
        largest = np.abs(HEAVY).max((0, 1, 2))
        scale = largest / (2 ** (bits - 1) - 1)
        plain[bits] = np.square(np.rint(HEAVY / scale) * scale - HEAVY).sum((0, 1, 2))
        error[bits] = np.square(rounded(HEAVY, (3,), bits) - HEAVY).sum((0, 1, 2))
        assert (error[bits] <= plain[bits] * (1 + 1e-5)).all()
    assert error[4].sum() < 0.7 * plain[4].sum()
    uniform = np.random.default_rng(0).uniform(-1, 1, (1000, 4)).astype(np.float32)
    assert np.abs(rounded(uniform, (1,), 8) - uniform).max() <= 0.5001 / 127  # nothing to clip


def test_channels_without_numbers_stay_zero() -> None:
    array = HEAVY.copy()
    array[..., 5] = 0
    assert not rounded(array, (3,), 8)[..., 5].any() and np.isfinite(rounded(array, (3,), 8)).all()


def test_half_precision_stays_in_its_range() -> None:
    array = np.array([1e6, -1e6, 1.0, 1 / 3] * 300, np.float32)
    assert to_half(array)[:3].tolist() == [65504, -65504, 1]
    assert smallest_type(to_half(array), (0,), ()) == "float16"
    assert smallest_type(np.zeros(10, np.float32), (0,)) == "float32"  # too small to gain


# --- Biases ---


def model_and_rows(tower: str) -> tuple[Any, np.ndarray, Callable[[], np.ndarray]]:
    model = (
        small_model("small_mci", None, form="inference")
        if tower == "image"
        else small_model(None, "small_mct", form="inference")
    )
    chance = np.random.default_rng(0)
    if tower == "image":
        rows = chance.random((4, 64, 64, 3)).astype(np.float32)
        return model, rows, lambda: keras.ops.convert_to_numpy(model.image_encoder(rows))
    model = small_model(None, "small_mct", form="inference")
    tokens = np.zeros((4, 77), np.int32)
    tokens[:, :6] = chance.integers(1, 49000, (4, 6))
    tokens[:, 6] = 49407
    return model, tokens, lambda: keras.ops.convert_to_numpy(model.text_encoder(tokens))


@pytest.mark.parametrize("tower", ["image", "text"])
def test_corrected_biases_keep_the_means_of_layers(tower: str) -> None:
    model, _, compute = model_and_rows(tower)
    weights = weights_of(model)
    with measuring(weights) as means:
        plain = compute()
    assert {weight.kind for weight in weights} >= ({"convolution", "dense"} if tower == "image" else {"dense"})
    seen: dict[str, np.ndarray] = {}
    watched = [weight for weight in weights if weight.name in means and weight.bias is not None]
    assert len(watched) >= 3
    for weight in watched:
        change = np.random.default_rng(1).normal(0, 0.1, weight.variable.shape).astype(np.float32)
        moved = shift(weight, change, means)
        right = weight.layer.call

        def call(inputs: Any, right: Any = right, weight: Any = weight, change: Any = change, **more: Any) -> Any:
            kernel = weight.value()
            weight.variable.assign(kernel + change)
            activation, weight.layer.activation = getattr(weight.layer, "activation", None), None
            shifted = keras.ops.convert_to_numpy(right(inputs, **more))
            weight.variable.assign(kernel)
            plain = keras.ops.convert_to_numpy(right(inputs, **more))
            weight.layer.activation = activation
            seen[weight.name] = (shifted - plain).mean(tuple(range(shifted.ndim - 1)))
            return right(inputs, **more)

        weight.layer.call = call
        again = compute()
        del weight.layer.call
        assert np.array_equal(again, plain)
        assert np.allclose(seen[weight.name], moved, atol=2e-5 + 1e-3 * np.abs(moved).max()), weight.name


def test_weights_make_up_for_the_error_of_others() -> None:
    """On inputs that depend on each other, as a layer's do."""
    chance = np.random.default_rng(0)
    inputs = chance.normal(size=(400, 24)) @ chance.normal(size=(24, 160)) + 0.05 * chance.normal(size=(400, 160)) + 1
    inputs = inputs.astype(np.float32)
    kernel = chance.standard_t(4, (160, 40)).astype(np.float32)
    unseen, moment = inputs[::2], inputs[1::2].T @ inputs[1::2]
    for bits in (4, 8):
        made = compensated(kernel, moment, bits)
        errors = [np.square(unseen @ (each - kernel)).mean() for each in (made, rounded(kernel, (1,), bits))]
        assert errors[0] < 0.3 * errors[1]
        assert smallest_type(made, (1,)) == f"int{bits}"


def test_a_layer_whose_inputs_were_measured_is_rounded_by_them() -> None:
    chance = np.random.default_rng(0)
    inputs = chance.normal(size=(400, 24)) @ chance.normal(size=(24, 160)) + 0.05 * chance.normal(size=(400, 160))
    layer = Linear(40, use_bias=False, name="fc1")
    layer.build((None, 160))
    layer.kernel.assign(chance.standard_t(4, (160, 40)))
    weight = Weight("text_encoder/fc1/kernel", "dense", layer, layer.kernel, None, (1,))
    with measuring([weight]) as means:
        layer(inputs[::2].astype(np.float32))
    for precision in ("int4", "int8"):
        made, plain = (option(weight, precision, found).kernel for found in (means, {}))
        errors = [np.square(inputs[1::2] @ (each - weight.value())).mean() for each in (made, plain)]
        assert errors[0] < 0.3 * errors[1], precision


@pytest.mark.parametrize(
    ("precision", "numbers", "scales"), [("float32", 4, 0), ("float16", 2, 0), ("int8", 1, 4), ("int4", 0.5, 4)]
)
def test_bytes_are_those_of_the_numbers_and_of_their_scales(precision: str, numbers: float, scales: int) -> None:
    """Of each output, and of each group of inputs that a layer takes apart."""
    for groups, layer in ((1, Linear(24, name="fc1")), (3, VectorLinear(24, name="fc1"))):
        layer.build((None, 192))
        group = group_of(192) if groups > 1 else None
        weight = Weight("text_encoder/fc1/kernel", "dense", layer, layer.kernel, None, (1,), group)
        assert option(weight, precision, {}).bytes == 192 * 24 * numbers + groups * 24 * scales


def test_measuring_leaves_the_layers_as_they_were() -> None:
    model, _, compute = model_and_rows("text")
    with pytest.raises(KeyError), measuring(weights_of(model)):
        compute()
        raise KeyError
    layers = [layer for weight in weights_of(model) for layer in (weight.layer, weight.attention)]
    assert None in layers and not any("call" in vars(layer) for layer in layers if layer is not None)


@pytest.mark.parametrize("tower", ["small_transformer_causal", "small_vit"])
def test_a_layer_that_attention_does_not_call_is_measured(tower: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last block computes one position, with parts of the packed kernel."""
    monkeypatch.setattr(weights_module, "SMALLEST", 64)
    image = tower == "small_vit"
    model = small_model(*(tower, None) if image else (None, tower), form="inference")
    chance = np.random.default_rng(0)
    rows: Any = chance.random((3, 64, 64, 3)).astype(np.float32) if image else TOKENS[:3].astype(np.int32)
    encoder = model.image_encoder if image else model.text_encoder
    last, before = encoder.backbone.blocks[-1], f"block_{len(encoder.backbone.blocks) - 2}"
    weights = [each for each in weights_of(model) if each.kind == "dense"]
    (packed,) = (each for each in weights if each.layer is last.attn.qkv)
    states = keras.ops.convert_to_numpy(last.norm1(encoder.backbone.stage_outputs(rows)[before]))
    with measuring(weights) as means:
        features = keras.ops.convert_to_numpy(encoder(rows))
    assert {each.name for each in weights} == means.keys()
    flat = states.reshape(-1, states.shape[-1])
    assert np.allclose(means[packed.name].mean, flat.mean(0), atol=1e-5)
    assert np.allclose(means[packed.name].moment, flat.T @ flat, rtol=1e-3, atol=1e-3)
    assert np.array_equal(keras.ops.convert_to_numpy(encoder(rows)), features)


# --- Plans ---


def made_up(name: str, shares: tuple[float, ...]) -> tuple[dict[str, Option], dict[str, float]]:
    sizes = {"int4": 50.0, "int8": 100.0, "float16": 200.0, "float32": 400.0}
    nothing = np.zeros(0)
    return {key: Option(nothing, None, size) for key, size in sizes.items()}, dict(zip(sizes, shares, strict=True))


def test_plans_take_first_what_costs_least_for_each_byte() -> None:
    kinds = {"calm": (0.001, 0.0005, 0.0, 0.0), "touchy": (100.0, 1.0, 0.001, 0.0)}
    both = {name: made_up(name, shares) for name, shares in kinds.items()}
    options, shares = ({name: pair[place] for name, pair in both.items()} for place in (0, 1))
    plans = plans_by_size(options, shares)
    assert plans[0] == {"calm": "float32", "touchy": "float32"}
    assert plans[-1] == {"calm": "int4", "touchy": "int4"}
    assert {"calm": "int4", "touchy": "float16"} in plans
    sizes = [sum(options[name][each].bytes for name, each in plan.items()) for plan in plans]
    assert sizes == sorted(sizes, reverse=True)


def test_the_smallest_plan_that_holds_is_found_with_few_tries() -> None:
    plans = [{"layer": str(place)} for place in range(300)]
    tried = []

    def holds(plan: Any) -> bool:
        tried.append(plan)
        return int(plan["layer"]) <= 217

    assert smallest_that_holds(plans, holds) == {"layer": "217"} and len(tried) <= 9
    assert smallest_that_holds(plans, lambda plan: False) == plans[0]


def test_a_small_step_is_taken_behind_one_that_is_too_large() -> None:
    """Each layer's error when it is small; together they may have 10."""
    errors = {"a": 4, "large": 7, "b": 5, "c": 3, "d": 1}
    plans = [dict.fromkeys(errors, "float32")]
    for name in errors:
        plans.append({**plans[-1], name: "int8"})

    def holds(plan: Any) -> bool:
        return sum(errors[name] for name, precision in plan.items() if precision == "int8") <= 10

    def small(more: int) -> set[str]:
        return {name for name, each in smallest_that_holds(plans, holds, more).items() if each == "int8"}

    assert small(0) == {"a"} and small(1) == {"a", "b"} and small(2) == {"a", "b"} and small(3) == {"a", "b", "d"}


def test_a_layer_that_stayed_large_gets_no_step_behind_that() -> None:
    plans = [{"a": "float32"}, {"a": "int8"}, {"a": "int4"}]
    assert smallest_that_holds(plans, lambda plan: plan["a"] != "int8", 2) == {"a": "float32"}


def test_weights_of_few_numbers_get_no_int4() -> None:
    weights = weights_of(small_model("small_mci", "small_mct", form="inference"))
    able = {weight.kind: precisions(weight, RUNTIMES["onnx"]) for weight in weights}
    assert "int4" not in able.get("depthwise", ()) and "int4" in able["dense"] and "int4" in able["embedding"]
    assert set(uniform_plan(weights, "int4", RUNTIMES["openvino"]).values()) == {"int8"}
    table = next(weight for weight in weights if weight.kind == "embedding")
    assert option(table, "int8", {}).bytes < 0.5 * option(table, "float32", {}).bytes


def test_weights_that_are_used_in_slices_have_scales_for_each() -> None:
    """A file holds the slices apart, and reads the scale of each off its largest number."""
    layer = VectorLinear(24, use_bias=False, name="projection")
    layer.build((None, 192))
    layer.kernel.assign(np.random.default_rng(0).standard_t(4, (192, 24)))
    weight = Weight("text_encoder/projection/kernel", "dense", layer, layer.kernel, None, (1,), group_of(192))
    seen = np.random.default_rng(1).normal(size=(300, 192)).astype(np.float32)
    with measuring([weight]) as means:
        layer(seen)
    for found in ({}, means):
        kernel = option(weight, "int8", found).kernel
        assert [smallest_type(kernel[start : start + 64], (1,)) for start in (0, 64, 128)] == ["int8"] * 3
    (table,) = [
        each for each in weights_of(small_model(None, "small_mct", form="inference")) if each.kind == "embedding"
    ]
    assert table.group is None


def test_depthwise_kernels_that_are_computed_in_parts_have_scales_for_each() -> None:
    """LiteRT's files hold the parts apart; those of other runtimes hold the whole."""
    model = small_model("small_mci", None, form="inference")
    in_parts, whole = (
        {each.name: each for each in weights_of(model, RUNTIMES[name].formulation) if each.kind == "depthwise"}
        for name in ("litert", "onnx")
    )
    counts = set()
    for name, weight in in_parts.items():
        strides, (size, _) = weight.layer.strides, weight.layer.kernel_size
        counts.add((size, strides, len(weight.parts)))
        weight.variable.assign(np.random.default_rng(0).standard_t(4, weight.variable.shape))
        channels = int(np.prod(weight.variable.shape[2:]))
        made, other = option(weight, "int8", {}), option(whole[name], "int8", {})
        assert made.bytes == weight.variable.shape[0] ** 2 * channels + 4 * channels * (len(weight.parts) or 1)
        assert whole[name].parts == () and other.bytes == size**2 * channels + 4 * channels
        if weight.parts:
            assert [smallest_type(made.kernel[part], (2, 3)) for part in weight.parts] == ["int8"] * len(weight.parts)
            assert np.square(made.kernel - weight.value()).sum() < np.square(other.kernel - weight.value()).sum()
        else:
            assert np.array_equal(made.kernel, other.kernel)
    assert counts == {(7, 1, 3), (7, 2, 0)}  # one that makes images smaller is computed whole


def test_what_is_tried() -> None:
    able = ("float32", "fp16", "int8-weights", "auto")
    assert candidates("auto", able) == ["float32", "fp16", "int8-weights", "mixed"]
    assert candidates("auto", (*able, "int8"))[-2:] == ["mixed", "mixed-small"]
    assert candidates("int8", able) == ["float32", "int8"]
    assert weight_sets("auto", able) == ["int8", "mixed"] and weight_sets("fp16", able) == []


# --- Features ---


def test_cosines_are_of_what_tells_features_apart() -> None:
    chance = np.random.default_rng(0)
    alike = 10 + chance.normal(0, 0.1, (8, 16))
    noisy = alike + chance.normal(0, 0.05, alike.shape)
    near = nearness(noisy, alike, None)
    assert near.smallest_cosine < 0.95  # plain cosines are above 0.9999
    assert nearness(alike, alike, None) == Nearness(pytest.approx(1), 1.0)
    assert nearness(alike[::-1], alike, None).agreement < 0.5
    assert not nearness(np.full_like(alike, np.nan), alike, None).holds(0.0)
    assert nearness(alike[:1], alike[:1], None).holds(0.999)


def test_matches_within_a_tower_are_of_what_differs() -> None:
    """All rows point nearly one way, so that rounding decides between plain products."""
    rng = np.random.default_rng(0)
    apart = rng.normal(size=(12, 32)).astype("float32") / 32
    alike = apart + np.eye(32, dtype="float32")[0] * 10
    noisy = alike + rng.normal(0, 0.002, alike.shape).astype("float32")

    def best(features: np.ndarray) -> np.ndarray:
        unit = features.astype("float64") / np.linalg.norm(features.astype("float64"), axis=-1, keepdims=True)
        scores = unit @ unit.T
        np.fill_diagonal(scores, -np.inf)
        return scores.argmax(1)

    assert (best(noisy) != best(alike)).any()
    assert nearness(noisy, alike, None).agreement == 1.0


@pytest.mark.parametrize(("apart", "kept"), [(0.01, True), (0.5, False)])
def test_of_two_rows_that_are_as_near_either_will_do(apart: float, kept: bool) -> None:
    """Row 0 lies between rows 1 and 2, a little nearer to row 1, and then to row 2."""
    eye = np.eye(8)
    theirs = np.stack([eye[0] + apart * 0.2 * eye[1], eye[0] + apart * eye[1], eye[0] - apart * eye[1], *-eye[2:]])
    ours = theirs.copy()
    ours[0] = eye[0] - apart * 0.2 * eye[1]
    assert nearness(ours, theirs, None).agreement == (1.0 if kept else pytest.approx(8 / 9))
    assert nearness(ours[:1], theirs[:1], theirs[1:]).agreement == 0.0, "between towers, the best is the best"


def test_the_next_way_to_round_is_seldom_worse_than_what_is_likely() -> None:
    """Four ways are known, and their spread is a part of each row's own error."""
    chance = np.random.default_rng(0)
    own = chance.uniform(1, 10, (2000, 1, 16))
    errors = own * (1 + 0.2 * chance.normal(size=(2000, 5, 16)))
    above = np.mean([each[4] > likely_errors(each[:4]) for each in errors])
    # 1.4 times the mean of four has a standard deviation of 0.14, and 0.4 is 1.64 times that of the difference.
    assert abs(above - 0.0505) < 0.005
    assert np.array_equal(likely_errors(np.zeros((4, 2))), np.zeros(2))
    assert np.allclose(likely_errors(np.array([[1.0, 3.0], [1.0, 3.0]])), [1, 3])
