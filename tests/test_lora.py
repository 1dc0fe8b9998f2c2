"""LoRA adapters: kept where training goes on, merged where a plain model is asked for."""

from pathlib import Path

import keras
import numpy as np
import pytest
from safetensors.numpy import load_file

from mobileclip_keras.converters.checkpoints import identify
from mobileclip_keras.converters.conversion import to_torch
from mobileclip_keras.converters.conversion.mapping import read_from
from mobileclip_keras.keras_models.layers.adapters import adapters_of, has_adapters, plain_variables
from mobileclip_keras.keras_models.layers.paths import layers_by_path
from mobileclip_keras.keras_models.models.copying import adapted_layers, copy_model, merged_copy
from mobileclip_keras.keras_models.models.model import MobileClipModel
from mobileclip_keras.keras_models.models.text_encoder import MobileClipTextEncoder

from .small import image_rows, randomise, small_model
from .support import TOKENS, call, from_keras_file, nightly_on

pytestmark = pytest.mark.usefixtures("small_towers", "quickly_compiled")

TEXTS = {"text": TOKENS % 64}


def features(model: MobileClipModel) -> np.ndarray:
    return keras.ops.convert_to_numpy(keras.ops.cast(call(model, TEXTS)["text_features"], "float32"))


def adapt(model: keras.Model, *names: str, alpha: int = 3) -> None:
    """Adapters of rank 2 for the layers of these names, far from zero."""
    random = np.random.default_rng(0)
    for _, layer in layers_by_path(model):
        if layer.name in names:
            layer.enable_lora(2, lora_alpha=alpha)
            for variable in adapters_of(layer):
                variable.assign(random.normal(0, 0.3, variable.shape))


def adapted(dtype: str = "float32", text: str = "small_mct_of_64_words") -> MobileClipModel:
    model = small_model(None, text, dtype)
    adapt(model, "qkv", "fc2", "token_embedding")
    return model


def assert_adapters_kept(model: MobileClipModel, again: MobileClipModel) -> None:
    assert len(adapted_layers(again)) == len(adapted_layers(model)) == 4
    assert [v.trainable for v in again.weights] == [v.trainable for v in model.weights]
    for mine, other in zip(model.weights, again.weights, strict=True):
        assert mine.name == other.name
        assert np.array_equal(keras.ops.convert_to_numpy(mine), keras.ops.convert_to_numpy(other)), mine.path
    assert [layer.lora_alpha for layer in adapted_layers(again)] == [3] * 4


def assert_merged(model: MobileClipModel, again: MobileClipModel, caplog: pytest.LogCaptureFixture) -> None:
    assert np.abs(features(again) - features(model)).max() < 1e-5
    assert not adapted_layers(again) and len(adapted_layers(model)) == 4
    assert all(v.trainable for v in again.weights if v.name in ("kernel", "embeddings"))
    assert "LoRA adapters of 4 layers were merged" in caplog.text
    caplog.clear()


@nightly_on("jax")
def test_adapters_are_kept_or_merged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = adapted()
    plain = copy_model(model)
    for layer in adapted_layers(plain):
        adapters_of(layer)[1].assign(np.zeros(adapters_of(layer)[1].shape))
    before = features(plain)
    expected = features(model)
    assert np.abs(expected - before).max() > 1e-3
    assert_adapters_kept(model, from_keras_file(model, tmp_path))
    assert_adapters_kept(model, copy_model(model))
    keras.saving.save_model(model, tmp_path / "by_keras", zipped=False)
    assert_adapters_kept(model, MobileClipModel.from_pretrained(tmp_path / "by_keras"))
    assert not caplog.messages
    model.save_pretrained(tmp_path / "model")
    assert_merged(model, MobileClipModel.from_pretrained(tmp_path / "model"), caplog)
    assert_merged(model, model.reparameterize(), caplog)
    assert_merged(model, model.reparameterize("train"), caplog)
    assert_merged(model, merged_copy(model), caplog)
    assert np.array_equal(features(model), expected)


@pytest.mark.backend
def test_weights_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = adapted()
    path = tmp_path / "model.weights.h5"
    model.save_weights(path)
    again = small_model(None, "small_mct_of_64_words")
    adapt(again, "qkv", "fc2", "token_embedding", alpha=7)
    for layer in adapted_layers(again):
        adapters_of(layer)[0].assign(np.zeros(adapters_of(layer)[0].shape))
    again.load_weights(path)
    assert_adapters_kept(model, again)
    assert not caplog.messages
    plain = small_model(None, "small_mct_of_64_words")
    plain.load_weights(path)
    assert np.abs(features(plain) - features(model)).max() < 1e-5
    assert caplog.text.count("Those in the file were merged") == 4
    other = small_model(None, "small_mct_of_64_words")
    next(layer for _, layer in layers_by_path(other) if layer.name == "qkv").enable_lora(4)
    with pytest.raises(ValueError, match=r"have rank 4, those in the file 2"):
        other.load_weights(path)


