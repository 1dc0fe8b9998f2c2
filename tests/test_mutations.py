"""What is broken on purpose makes the verification fail, and every tensor of every table matters.

Small towers with every part of the real ones stand on both sides: PyTorch's, loaded strictly from a small checkpoint,
and Keras', loaded from the same one by the tables, broken.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest

from mobileclip_keras.converters.conversion.mapping import load_into, read_from
from mobileclip_keras.keras_models import kernels
from mobileclip_keras.keras_models.architectures import IMAGE_TOWERS, TEXT_TOWERS
from mobileclip_keras.keras_models.blocks import attention, blocks, branches, feed_forward
from mobileclip_keras.keras_models.layers import convolution, normalization
from mobileclip_keras.keras_models.layers.initializers import to_be_overwritten
from mobileclip_keras.keras_models.models.image_encoder import MobileClipImageEncoder
from mobileclip_keras.keras_models.models.model import MobileClipModel
from mobileclip_keras.keras_models.models.text_encoder import MobileClipTextEncoder
from mobileclip_keras.keras_models.towers import text, vit
from mobileclip_keras.verify.compare import Features, check_rounding
from mobileclip_keras.verify.data.weight_kinds import KINDS
from mobileclip_keras.verify.verification import Verification
from mobileclip_keras.weight_maps.generate import EMBED_DIMS
from mobileclip_keras.weight_maps.table import Row

from .small import SMALL_IMAGE_TOWERS, SMALL_TEXT_TOWERS, randomise, small_model
from .small_verified import (
    MCI,
    MCI_LAYER,
    PAIRS,
    VIT,
    VIT_CLIP,
    Pair,
    build,
    is_equal_in_float64,
    rows_of,
    tensors_of,
    verdict,
)
from .support import LARGE_TOWERS, TOKENS, checkpoint, images, marked

pytestmark = pytest.mark.usefixtures("small_towers", "quickly_verified")


def every_kind(tests: Iterable[str]) -> Iterator[Any]:
    """Each test with each kind of weights. A commit runs the uniform ones on TensorFlow, `make nightly` the rest."""
    for kind in KINDS:
        often = kind == "uniform" and keras.backend.backend() == "tensorflow"
        for test in tests:
            yield pytest.param(test, kind, id=f"{test}, {kind}", marks=() if often else pytest.mark.nightly)


def assert_refused(pair: Pair, model: MobileClipModel, kind: str) -> None:
    """The whole verification of uniform weights. Of other kinds, whose rounding may hide it, float64 alone."""
    if kind != "uniform":
        assert not is_equal_in_float64(pair, model, kind)
        return
    verification = verdict(pair, model, ("train",), kind)
    assert not verification.exact[0].passed and not verification.rounding[0].passed
    assert not verification.passed and verification.to_json()["passed"] is False


# --- Unbroken ---


@pytest.mark.nightly
@pytest.mark.backend
@pytest.mark.torch
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_what_is_not_broken_is_equal_in_float64(pair: Pair, kind: str) -> None:
    assert is_equal_in_float64(pair, build(pair, rows_of(pair), kind), kind)


@pytest.mark.compiles
@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_what_is_not_broken_passes(pair: Pair) -> None:
    verification = verdict(pair, build(pair, rows_of(pair)), ("inference", "train"))
    assert verification.passed and verification.to_json()["passed"] is True
    assert len(verification.exact) == 2 and {check.form for check in verification.rounding} == {"inference", "train"}


# --- Rows ---


def find(rows: tuple[Row, ...], end: str) -> int:
    (found,) = (i for i, row in enumerate_rows(rows) if row.target.endswith(end))
    return found


def enumerate_rows(rows: tuple[Row, ...]) -> Iterator[tuple[int, Row]]:
    return zip(range(len(rows)), rows, strict=True)


def transposed(end: str, rows: tuple[Row, ...]) -> tuple[Row, ...]:
    at = find(rows, end)
    source, target = rows[at].axes.split(" -> ")
    flipped = f"{source} -> {' '.join(reversed(target.split()))}"
    assert rows[at].target_shape == rows[at].target_shape[::-1], "only a square matrix passes the audit"
    return (*rows[:at], replace(rows[at], axes=flipped), *rows[at + 1 :])


def swapped(first: str, second: str, rows: tuple[Row, ...]) -> tuple[Row, ...]:
    one, other = find(rows, first), find(rows, second)
    changed = list(rows)
    changed[one] = replace(rows[one], target=rows[other].target)
    changed[other] = replace(rows[other], target=rows[one].target)
    return tuple(changed)


BROKEN_ROWS = {
    "text projection transposed": (MCI, partial(transposed, "text_encoder/projection/kernel")),
    "attention output transposed": (MCI, partial(transposed, "stages_3/blocks_0/token_mixer/proj/kernel")),
    "depthwise kernel transposed": (
        MCI,
        lambda rows: (
            *rows[: (at := find(rows, "stages_0/blocks_0/mlp/conv/conv/kernel"))],
            replace(rows[at], axes="(c m) 1 h w -> w h c m"),
            *rows[at + 1 :],
        ),
    ),
    "gamma for beta": (
        MCI,
        partial(swapped, "stages_1/blocks_0/mlp/conv/bn/gamma", "stages_1/blocks_0/mlp/conv/bn/beta"),
    ),
    "mean for beta": (
        VIT,
        partial(swapped, "patch_embed_0/bn/moving_mean", "patch_embed_0/bn/beta"),
    ),
    "two layer scales": (
        MCI,
        partial(swapped, "stages_3/blocks_0/layer_scale_1/gamma", "stages_3/blocks_0/layer_scale_2/gamma"),
    ),
    "two norms": (
        VIT,
        partial(
            swapped,
            "text_encoder/backbone/blocks_0/norm1/gamma",
            "text_encoder/backbone/blocks_0/norm2/gamma",
        ),
    ),
}
BROKEN_ROWS["layer norms of two stages"] = (
    MCI_LAYER,
    partial(swapped, "stages_3/blocks_0/norm/gamma", "stages_4/blocks_0/norm/gamma"),
)
BROKEN_ROWS["gamma for beta of the layer norm in an mci tower"] = (
    MCI_LAYER,
    partial(swapped, "stages_4/blocks_0/norm/gamma", "stages_4/blocks_0/norm/beta"),
)
BROKEN_ROWS["norm before the first block"] = (
    VIT_CLIP,
    partial(swapped, "norm_pre/gamma", "norm_pre/beta"),
)
BROKEN_ROWS["two blocks"] = (
    VIT,
    partial(
        swapped,
        "image_encoder/backbone/blocks_0/mlp/fc1/kernel",
        "image_encoder/backbone/blocks_1/mlp/fc1/kernel",
    ),
)


@pytest.mark.backend
@pytest.mark.torch
@pytest.mark.parametrize(("name", "kind"), list(every_kind(BROKEN_ROWS)))
def test_a_broken_row_fails(name: str, kind: str) -> None:
    pair, broken = BROKEN_ROWS[name]
    assert_refused(pair, build(pair, broken(rows_of(pair)), kind), kind)


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_a_dropped_row_is_refused_before_anything_is_computed(pair: Pair) -> None:
    rows = rows_of(pair)
    with pytest.raises(Exception, match="1 tensor unexpected in the checkpoint"):
        build(pair, rows[:-1])


# --- Formulas ---


def tanh_gelu(inputs: Any) -> Any:
    return keras.ops.gelu(inputs, approximate=True)


def quick_gelu(inputs: Any) -> Any:
    return inputs * keras.ops.sigmoid(1.702 * inputs)


def relu(inputs: Any) -> Any:
    return keras.ops.relu(inputs)


def break_kernel(patch: pytest.MonkeyPatch, module: Any, name: str, wrong: Callable) -> None:
    """Gives one file of layers another kernel. The others keep theirs."""
    patch.setattr(module, "kernels", SimpleNamespace(**{**vars(module.kernels), name: wrong}))


def break_gelu(wrong: Callable, where: tuple, patch: pytest.MonkeyPatch) -> dict:
    for module in where:
        break_kernel(patch, module, "gelu", wrong)
    return {}


def break_batch_norm_epsilon(patch: pytest.MonkeyPatch) -> dict:
    patch.setattr(normalization, "BATCH_NORM_EPSILON", 1e-6)
    return {}


def break_mask(patch: pytest.MonkeyPatch) -> dict:
    call = attention.SelfAttention.call

    def without_mask(self: Any, inputs: Any, **options):
        self.causal = False
        return call(self, inputs, **options)

    patch.setattr(attention.SelfAttention, "call", without_mask)
    return {}


def break_mask_of_the_last_block(patch: pytest.MonkeyPatch) -> dict:
    """The one position that it computes sees also what comes after."""

    def without_mask(*arguments: Any) -> Any:
        return kernels.attention_at(*arguments[:-1], False)

    break_kernel(patch, attention, "attention_at", without_mask)
    return {}


def break_text_epsilon(patch: pytest.MonkeyPatch) -> dict:
    for module in (blocks, text):
        patch.setattr(module, "LayerNorm", lambda **options: normalization.LayerNorm(**{**options, "epsilon": 1e-6}))
    return {}


def break_order_of_branches(patch: pytest.MonkeyPatch) -> dict:
    """Every strided convolution sees one pixel further, as Keras' own "same" padding would."""

    def shifted(inputs: Any, *others: Any, strides: int, **options: Any) -> Any:
        seen = keras.ops.roll(inputs, 1, axis=1) if strides > 1 else inputs
        return kernels.convolve(seen, *others, strides=strides, **options)

    break_kernel(patch, convolution, "convolve", shifted)
    return {}


