"""The models as people use them: inputs, outputs, dtypes, other backbones, training."""

import io
import math
from contextlib import redirect_stdout

import keras
import numpy as np
import pytest

from mobileclip_keras.keras_models.layers.initializers import to_be_overwritten
from mobileclip_keras.keras_models.models.image_encoder import MobileClipImageEncoder
from mobileclip_keras.keras_models.models.model import MobileClipModel
from mobileclip_keras.keras_models.models.text_encoder import MobileClipTextEncoder

from .small import SMALL_TEXT_TOWERS, small_model
from .support import TOKENS, apply, call, error, images, nightly_on, weights

pytestmark = pytest.mark.usefixtures("small_towers", "quickly_compiled")

PAIR = {"image": images(64, 2), "text": TOKENS[:2]}
FOUR = {"image": images(64, 4), "text": TOKENS[:4]}
"""As many as test_verification.py runs at once: JAX then compiles each operation of these towers once for both."""


def run(model: keras.Model, inputs: dict[str, np.ndarray] = PAIR) -> dict[str, np.ndarray]:
    return {key: keras.ops.convert_to_numpy(value) for key, value in call(model, inputs).items()}


# --- Outputs ---


@pytest.mark.backend
def test_outputs_are_of_length_one_and_the_scale_is_after_exp() -> None:
    model = small_model()
    model.logit_scale.assign(math.log(20))
    made = run(model)
    assert set(made) == {"image_features", "text_features", "logit_scale"}
    for key in ("image_features", "text_features"):
        assert made[key].shape == (2, 16) and made[key].dtype == np.float32
        assert np.linalg.norm(made[key], axis=-1) == pytest.approx(1, abs=1e-6)
    assert made["logit_scale"] == pytest.approx(20, rel=1e-6) and made["logit_scale"].shape == ()

    for encode, tower, inputs in (
        (model.encode_image, model.image_encoder, FOUR["image"]),
        (model.encode_text, model.text_encoder, FOUR["text"]),
    ):
        raw = keras.ops.convert_to_numpy(encode(inputs, normalize=False))
        assert np.abs(np.linalg.norm(raw, axis=-1) - 1).min() > 0.01
        assert np.array_equal(raw, keras.ops.convert_to_numpy(tower(inputs, training=False)))
        kept = keras.ops.convert_to_numpy(encode(inputs))
        assert error(kept, raw / np.linalg.norm(raw, axis=-1, keepdims=True)) < 1e-6


def test_the_logit_scale_starts_at_that_of_clip_and_stops_at_100() -> None:
    model = MobileClipModel(text_encoder=MobileClipTextEncoder("small_transformer", 16))
    assert float(keras.ops.convert_to_numpy(model.logit_scale)) == pytest.approx(math.log(1 / 0.07), rel=1e-6)
    assert model.logit_scale.trainable and any(v is model.logit_scale for v in model.trainable_variables)
    model.logit_scale.assign(math.log(250))
    assert run(model, {"text": TOKENS})["logit_scale"] == 100


@pytest.mark.parametrize("given", ["image", "text"])
def test_one_input_gives_one_output(given: str) -> None:
    made = run(small_model(), {given: PAIR[given]})
    assert list(made) == [f"{given}_features", "logit_scale"]


@pytest.mark.backend
def test_each_tower_alone() -> None:
    model = small_model()
    image = MobileClipModel(image_encoder=model.image_encoder)
    text = MobileClipModel(text_encoder=model.text_encoder)
    assert np.array_equal(run(image, {"image": PAIR["image"]})["image_features"], run(model)["image_features"])
    assert np.array_equal(run(text, {"text": PAIR["text"]})["text_features"], run(model)["text_features"])
    with pytest.raises(ValueError, match="without its text tower"):
        image.encode_text(TOKENS)
    with pytest.raises(ValueError, match="without its image tower"):
        text.encode_image(PAIR["image"])
    with pytest.raises(ValueError, match=r"The inputs are a dict with 'text'; got \['image'\]"):
        run(text, {"image": PAIR["image"]})
    with pytest.raises(ValueError, match="needs an image encoder, a text encoder or both"):
        MobileClipModel()


