"""A model whose dense layers and token embedding are int8: made, run, saved, loaded, and refused in plain words."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from mobileclip_keras.converters.conversion.to_torch import ExportError, to_torch
from mobileclip_keras.keras_models.layers.adapters import QuantizationError
from mobileclip_keras.keras_models.layers.paths import layers_by_path
from mobileclip_keras.keras_models.models.copying import copy_model
from mobileclip_keras.keras_models.models.image_encoder import MobileClipImageEncoder
from mobileclip_keras.keras_models.models.model import MobileClipModel
from mobileclip_keras.keras_models.store.folder import FolderError

from .small import small_model
from .support import TOKENS, call, from_keras_file, from_pretrained, images, nightly_on

pytestmark = pytest.mark.usefixtures("small_towers", "quickly_compiled")

PAIRS = {"image": images(64, 2), "text": TOKENS[:2] % 64}


def features(model: MobileClipModel) -> np.ndarray:
    """Of all towers, (2 or 4, 16)."""
    made = call(model, PAIRS if model.image_encoder is not None else {"text": PAIRS["text"]})
    parts = [value for key, value in made.items() if key.endswith("_features")]
    return np.concatenate([keras.ops.convert_to_numpy(keras.ops.cast(part, "float32")) for part in parts])


def quantized(image: str | None = None, text: str = "small_mct_of_64_words", **options: Any) -> MobileClipModel:
    model = small_model(image, text, form="inference", **options)
    model.quantize("int8")
    return model


def from_keras_folder(model: MobileClipModel, folder: Path) -> Any:
    keras.saving.save_model(model, folder / "by_keras", zipped=False)
    return MobileClipModel.from_pretrained(folder / "by_keras")


def from_weights(model: MobileClipModel, folder: Path) -> Any:
    model.save_weights(folder / "model.weights.h5")
    again = quantized()
    for variable in again.weights:
        variable.assign(np.zeros(variable.shape))
    again.load_weights(folder / "model.weights.h5")
    return again


REBUILT: dict[str, Callable[[MobileClipModel, Path], Any]] = {
    "keras file": from_keras_file,
    "folder": from_pretrained,
    "folder by Keras": from_keras_folder,
    "copy_model": lambda model, _: copy_model(model),
    "weights": from_weights,
}


@pytest.mark.backend
def test_the_life_of_a_quantised_model(tmp_path: Path) -> None:
    model = small_model(None, "small_mct_of_64_words", form="inference")
    before = features(model)
    model.quantize("int8")
    after = features(model)
    assert np.abs(after - before).max() > 0
    assert (before * after).sum(-1).min() > 0.99
    for name, rebuild in REBUILT.items():
        again = rebuild(model, tmp_path)
        assert again.quantized_layers() == model.quantized_layers()
        for mine, other in zip(model.weights, again.weights, strict=True):
            assert mine.dtype == other.dtype
            assert np.array_equal(keras.ops.convert_to_numpy(mine), keras.ops.convert_to_numpy(other)), name
    assert np.array_equal(features(again), after)


def test_predict_sees_weights_that_were_quantised_after_it_was_compiled() -> None:
    model = small_model(None, "small_mct_of_64_words", form="inference")
    before = model.predict({"text": PAIRS["text"]}, verbose=0)["text_features"]
    model.text_encoder.quantize("int8")
    after = model.predict({"text": PAIRS["text"]}, verbose=0)["text_features"]
    assert np.abs(after - features(model)).max() < 1e-5 < np.abs(after - before).max()


def test_quantize_says_what_it_did(caplog: pytest.LogCaptureFixture) -> None:
    model = small_model("small_mci", "small_mct_of_64_words", form="inference")
    before = features(model)
    model.quantize("int8")
    assert 0.98 < (before * features(model)).sum(-1).min() < 1
    names = model.quantized_layers()
    dense = [layer for _, layer in layers_by_path(model) if isinstance(layer, keras.layers.Dense)]
    assert len(names) == len(dense) + 1 and "text_encoder/backbone/token_embedding" in names
    assert sum(variable.dtype == "int8" for variable in model.weights) == len(names)
    (note,) = caplog.messages
    assert note.startswith(f"{len(names)} layers of {model.name} are int8 now, with ") and "stay floats" in note


def test_some_layers_alone(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    model = small_model(None, "small_transformer")
    model.quantize("int8", filters="fc1$")
    assert [name.rpartition("/")[2] for name in model.quantized_layers()] == ["fc1", "fc1"]
    assert "So do these dense layers" in caplog.text and "blocks_0/attn/qkv" in caplog.text
    assert from_keras_file(model, tmp_path).quantized_layers() == model.quantized_layers()
    model.text_encoder.quantize("int8", filters=lambda layer: layer.name == "qkv")
    model.quantize("int8", filters=["fc2", "blocks_0/attn/proj"])
    assert len(model.quantized_layers()) == 2 + 2 + 3
    model.quantize("int8")
    with pytest.raises(QuantizationError, match="nothing to quantise"):
        model.quantize("int8")


@pytest.mark.parametrize("mode", ["int4", "float8", "gptq", "awq", "int2"])
def test_other_modes_are_refused_before_anything_changes(mode: str) -> None:
    model = small_model(None, "small_transformer")
    dtypes = [v.dtype for v in model.weights]
    for part in (model, model.text_encoder, model.text_encoder.projection):
        with pytest.raises(ValueError):
            part.quantize(mode)
    assert [v.dtype for v in model.weights] == dtypes
    if mode in ("int4", "float8"):
        with pytest.raises(QuantizationError, match=f"quantised to 'int8', not to '{mode}'"):
            model.quantize(mode)


@pytest.mark.skipif(not hasattr(keras.quantizers, "Int8QuantizationConfig"), reason="Keras 3.12 has none")
def test_own_quantizers_are_refused() -> None:
    config = keras.quantizers.Int8QuantizationConfig
    model = small_model(None, "small_transformer")
    with pytest.raises(QuantizationError, match="default quantizers"):
        model.quantize(config=config(weight_quantizer=keras.quantizers.AbsMaxQuantizer(axis=0)))
    model.quantize(config=config())
    assert model.quantized_layers()


def test_a_quantised_model_neither_folds_nor_goes_back_to_pytorch(tmp_path: Path) -> None:
    model = small_model(None, "small_mct")
    model.quantize("int8")
    with pytest.raises(QuantizationError, match=r"cannot be folded. Fold first: model\.reparameterize\(\)"):
        model.reparameterize()
    with pytest.raises(ExportError, match="The model is quantised"):
        to_torch(model, "apple", tmp_path / "out.safetensors")
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(QuantizationError, match="Fold first"):
        MobileClipModel.from_pretrained(tmp_path / "model", form="inference")


def test_a_quantised_folder_in_other_dtypes(tmp_path: Path) -> None:
    model = quantized()
    model.save_pretrained(tmp_path / "model")
    half = MobileClipModel.from_pretrained(tmp_path / "model", dtype="bfloat16")
    assert half.quantized_layers() == model.quantized_layers()
    assert (features(half) * features(model)).sum(-1).min() > 0.95
    with pytest.raises((QuantizationError, FolderError), match="does not go with float16"):
        MobileClipModel.from_pretrained(tmp_path / "model", dtype="float16")


@nightly_on("jax", "tensorflow")
def test_in_a_functional_model(tmp_path: Path) -> None:
    tower = small_model(None, "small_mct_of_64_words").text_encoder
    inputs = keras.Input((77,), dtype="int32")
    model = keras.Model(inputs, keras.layers.Dense(3)(tower(inputs)))
    model.quantize("int8")
    assert len(tower.quantized_layers()) == 2 + 4 + 2
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert np.array_equal(again.predict(TOKENS % 64, verbose=0), model.predict(TOKENS % 64, verbose=0))


def test_an_image_tower_without_dense_layers() -> None:
    inputs = keras.Input((None, None, 3))
    encoder = MobileClipImageEncoder(keras.Model(inputs, keras.layers.Conv2D(4, 3)(inputs)), 16, image_size=32)
    with pytest.raises(QuantizationError, match="nothing to quantise"):
        encoder.quantize("int8")


def test_float_weights_do_not_go_into_int8_layers(tmp_path: Path) -> None:
    model = small_model(None, "small_transformer")
    model.save_weights(tmp_path / "float.weights.h5")
    model.quantize("int8")
    with pytest.raises(ValueError):
        model.load_weights(tmp_path / "float.weights.h5")


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="only PyTorch has parameters of its own")
@pytest.mark.backend
def test_pytorch_sees_the_new_variables_alone() -> None:
    model = quantized()
    assert {p.data_ptr() for p in model.parameters()} == {v.value.data_ptr() for v in model.weights}
