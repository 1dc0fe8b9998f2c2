"""Layers beyond their kernels: dtype policies, some positions alone, towers as one program, training."""

import keras
import numpy as np
import pytest

from mobileclip_keras.keras_models.architectures import FORMS
from mobileclip_keras.keras_models.blocks.attention import SelfAttention
from mobileclip_keras.keras_models.blocks.blocks import TransformerBlock
from mobileclip_keras.keras_models.blocks.branches import RepMixer
from mobileclip_keras.keras_models.blocks.feed_forward import FeedForward
from mobileclip_keras.keras_models.kernels import float64_enabled
from mobileclip_keras.keras_models.layers.dense import Linear
from mobileclip_keras.keras_models.layers.initializers import WeightInitializer, normal
from mobileclip_keras.keras_models.layers.normalization import BatchNorm, LayerNorm

from .small import SMALL_TEXT_TOWERS, small_model
from .support import apply, error, nightly_on
from .test_kernels import EXACT, compiled

pytestmark = [pytest.mark.backend, pytest.mark.usefixtures("small_towers", "quickly_compiled")]

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("positions", [[[5], [0], [3]], [[1, 2, 2, 5], [0, 0, 1, 5], [5, 4, 3, 0]]])
def test_some_positions_of_a_block_are_those_of_all(positions: list[list[int]], causal: bool) -> None:
    states, wanted = RANDOM.normal(size=(3, 6, 8)), np.array(positions)
    with float64_enabled():
        block = TransformerBlock(2, 16, causal=causal, dtype="float64")
        block.build(states.shape)
        for variable in block.weights:
            variable.assign(RANDOM.normal(size=variable.shape))
        states = keras.ops.convert_to_tensor(states)
        whole = keras.ops.convert_to_numpy(block(states))
        alone = keras.ops.convert_to_numpy(block(states, picks=keras.ops.convert_to_tensor(np.eye(6)[wanted])))
    assert error(alone, np.take_along_axis(whole, wanted[:, :, None], axis=1)) < EXACT


@pytest.mark.parametrize("qkv_bias", [False, True])
def test_quantised_attention_at_some_positions(qkv_bias: bool) -> None:
    states, positions = RANDOM.normal(size=(2, 6, 8)).astype("float32"), np.array([[5, 1], [0, 3]])
    layer = SelfAttention(2, qkv_bias=qkv_bias)
    layer.build(states.shape)
    for variable in layer.weights:
        variable.assign(RANDOM.normal(size=variable.shape))
    layer.qkv.quantize("int8", type_check=False)  # which Keras refuses to subclasses of its Dense
    whole = keras.ops.convert_to_numpy(layer(states))
    alone = keras.ops.convert_to_numpy(
        layer(states, picks=keras.ops.convert_to_tensor(np.eye(6, dtype="float32")[positions]))
    )
    assert error(alone, np.take_along_axis(whole, positions[:, :, None], axis=1)) < 1e-5


def test_a_penalty_on_the_outputs_of_an_inner_layer_counts() -> None:
    """Inner layers are called past Keras, but not where Keras has more to do than to call them."""
    block = FeedForward(16)
    block.build((None, 8))
    block.fc1.activity_regularizer = keras.regularizers.L2(1.0)
    block(np.ones((2, 8), "float32"))
    assert len(block.losses) == 1 and float(keras.ops.convert_to_numpy(block.losses[0])) > 0


def test_a_layer_outside_a_tower_is_called_as_any_layer() -> None:
    """Keras casts what it is given, also after a call that failed inside."""
    layer, block = Linear(3, dtype="mixed_float16"), FeedForward(16)
    block.build((None, 8))
    with pytest.raises(Exception, match=r".*"):
        block(np.ones((2, 5), "float32"))
    assert keras.backend.standardize_dtype(layer(np.ones((2, 5), "float64")).dtype) == "float16"


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("of_inputs", ["float32", "float16"])
def test_norms_keep_to_their_dtype_policy(dtype: str, of_inputs: str) -> None:
    states = keras.ops.cast(RANDOM.normal(size=(2, 5, 8)), of_inputs)
    kinds = (
        (LayerNorm, keras.layers.LayerNormalization, {}),
        (BatchNorm, keras.layers.BatchNormalization, {"epsilon": 1e-5, "momentum": 0.9}),
    )
    for own, plain, options in kinds:
        made, expected = (kind(dtype=dtype, **options)(states) for kind in (own, plain))
        assert made.dtype == expected.dtype
        wide = (keras.ops.convert_to_numpy(keras.ops.cast(array, "float32")) for array in (made, expected))
        assert error(*wide) < 1e-2