BROKEN_FORMULAS = {
    "GELU by tanh in the mci tower": (MCI, partial(break_gelu, tanh_gelu, (branches,))),
    "GELU by tanh in feed-forwards": (VIT, partial(break_gelu, tanh_gelu, (feed_forward,))),
    "GELU by tanh in the patch embedding": (VIT, partial(break_gelu, tanh_gelu, (vit,))),
    "quick GELU": (VIT, partial(break_gelu, quick_gelu, (feed_forward,))),
    "ReLU": (MCI, partial(break_gelu, relu, (branches,))),
    "batch norm epsilon": (MCI, break_batch_norm_epsilon),
    "layer norm epsilon of the text tower": (VIT, break_text_epsilon),
    "layer norm epsilon of the image tower": (VIT, lambda patch: {"norm_epsilon": 1e-6}),
    "stem padding": (VIT, lambda patch: {"stem_padding": 0}),
    "layer norm epsilon of the pre-norm ViT": (VIT_CLIP, lambda patch: {"norm_epsilon": 1e-6}),
    "GELU by tanh in the pre-norm ViT": (VIT_CLIP, partial(break_gelu, tanh_gelu, (feed_forward,))),
    "strided padding with five stages": (MCI_LAYER, break_order_of_branches),
    "causal mask": (VIT, break_mask),
    "causal mask of the last block": (VIT, break_mask_of_the_last_block),
    "strided padding": (MCI, break_order_of_branches),
}