def test_zero_features_stay_zero() -> None:
    model = small_model()
    kernel = model.image_encoder.projection.kernel
    kernel.assign(np.zeros(kernel.shape))
    assert np.array_equal(run(model)["image_features"], np.zeros((2, 16)))


# --- Inputs ---


@pytest.mark.parametrize(
    ("image", "shape", "message"),
    [
        ("small_mci", (1, 64, 60, 3), "must be multiples of 32; got 64 x 60"),
        ("small_mci_layer", (1, 96, 128, 3), "must be multiples of 64; got 96 x 128"),
        ("small_vit", (1, 40, 64, 3), "must be multiples of 16; got 40 x 64"),
        ("small_vit_clip", (1, 64, 56, 3), "must be multiples of 14; got 64 x 56"),
        ("small_mci", (1, 64, 64, 1), r"the shape \(batch, height, width, 3\), not \(1, 64, 64, 1\)"),
        ("small_mci", (64, 64, 3), r"the shape \(batch, height, width, 3\), not \(64, 64, 3\)"),
    ],
)
def test_images_that_do_not_fit(image: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small_model(image, None).encode_image(np.zeros(shape, np.float32))


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (np.zeros((1, 78), np.int32), r"at most 77 a row, not \(1, 78\)"),
        (np.zeros(77, np.int32), r"not \(77,\)\. Strings go through mobileclip_keras\.Tokenizer"),
        (np.zeros((1, 77), np.float32), "Tokens must be integers, not float32"),
    ],
)
def test_tokens_that_do_not_fit(tokens: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small_model(None).encode_text(tokens)


def test_backbones_and_towers_that_there_are_not() -> None:
    with pytest.raises(ValueError, match=r"'resnet' is no image backbone\. Give one of mci0, .*'MobileNetV2'"):
        MobileClipImageEncoder("resnet")
    with pytest.raises(ValueError, match=r"'bert' is no text backbone\. Give one of mct, "):
        MobileClipTextEncoder("bert")
    with pytest.raises(ValueError, match="towers must be 'both', 'image' or 'text', not 'images'"):
        MobileClipModel.from_variant("s0", towers="images")


@pytest.mark.backend
@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_tokens_of_either_width(dtype: str) -> None:
    model = small_model(None)
    made = keras.ops.convert_to_numpy(model.encode_text(TOKENS.astype(dtype)))
    assert np.array_equal(made, keras.ops.convert_to_numpy(model.encode_text(TOKENS.astype("int32"))))


@nightly_on("jax")
def test_any_batch_size() -> None:
    model = small_model()
    four = {"image": images(64, 4), "text": TOKENS}
    whole = run(model, four)
    predicted = model.predict(four, batch_size=3, verbose=0)  # batches of 3 and of 1
    for key in ("image_features", "text_features"):
        assert error(predicted[key], whole[key]) < 1e-5


def test_a_tensorflow_function_takes_any_batch_and_size() -> None:
    import tensorflow as tf

    for image, size in (("small_mci", 96), ("small_vit", 80)):
        model = small_model(image, None)
        signature = tf.TensorSpec((None, None, None, 3), tf.float32)
        encode = tf.function(lambda batch, model=model: model.encode_image(batch), input_signature=[signature])
        for shape in ((3, 64, 64, 3), (1, size, 64, 3)):
            batch = np.random.default_rng(0).uniform(size=shape).astype(np.float32)
            assert error(encode(batch).numpy(), model.encode_image(batch).numpy()) < 1e-4


def test_summary_names_both_towers() -> None:
    model, text = small_model(), io.StringIO()
    with redirect_stdout(text):
        model.summary()
    assert "image_encoder" in text.getvalue() and "text_encoder" in text.getvalue()
    assert "Total params" in text.getvalue()


# --- Texts ---


@pytest.mark.backend
@pytest.mark.parametrize("text", SMALL_TEXT_TOWERS)
def test_only_a_causal_tower_looks_back_alone(text: str) -> None:
    backbone = small_model(None, text).text_encoder.backbone
    tokens = TOKENS[:1].copy()
    tokens[0, :40] = np.arange(1, 41)
    other = tokens.copy()
    other[0, 30] += 100
    before, after = (
        keras.ops.convert_to_numpy(backbone.stage_outputs(keras.ops.convert_to_tensor(t))["norm"])[0]
        for t in (tokens, other)
    )
    changed = np.abs(before - after).max(-1) > 0
    assert changed[30:].all()
    assert changed[:30].any() == (not SMALL_TEXT_TOWERS[text].causal)


def test_padding_is_attended_to_unless_the_tower_is_causal() -> None:
    """As in training: the wrong padding id changes features, but not behind a causal mask."""
    padded = np.zeros((1, 77), np.int32)
    padded[0, :4] = [49406, 320, 1929, 49407]
    wrongly = np.where(padded == 0, 49407, padded)
    for text, causal in (("small_transformer", False), ("small_transformer_causal", True)):
        model = small_model(None, text)
        right, wrong = (keras.ops.convert_to_numpy(model.encode_text(t)) for t in (padded, wrongly))
        assert (error(wrong, right) < 1e-6) == causal


def test_the_state_is_taken_at_the_first_largest_id() -> None:
    encoder = small_model(None, "small_transformer_causal").text_encoder
    tokens = np.zeros((1, 77), np.int32)
    tokens[0, :5] = [49406, 5, 49407, 7, 49407]
    cut = tokens.copy()
    cut[0, 3:] = 0
    assert error(apply(encoder, tokens), apply(encoder, cut)) < 1e-6


def test_shorter_rows_are_taken() -> None:
    encoder = small_model(None, "small_transformer_causal").text_encoder
    tokens = np.array([[49406, 320, 49407]], np.int32)
    padded = np.pad(tokens, [(0, 0), (0, 74)])
    assert error(apply(encoder, tokens), apply(encoder, padded)) < 1e-5


# --- Dtypes ---


@pytest.mark.backend
@pytest.mark.parametrize(
    ("policy", "compute", "stored", "tolerance"),
    [
        pytest.param("mixed_float16", "float16", "float32", 0.02, marks=nightly_on("jax")),
        ("mixed_bfloat16", "bfloat16", "float32", 0.15),
        ("float64", "float64", "float64", 1e-4),
    ],
)
def test_dtype_policies(policy: str, compute: str, stored: str, tolerance: float) -> None:
    model, exact = small_model(dtype=policy), run(small_model())
    made = call(model, PAIR)
    for key in ("image_features", "text_features"):
        assert keras.backend.standardize_dtype(made[key].dtype) == compute
        array = keras.ops.convert_to_numpy(keras.ops.cast(made[key], "float64"))
        assert np.isfinite(array).all() and error(array, exact[key].astype(np.float64)) < tolerance
    kernel = model.image_encoder.backbone.stem[0].conv_kxk.conv.kernel
    assert keras.backend.standardize_dtype(kernel.dtype) == stored
    assert keras.backend.standardize_dtype(made["logit_scale"].dtype) == stored


def test_the_global_policy_is_followed() -> None:
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = MobileClipModel(text_encoder=MobileClipTextEncoder("small_transformer", 16))
    assert model.text_encoder.backbone.blocks[0].attn.qkv.dtype_policy.name == "mixed_bfloat16"


# --- Other backbones ---


def test_a_model_of_keras_applications_as_image_tower() -> None:
    with to_be_overwritten():
        model = MobileClipModel.from_variant("s0", image_backbone="MobileNetV2", image_size=64)
    assert model.image_encoder.backbone.name.startswith("mobilenetv2")
    assert run(model)["image_features"].shape == (2, 512)
    with pytest.raises(ValueError, match="Only MobileCLIP's own image towers have stages"):
        model.image_encoder.stage_outputs(images(64))


@pytest.mark.backend
@pytest.mark.parametrize("pooled", [False, True])
def test_a_keras_model_as_image_tower(pooled: bool) -> None:
    inputs = keras.Input((None, None, 3))
    features = keras.layers.Conv2D(4, 3, strides=2)(inputs)
    features = keras.layers.GlobalAveragePooling2D()(features) if pooled else features
    backbone = keras.Model(inputs, features)
    encoder = MobileClipImageEncoder(backbone, 8, image_size=48)
    assert apply(encoder, images(48)).shape == (4, 8)
    assert encoder.backbone is backbone


# --- Training ---


@nightly_on("jax")
def test_a_training_step_moves_every_weight_and_counts_itself() -> None:
    model = small_model()
    model.compile(optimizer=keras.optimizers.SGD(0.1))
    before = {variable.path: array for variable, array in zip(model.weights, weights(model), strict=True)}
    model.fit(PAIR, batch_size=2, epochs=1, verbose=0)
    for variable in model.trainable_variables:
        now = keras.ops.convert_to_numpy(variable)
        assert np.isfinite(now).all() and not np.array_equal(now, before[variable.path]), variable.path
    counters = [v for v in model.non_trainable_variables if v.path.endswith("num_batches_tracked")]
    assert len(counters) > 20
    for counter in counters:
        assert int(keras.ops.convert_to_numpy(counter)) == before[counter.path] + 1
    for variable in model.non_trainable_variables:
        if "/moving_" in variable.path:
            now = keras.ops.convert_to_numpy(variable)
            assert not np.array_equal(now, before[variable.path]), variable.path


@pytest.mark.backend
def test_inference_changes_nothing() -> None:
    model = small_model()
    before = weights(model)
    run(model)
    model.encode_image(FOUR["image"])
    for was, now in zip(before, weights(model), strict=True):
        assert np.array_equal(was, now)


def test_a_frozen_batch_norm_neither_counts_nor_moves() -> None:
    model = small_model()
    model.image_encoder.trainable = False
    before = weights(model.image_encoder)
    model({key: keras.ops.convert_to_tensor(value) for key, value in PAIR.items()}, training=True)
    for was, now in zip(before, weights(model.image_encoder), strict=True):
        assert np.array_equal(was, now)


# --- What does not go together ---


def test_class_weights_without_classes() -> None:
    model = small_model("small_vit", "small_transformer")
    model.compile("sgd")
    for train in (model.fit, model.train_on_batch):
        with pytest.raises(ValueError, match=r"class_weight needs targets.*Give sample_weight"):
            train(PAIR, class_weight={0: 1.0, 1: 2.0})
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="class_weight needs targets"):
        model.fit(PAIR, class_weight={0: 1.0})


def test_backbones_that_take_channels_first() -> None:
    keras.config.set_image_data_format("channels_first")
    try:
        with pytest.raises(ValueError, match=r"MobileNetV2 cannot be built while .* 'channels_first'.*set_image_data"):
            MobileClipImageEncoder("MobileNetV2", 16, image_size=32)
        inputs = keras.Input((32, 32, 3))
        first = keras.Model(inputs, keras.layers.GlobalAveragePooling2D(name="pool")(inputs))
        apply(small_model("small_vit", None).image_encoder, images(64, 2))
    finally:
        keras.config.set_image_data_format("channels_last")
    with pytest.raises(ValueError, match="its layers pool are 'channels_first'"):
        MobileClipImageEncoder(first, 16, image_size=32)
    inputs = keras.Input((3, 32, 32))
    with pytest.raises(ValueError, match=r"it takes \(None, 3, 32, 32\), and images are"):
        MobileClipImageEncoder(keras.Model(inputs, keras.layers.Flatten()(inputs)), 16, image_size=32)