@nightly_on("jax", "tensorflow")
def test_training_goes_on(tmp_path: Path) -> None:
    model = MobileClipTextEncoder("small_mct_of_64_words", 16)
    randomise(MobileClipModel(text_encoder=model))
    model.backbone.trainable = False
    model.projection.trainable = False
    model.backbone.blocks[1].attn.qkv.trainable = True
    adapt(model, "qkv")
    model.backbone.blocks[1].attn.qkv.bias.trainable = False
    assert {v.name for v in model.trainable_variables} == {"lora_kernel_a", "lora_kernel_b"}
    model.compile(keras.optimizers.Adam(1e-3), "mse")
    data = TOKENS % 64, np.zeros((4, 16), np.float32)
    model.fit(*data, verbose=0)
    again = from_keras_file(model, tmp_path)  # type: ignore[arg-type]
    assert [v.path for v in again.trainable_variables] == [v.path for v in model.trainable_variables]
    for mine, loaded in zip(model.optimizer.variables, again.optimizer.variables, strict=True):
        assert np.array_equal(keras.ops.convert_to_numpy(mine), keras.ops.convert_to_numpy(loaded))
    before = [np.array(keras.ops.convert_to_numpy(v)) for v in again.weights]
    again.fit(*data, verbose=0)
    moved = {
        v.name
        for v, old in zip(again.weights, before, strict=True)
        if not np.array_equal(keras.ops.convert_to_numpy(v), old)
    }
    assert moved == {"lora_kernel_a", "lora_kernel_b"}


def test_predict_sees_adapters_that_came_after_it_was_compiled() -> None:
    model = small_model(None, "small_mct_of_64_words")
    before = model.predict(TEXTS, verbose=0)["text_features"]
    adapt(model, "qkv")
    after = model.predict(TEXTS, verbose=0)["text_features"]
    assert np.abs(after - before).max() > 1e-3 and np.abs(after - features(model)).max() < 1e-5


def test_a_compiled_model_is_saved_merged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = adapted()
    model.compile("adam")
    model.save_pretrained(tmp_path / "model")
    assert_merged(model, MobileClipModel.from_pretrained(tmp_path / "model"), caplog)


def test_merging_rounds_once(tmp_path: Path) -> None:
    model = adapted("mixed_bfloat16")
    layer = model.text_encoder.backbone.blocks[1].attn.qkv
    kernel, a, b = (
        keras.ops.convert_to_numpy(v).astype(float) for v in (plain_variables(layer)[0], *adapters_of(layer))
    )
    merged = merged_copy(model).text_encoder.backbone.blocks[1].attn.qkv.kernel
    assert np.abs(keras.ops.convert_to_numpy(merged) - (kernel + 3 / 2 * a @ b)).max() < 1e-6


def test_adapters_within_what_folds() -> None:
    model = small_model("small_mci", None)
    adapt(model, "qkv", "proj", "fc1", "fc2")
    image = {"image": np.random.default_rng(0).random((2, 64, 64, 3), np.float32)}
    assert len(adapted_layers(model)) > 12
    expected = keras.ops.convert_to_numpy(call(model, image)["image_features"])
    for form in ("reparameterized", "inference"):
        folded = model.reparameterize(form)
        assert np.abs(keras.ops.convert_to_numpy(call(folded, image)["image_features"]) - expected).max() < 1e-4
        assert not adapted_layers(folded)


def test_frozen_adapters_fold_into_a_frozen_layer() -> None:
    model = small_model(None, "small_mct_of_64_words")
    block = model.text_encoder.backbone.blocks[1].attn
    adapt(model, "qkv", "proj")
    block.qkv.trainable = False
    folded = model.reparameterize().text_encoder.backbone.blocks[1].attn
    assert not folded.qkv.trainable and folded.proj.trainable and not has_adapters(folded.qkv)


def test_the_way_back_to_pytorch_merges(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identify, "model_rows", lambda image, *_: image_rows(image, "timm"))
    model = small_model("small_mci", None)
    adapt(model, "qkv", "fc1")
    count = len(adapted_layers(model))
    expected = read_from(merged_copy(model), image_rows("small_mci", "timm"))
    caplog.clear()
    to_torch.to_torch(model, "timm", tmp_path / "out.safetensors")
    written = load_file(tmp_path / "out.safetensors")
    assert written.keys() == expected.keys()
    assert all(np.array_equal(array, expected[name]) for name, array in written.items())
    assert caplog.messages == [f"The LoRA adapters of {count} layers were merged into the weights of what is written."]
    assert len(adapted_layers(model)) == count


@nightly_on("jax", "tensorflow")
def test_adapters_on_int8_weights(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plain = small_model(None, "small_mct_of_64_words")
    first, then = copy_model(plain), copy_model(plain)
    first.quantize("int8")
    adapt(first, "qkv", "fc2", "token_embedding")
    adapt(then, "qkv", "fc2", "token_embedding")
    then.quantize("int8")
    for model in (first, then):
        caplog.clear()
        expected = features(model)
        for again in (from_keras_file(model, tmp_path), copy_model(model)):
            assert_adapters_kept(model, again)
            assert np.array_equal(features(again), expected)
        merged = merged_copy(model)
        assert merged.quantized_layers() == model.quantized_layers() and not adapted_layers(merged)
        assert (features(merged) * expected).sum(-1).min() > 0.99
