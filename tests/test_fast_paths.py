"""The ways of computing that are chosen for speed give what the plain ones give, and its gradients."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

from mobileclip_keras.keras_models import kernels
from mobileclip_keras.keras_models.architectures import FORMS
from mobileclip_keras.keras_models.kernels import float64_enabled, memory
from mobileclip_keras.keras_models.layers.attention import SelfAttention
from mobileclip_keras.keras_models.layers.blocks import TransformerBlock
from mobileclip_keras.keras_models.layers.convolution import Convolution
from mobileclip_keras.keras_models.layers.dense import Linear, VectorLinear
from mobileclip_keras.keras_models.layers.normalization import BatchNorm, LayerNorm

from .small import SMALL_TEXT_TOWERS, small_model
from .support import error

pytestmark = [pytest.mark.backend, pytest.mark.usefixtures("small_towers")]

RANDOM = np.random.default_rng(0)
EXACT = 1e-12


def apply(layer: Callable[[Any], Any], inputs: np.ndarray) -> np.ndarray:
    """What a layer makes of a batch; compiled on JAX, as the layers of a tower are."""
    run = layer
    if keras.backend.backend() == "jax":
        import jax

        run = jax.jit(layer)
    return keras.ops.convert_to_numpy(run(keras.ops.convert_to_tensor(inputs)))


def rms(array: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(array))))


def windows(images: np.ndarray, kernel: np.ndarray, strides: int, rows: int, columns: int) -> np.ndarray:
    """What a kernel sees at each place: (batch, height, width, channels, kernel height, kernel width)."""
    padded = np.pad(images, [(0, 0), (rows, rows), (columns, columns), (0, 0)])
    return np.lib.stride_tricks.sliding_window_view(padded, kernel.shape[:2], axis=(1, 2))[:, ::strides, ::strides]


def plain_depthwise(images: np.ndarray, kernel: np.ndarray, *how: int) -> np.ndarray:
    """A depthwise convolution by its definition."""
    outputs = np.einsum("byxchw,hwcm->byxcm", windows(images, kernel, *how), kernel)
    return outputs.reshape(*outputs.shape[:3], -1)


@pytest.mark.parametrize("multiplier", [1, 2])
@pytest.mark.parametrize(
    "kernel_size, strides, size",
    [((7, 7), 1, (8, 8)), ((7, 7), 2, (9, 12)), ((3, 3), 2, (6, 7)), ((1, 11), 1, (1, 77))],
)
def test_depthwise_convolution(
    kernel_size: tuple[int, int], strides: int, size: tuple[int, int], multiplier: int
) -> None:
    images = RANDOM.normal(size=(2, *size, 5))
    with float64_enabled():
        layer = Convolution(5 * multiplier, kernel_size, strides, depthwise=True, use_bias=True, dtype="float64")
        layer.build(images.shape)
        kernel, bias = RANDOM.normal(size=layer.kernel.shape), RANDOM.normal(size=layer.bias.shape)
        layer.set_weights([kernel, bias])
        eager = keras.ops.convert_to_numpy(layer(keras.ops.convert_to_tensor(images)))
        compiled = apply(layer, images)
    expected = plain_depthwise(images, kernel, strides, kernel_size[0] // 2, kernel_size[1] // 2) + bias
    assert layer.compute_output_shape(images.shape) == expected.shape
    for made in (eager, compiled):
        assert error(made, expected) < EXACT


@pytest.mark.parametrize("use_bias", [False, True])
@pytest.mark.parametrize(
    "kernel_size, strides, padding", [((3, 3), 2, 1), ((3, 3), 1, 0), ((1, 1), 1, 0), ((4, 4), 4, 1)]
)
def test_dense_convolution(kernel_size: tuple[int, int], strides: int, padding: int, use_bias: bool) -> None:
    images = RANDOM.normal(size=(2, 9, 11, 3))
    with float64_enabled():
        layer = Convolution(6, kernel_size, strides, padding, use_bias=use_bias, dtype="float64")
        layer.build(images.shape)
        kernel, bias = RANDOM.normal(size=layer.kernel.shape), RANDOM.normal(size=6)
        layer.set_weights([kernel, bias] if use_bias else [kernel])
        made = apply(layer, images)
    expected = np.einsum("byxchw,hwcf->byxf", windows(images, kernel, strides, padding, padding), kernel)
    assert error(made, expected + bias if use_bias else expected) < EXACT


@pytest.mark.parametrize("length", [6, 512, 1100])  # one sum, and five
def test_dense_layer(length: int) -> None:
    inputs = RANDOM.normal(size=(2, 3, length))
    with float64_enabled():
        layer = Linear(7, dtype="float64")
        layer.build(inputs.shape)
        kernel, bias = RANDOM.normal(size=(length, 7)), RANDOM.normal(size=7)
        layer.set_weights([kernel, bias])
        assert error(apply(layer, inputs), inputs @ kernel + bias) < EXACT


@pytest.mark.parametrize("length", [1024, 640, 80, 64, 7, 130])  # in groups of 64, 64 and 16, and whole
def test_dense_layer_of_vectors(length: int) -> None:
    inputs, kernel, bias = RANDOM.normal(size=(3, length)), RANDOM.normal(size=(length, 5)), RANDOM.normal(size=5)
    with float64_enabled():
        layer = VectorLinear(5, activation="relu", dtype="float64")
        layer.build(inputs.shape)
        layer.set_weights([kernel, bias])
        assert error(apply(layer, inputs), np.maximum(inputs @ kernel + bias, 0)) < EXACT


def test_products_of_vectors_round_less_than_long_sums() -> None:
    inputs, kernel = RANDOM.normal(size=(8, 1024)).astype("float32"), RANDOM.normal(size=(1024, 512)).astype("float32")
    layer = VectorLinear(512, use_bias=False)
    layer.build(inputs.shape)
    layer.set_weights([kernel])
    exact = inputs.astype("float64") @ kernel
    plain = keras.ops.convert_to_numpy(keras.ops.matmul(inputs, kernel))
    assert rms(apply(layer, inputs) - exact) < 0.75 * rms(plain - exact)


def test_batch_norm_is_not_off_to_one_side() -> None:
    """What every layer rounds the same way adds up over a tower."""
    layer = BatchNorm()
    layer.build((None, 4096))
    gamma, beta, mean, variance = (RANDOM.uniform(0.5, 2.0, 4096).astype("float32") for _ in range(4))
    layer.set_weights([gamma, beta, mean, variance, np.array(0)])
    inputs = RANDOM.uniform(4.0, 8.0, (8, 4096)).astype("float32")
    wide = [array.astype("float64") for array in (inputs, gamma, beta, mean, variance)]
    exact = (wide[0] - wide[3]) / np.sqrt(wide[4] + layer.epsilon) * wide[1] + wide[2]
    relative = apply(layer, inputs) / exact - 1
    assert abs(relative.mean()) < 1e-8 and rms(relative) < 1e-7


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("positions", [[[5], [0], [3]], [[1, 2, 2, 5], [0, 0, 1, 5], [5, 4, 3, 0]]])
def test_some_positions_of_a_block_are_those_of_all(positions: list[list[int]], causal: bool) -> None:
    states, wanted = RANDOM.normal(size=(3, 6, 8)), np.array(positions, "int32")
    with float64_enabled():
        block = TransformerBlock(2, 16, causal=causal, dtype="float64")
        block.build(states.shape)
        for variable in block.weights:
            variable.assign(RANDOM.normal(size=variable.shape))
        states = keras.ops.convert_to_tensor(states)
        whole = keras.ops.convert_to_numpy(block(states))
        alone = keras.ops.convert_to_numpy(block(states, positions=keras.ops.convert_to_tensor(wanted)))
    assert error(alone, np.take_along_axis(whole, wanted[:, :, None], axis=1)) < EXACT


@pytest.mark.parametrize("qkv_bias", [False, True])
@pytest.mark.parametrize("quantized", [False, True])
def test_attention_at_some_positions(quantized: bool, qkv_bias: bool) -> None:
    states, positions = RANDOM.normal(size=(2, 6, 8)).astype("float32"), np.array([[5, 1], [0, 3]], "int32")
    layer = SelfAttention(2, qkv_bias=qkv_bias)
    layer.build(states.shape)
    for variable in layer.weights:
        variable.assign(RANDOM.normal(size=variable.shape))
    if quantized:
        layer.qkv.quantize("int8", type_check=False)  # which Keras refuses to subclasses of its Dense
    whole = keras.ops.convert_to_numpy(layer(states))
    alone = keras.ops.convert_to_numpy(layer(states, positions=keras.ops.convert_to_tensor(positions)))
    assert error(alone, np.take_along_axis(whole, positions[:, :, None], axis=1)) < 1e-5


@pytest.mark.parametrize(
    "tower, form",
    [("small_mct", form) for form in FORMS] + [(name, "train") for name in SMALL_TEXT_TOWERS if name != "small_mct"],
)
@pytest.mark.parametrize("length", [77, 12, 1])
def test_a_text_tower_computes_what_the_end_of_a_text_needs(tower: str, form: str, length: int) -> None:
    """Wherever the end stands: a window around it may reach beyond both ends of the text."""
    ends = sorted({0, length // 3, length - 1})
    tokens = RANDOM.integers(1, 100, (len(ends), length)).astype("int32")
    tokens[range(len(ends)), ends] = 49407
    with float64_enabled():
        encoder = small_model(None, tower, "float64", form=form).text_encoder
        whole = apply(lambda inputs: encoder.stage_outputs(inputs)["features"], tokens)
        made = apply(encoder, tokens)
    assert error(made, whole) < EXACT


@pytest.mark.parametrize("causal", [False, True])
def test_attention_by_its_definition(causal: bool) -> None:
    states = RANDOM.normal(size=(2, 5, 8))
    with float64_enabled():
        layer = SelfAttention(2, causal=causal, dtype="float64")
        layer.build(states.shape)
        for variable in layer.weights:
            variable.assign(RANDOM.normal(size=variable.shape))
        made = apply(layer, states)
        packed, bias, out, out_bias = (keras.ops.convert_to_numpy(variable) for variable in layer.weights)
    query, key, value = np.moveaxis((states @ packed + bias).reshape(2, 5, 3, 2, 4), 2, 0)
    scores = np.einsum("bqhc,bkhc->bhqk", query, key) / 2
    if causal:
        scores += np.where(np.tri(5), 0, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    attended = np.einsum("bhqk,bkhc->bqhc", weights / weights.sum(-1, keepdims=True), value)
    assert error(made, attended.reshape(2, 5, 8) @ out + out_bias) < EXACT


def test_layer_norm_by_its_definition() -> None:
    states, gamma, beta = (RANDOM.normal(size=size) for size in ((2, 5, 8), 8, 8))
    with float64_enabled():
        layer = LayerNorm(epsilon=1e-2, dtype="float64")
        layer.build(states.shape)
        layer.set_weights([gamma, beta])
        made = apply(layer, states)
    centred = states - states.mean(-1, keepdims=True)
    expected = centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + 1e-2) * gamma + beta
    assert error(made, expected) < EXACT


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("of_inputs", ["float32", "float16"])
def test_layer_norm_keeps_to_its_dtype_policy(dtype: str, of_inputs: str) -> None:
    states = keras.ops.cast(RANDOM.normal(size=(2, 5, 8)), of_inputs)
    layer, plain = (kind(dtype=dtype) for kind in (LayerNorm, keras.layers.LayerNormalization))
    made, expected = layer(states), plain(states)
    assert made.dtype == expected.dtype
    wide = (keras.ops.convert_to_numpy(keras.ops.cast(array, "float32")) for array in (made, expected))
    assert error(*wide) < 1e-2


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function as one program of the backend's own compiler; an error where it is not one."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(function, autograph=False)
    import torch

    # One graph of all, but without the translation to machine code, for which there may be no compiler.
    return torch.compile(function, backend="eager", fullgraph=True)


@pytest.mark.parametrize("towers", [("small_mci", "small_mct"), ("small_vit", "small_transformer_causal")])
def test_towers_compile_to_one_program(small_towers: None, towers: tuple[str, str]) -> None:
    model = small_model(*towers, form="inference")
    for encode, inputs in (
        (model.encode_image, RANDOM.random((2, 64, 64, 3), "float32")),
        (model.encode_text, RANDOM.integers(1, 400, (2, 77), "int32")),
    ):
        inputs = keras.ops.convert_to_tensor(inputs)
        made, plain = (keras.ops.convert_to_numpy(way(inputs)) for way in (compiled(encode), encode))
        assert error(made, plain) < 1e-5


def test_fit_reaches_every_weight_through_the_fast_paths(small_towers: None) -> None:
    model = small_model("small_mci", "small_mct")
    model.compile(optimizer=keras.optimizers.SGD(0.1), run_eagerly=False)
    before = [np.array(keras.ops.convert_to_numpy(v)) for v in model.trainable_variables]
    batch = {"image": RANDOM.random((4, 64, 64, 3), "float32"), "text": RANDOM.integers(1, 400, (4, 77), "int32")}
    model.fit(batch, batch_size=4, epochs=3, verbose=0)
    for variable, old in zip(model.trainable_variables, before, strict=True):
        new = keras.ops.convert_to_numpy(variable)
        assert np.isfinite(new).all() and not np.array_equal(new, old), variable.path


def test_variables_take_over_memory_that_is_aligned() -> None:
    array, variable = memory.empty((300, 50), "float32"), keras.Variable(np.zeros((300, 50), "float32"))
    array[...] = RANDOM.normal(size=array.shape)
    memory.hand_over(variable, array)
    assert np.array_equal(keras.ops.convert_to_numpy(variable), array)
    seen = kernels.view(variable)
    assert seen is not None and seen.ctypes.data == array.ctypes.data


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16"])
def test_filled_variables_hold_what_assigned_ones_do(axes: tuple[int, ...], dtype: str) -> None:
    array = RANDOM.random((2 * memory.STRIP + 1, 3, memory.STRIP + 1), "float32").transpose(axes)
    filled, assigned = (keras.Variable(np.zeros(array.shape), dtype=dtype) for _ in range(2))
    memory.fill(filled, array)
    assigned.assign(array)
    assert np.array_equal(keras.ops.convert_to_numpy(filled), keras.ops.convert_to_numpy(assigned))


def test_numbers_are_filled_in() -> None:
    variable = keras.Variable(np.zeros(()), dtype="float32")
    memory.fill(variable, np.array(3.5))
    assert float(variable) == 3.5