@pytest.mark.backend
@pytest.mark.torch
@pytest.mark.parametrize(("name", "kind"), list(every_kind(BROKEN_FORMULAS)))
def test_a_broken_formula_fails(name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pair, broken = BROKEN_FORMULAS[name]
    options = broken(monkeypatch)
    assert_refused(pair, build(pair, rows_of(pair), kind, **options), kind)


def test_a_nan_fails() -> None:
    model = build(MCI, rows_of(MCI))
    model.image_encoder.projection.kernel.assign(keras.ops.full((64, 16), float("nan")))
    assert not verdict(MCI, model, ("train",)).passed


def test_nothing_compared_is_not_a_pass() -> None:
    assert not Verification("mobileclip_s0", "tensorflow").passed


def of_length_1(features: np.ndarray) -> np.ndarray:
    return features / np.linalg.norm(features, axis=-1, keepdims=True)


@pytest.mark.parametrize("times, passes", [(1.0, True), (1.4, True), (1.6, False)])
def test_one_tower_alone_is_judged_by_its_errors_in_every_direction(times: float, passes: bool) -> None:
    """Though its features are alike, and their errors too small to show in how alike."""
    random = np.random.default_rng(0)
    features = 10 + random.normal(size=(16, 512))
    exact, torch32, keras32 = (
        Features(of_length_1(features + 1e-6 * size * random.normal(size=features.shape)), None)
        for size in (0, 1, times)
    )
    check = check_rounding("train", "encode", keras32, [torch32], exact)
    assert abs(check.rms_ratio / times - 1) < 0.05
    assert check.passed == passes


@pytest.mark.parametrize("gap, passes", [(5e-6, True), (2e-5, False)])
def test_another_best_match_fails_but_where_two_are_equally_good(gap: float, passes: bool) -> None:
    """One text, two images that differ in their logit by `gap`; Keras takes the other one for the better."""

    def made(swapped: float) -> Features:
        angles = np.array([0.5 + swapped, 0.5 + gap / 100 / np.sin(0.5)])
        return Features(np.stack([np.cos(angles), np.sin(angles)], axis=1), np.array([[1.0, 0.0]]))

    exact, keras32, torch32 = made(0), made(2 * gap / 100 / np.sin(0.5)), made(-3 * gap / 100)
    check = check_rounding("train", "encode", keras32, [torch32], exact)
    assert exact.logits().argmax(0) != keras32.logits().argmax(0)
    assert check.top1_differences == (0 if passes else 1)


# --- Every tensor matters ---


def gradients(encoder: keras.Model, inputs: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """How a random sum of the features changes with each floating-point variable, running statistics included."""
    import tensorflow as tf

    floats = [variable for variable in encoder.weights if variable.dtype == "float64"]
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        for variable in floats:
            tape.watch(variable.value)
        features = encoder(tf.constant(inputs), training=False)
        directions = np.random.default_rng(0).normal(size=tuple(features.shape))
        total = tf.reduce_sum(features * directions)
    found = tape.gradient(total, [variable.value for variable in floats])
    for variable, gradient in zip(floats, found, strict=True):
        yield variable.path, None if gradient is None else np.asarray(tf.convert_to_tensor(gradient))


def check_every_variable_matters(encoder: keras.Model, inputs: np.ndarray) -> None:
    without = [
        path
        for path, gradient in gradients(encoder, inputs)
        if gradient is None or not np.isfinite(gradient).all() or np.abs(gradient).max() < 1e-9
    ]
    assert not without
    integers = {variable.path.rsplit("/", 1)[1] for variable in encoder.weights if "int" in variable.dtype}
    assert integers <= {"num_batches_tracked"}


@pytest.mark.parametrize("tower", SMALL_IMAGE_TOWERS)
def test_every_variable_of_a_small_image_tower_matters(tower: str) -> None:
    model = small_model(tower, None, "float64", projection_bias=True)
    size = SMALL_IMAGE_TOWERS[tower].image_size
    check_every_variable_matters(model.image_encoder, images(size, 1).astype(np.float64))


@pytest.mark.parametrize("tower", SMALL_TEXT_TOWERS)
def test_every_variable_of_a_small_text_tower_matters(tower: str) -> None:
    check_every_variable_matters(small_model(None, tower, "float64").text_encoder, TOKENS[:2])


@pytest.mark.nightly
@pytest.mark.real
@pytest.mark.parametrize("tower", marked(IMAGE_TOWERS, lambda tower: tower in LARGE_TOWERS))
def test_every_variable_of_an_image_tower_matters(tower: str) -> None:
    with to_be_overwritten():
        encoder = MobileClipImageEncoder(tower, EMBED_DIMS[tower], dtype="float64", projection_bias=True)
    randomise(MobileClipModel(image_encoder=encoder, dtype="float64"))
    size = 128 if tower.startswith("mci") else encoder.image_size
    check_every_variable_matters(encoder, images(size, 1).astype(np.float64))


@pytest.mark.nightly
@pytest.mark.real
@pytest.mark.parametrize("tower", TEXT_TOWERS)
def test_every_variable_of_a_text_tower_matters(tower: str) -> None:
    with to_be_overwritten():
        encoder = MobileClipTextEncoder(tower, EMBED_DIMS[tower], dtype="float64")
    randomise(MobileClipModel(text_encoder=encoder, dtype="float64"))
    check_every_variable_matters(encoder, TOKENS[:2])


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_every_tensor_converts_back_bit_for_bit_and_no_other_is_touched(pair: Pair) -> None:
    """Counters have no influence on outputs: that they matter shows on the way back."""
    rows, arrays = rows_of(pair), tensors_of(pair)
    model = build(pair, rows)
    back = read_from(model, rows)
    assert list(back) == list(arrays)
    for name, array in arrays.items():
        assert back[name].dtype == array.dtype and back[name].tobytes() == array.tobytes(), name
    counters = [row for row in rows if row.dtype == "int64"]
    assert bool(counters) == (pair != VIT_CLIP), "only a ViT with one convolution has no batch norm"
    for count, row in zip(range(len(counters)), counters, strict=True):
        arrays[row.source] = np.array(count, np.int64)
    load_into(model, checkpoint(arrays), rows)
    again = read_from(model, rows)
    assert [int(again[row.source]) for row in counters] == list(range(len(counters)))