def test_batch_norm_learns_as_pytorch_does() -> None:
    images = RANDOM.normal(2.0, 3.0, (4, 3, 3, 8)).astype("float32")
    own, plain = BatchNorm(), keras.layers.BatchNormalization(epsilon=1e-5, momentum=0.9)
    mean, variance = np.zeros(8), np.ones(8)
    for step in range(3):
        made, expected = (keras.ops.convert_to_numpy(layer(images + step, training=True)) for layer in (own, plain))
        assert error(made, expected) < 1e-5
        mean = 0.9 * mean + 0.1 * (images + step).mean((0, 1, 2))
        variance = 0.9 * variance + 0.1 * (images + step).var((0, 1, 2), ddof=1)
    assert error(keras.ops.convert_to_numpy(own.moving_mean), mean) < 1e-6
    assert error(keras.ops.convert_to_numpy(own.moving_variance), variance) < 1e-6
    assert int(keras.ops.convert_to_numpy(own.num_batches_tracked)) == 3
    own.trainable = False
    before = [np.array(keras.ops.convert_to_numpy(v)) for v in own.variables]
    own(images, training=True)
    after = [keras.ops.convert_to_numpy(v) for v in own.variables]
    assert all(map(np.array_equal, before, after)), "a frozen batch norm neither learns nor counts"


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
        whole = keras.ops.convert_to_numpy(encoder.stage_outputs(tokens)["features"])
        made = apply(encoder, tokens)
    assert error(made, whole) < EXACT


@pytest.mark.parametrize(
    "towers",
    [
        # As test_verification.py compares what these towers compile to, a commit needs few of them.
        pytest.param(("small_mci", "small_mct"), marks=nightly_on("jax")),
        pytest.param(("small_vit", "small_transformer_causal"), marks=nightly_on("jax", "torch")),
    ],
    ids=str,
)
def test_towers_compile_to_one_program(towers: tuple[str, str]) -> None:
    model = small_model(*towers, form="inference")
    for encode, inputs in (
        (model.encode_image, RANDOM.random((2, 64, 64, 3), "float32")),
        (model.encode_text, RANDOM.integers(1, 400, (2, 77), "int32")),
    ):
        inputs = keras.ops.convert_to_tensor(inputs)
        made, plain = (keras.ops.convert_to_numpy(way(inputs)) for way in (compiled(encode), encode))
        assert error(made, plain) < 1e-5


@pytest.mark.parametrize("frozen", ["nothing", "a norm"])
@pytest.mark.parametrize("scale_branch", [True, False])
def test_a_training_step_of_a_mixer_is_that_of_its_branches(scale_branch: bool, frozen: str) -> None:
    """Three of its norms are computed at once, unless one is frozen."""
    images = np.random.default_rng(0).normal(1.0, 2.0, (4, 6, 5, 8))
    with float64_enabled():
        whole, apart = (RepMixer(8, scale_branch=scale_branch, dtype="float64") for _ in range(2))
        for mixer in (whole, apart):
            mixer.build(images.shape)
            if frozen == "a norm":
                mixer.norm.identity.trainable = False
            for index, weight in enumerate(mixer.weights):
                values = np.random.default_rng(index).uniform(0.5, 1.5, weight.shape)
                weight.assign(values.astype(weight.dtype))
        inputs = keras.ops.convert_to_tensor(images)
        made = whole(inputs, training=True)
        branches = apart.mixer(inputs, training=True) - apart.norm(inputs, training=True)
        expected = inputs + apart.layer_scale(branches)
        numbers = [keras.ops.convert_to_numpy(outputs) for outputs in (made, expected)]
        assert error(*numbers) < EXACT
        for mine, theirs in zip(whole.weights, apart.weights, strict=True):
            assert error(*(keras.ops.convert_to_numpy(weight) for weight in (mine, theirs))) < EXACT, mine.path


def test_weights_start_from_a_truncated_normal_distribution() -> None:
    drawn = keras.ops.convert_to_numpy(normal(0.02)((300, 200)))
    assert drawn.dtype == np.float32 and np.abs(drawn).max() <= 0.04
    assert drawn.mean() == pytest.approx(0, abs=3e-4) and drawn.std() == pytest.approx(0.0176, rel=0.01)


def test_the_seed_of_keras_decides_the_initial_weights() -> None:
    made = []
    for seed in (1, 1, 2):
        keras.utils.set_random_seed(seed)
        layers = [Linear(8, name=name) for name in "ab"]
        for layer in layers:
            layer.build((None, 8))
        made.append([keras.ops.convert_to_numpy(layer.kernel) for layer in layers])
    assert np.array_equal(made[0], made[1]) and not np.array_equal(made[0], made[2])
    assert not np.array_equal(*made[0])
    # A generator has a state, so each call gives other numbers.
    initializer = WeightInitializer(seed=keras.random.SeedGenerator(0))
    first, second = (keras.ops.convert_to_numpy(initializer((8,))) for _ in range(2))
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_weights_start_in_their_own_dtype(dtype: str) -> None:
    with float64_enabled():
        drawn = normal(0.02)((50,), dtype)
        assert keras.backend.standardize_dtype(drawn.dtype) == dtype
        wide = keras.ops.convert_to_numpy(keras.ops.cast(drawn, "float64"))
    assert 0 < np.abs(wide).max() <= 0.0401
