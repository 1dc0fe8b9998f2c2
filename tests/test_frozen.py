"""What a user froze stays frozen in every model that is made from theirs: saved, loaded, copied, folded, wrapped."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from mobileclip_keras.keras_models.layers.initializers import to_be_overwritten
from mobileclip_keras.keras_models.layers.paths import layers_by_path
from mobileclip_keras.keras_models.models.copying import copy_model
from mobileclip_keras.keras_models.models.image_encoder import MobileClipImageEncoder
from mobileclip_keras.keras_models.models.model import MobileClipModel
from mobileclip_keras.keras_models.models.text_encoder import MobileClipTextEncoder
from mobileclip_keras.keras_models.store.file_names import CONFIG

from .small import randomise, small_model
from .support import TOKENS, from_keras_file, from_pretrained, images, nightly_on

pytestmark = pytest.mark.usefixtures("small_towers", "quickly_compiled")

PAIRS = {"image": images(64, 4), "text": TOKENS}


def freeze(model: MobileClipModel) -> None:
    """A tower but for its projection, a block in a list, a batch norm, a dense layer, two variables."""
    model.image_encoder.trainable = False
    model.image_encoder.projection.trainable = True
    text = model.text_encoder.backbone
    text.blocks[0].token_mixer.mixer.trainable = False
    text.blocks[2].mlp.conv.bn.trainable = False
    text.blocks[1].attn.qkv.trainable = False
    text.positional_embedding.trainable = False
    model.logit_scale.trainable = False


def flags(model: keras.Model) -> dict[str, Any]:
    """Every flag there is, and how many variables a training step changes."""
    found: dict[str, Any] = {path: layer.trainable for path, layer in layers_by_path(model)}
    found |= {f"{number} {v.path}": v.trainable for number, v in enumerate(model.weights)}
    return found | {"trained": len(model.trainable_variables)}


def values(model: keras.Model) -> dict[str, np.ndarray]:
    return {v.path: np.array(keras.ops.convert_to_numpy(v)) for v in model.weights}


def moved_by_fit(model: keras.Model, *data: Any, loss: str | None = None) -> set[str]:
    """The weights that a fit changes, by path."""
    if not model.compiled:
        model.compile(keras.optimizers.SGD(1e-2), loss)
    before = values(model)
    model.fit(*(data or (PAIRS,)), epochs=1, verbose=0)
    return {path for path, value in values(model).items() if not np.array_equal(before[path], value)}


REBUILT: dict[str, Callable[[MobileClipModel, Path], Any]] = {
    "keras file": from_keras_file,
    "folder": from_pretrained,
    "copy_model": lambda model, _: copy_model(model),
    "clone_model": lambda model, _: keras.models.clone_model(model),
    "reparameterize to its own form": lambda model, _: model.reparameterize("train"),
}


@nightly_on("jax")
def test_every_flag_comes_back(tmp_path: Path) -> None:
    model = small_model("small_vit", "small_mct")
    free = flags(model)
    freeze(model)
    expected = flags(model)
    assert 0 < expected["trained"] < free["trained"]
    with to_be_overwritten():  # JAX takes long for initial values
        for name, rebuild in REBUILT.items():
            assert flags(rebuild(model, tmp_path)) == expected, name
        model.trainable = False
        model.text_encoder.backbone.final_norm.trainable = True
        assert flags(copy_model(model)) == flags(model.reparameterize("train")) == flags(model)


def test_a_config_says_what_is_frozen_and_nothing_of_what_is_not() -> None:
    model = small_model(None, "small_mct")
    assert model.get_config().keys() == {"image_encoder", "text_encoder", "variant", "name", "trainable", "dtype"}
    model.text_encoder.backbone.blocks[1].trainable = False
    model.text_encoder.backbone.blocks[1].norm1.gamma.trainable = True
    frozen = model.text_encoder.get_config()["trainable_parts"]
    block = "backbone/blocks/transformer_block"
    assert frozen == {block: False, f"{block}/norm1/gamma": True}
    assert model.get_config()["trainable_parts"] == {f"text_encoder/{path}": flag for path, flag in frozen.items()}


@pytest.mark.nightly
@pytest.mark.backend
def test_a_frozen_tower_does_not_move_once_loaded(tmp_path: Path) -> None:
    model = small_model("small_mci", "small_transformer")
    model.image_encoder.trainable = False
    for again in (from_keras_file(model, tmp_path), from_pretrained(model, tmp_path)):
        moved = moved_by_fit(again)
        assert len(moved) > 20 and not any(path.startswith("image_encoder") for path in moved)


@nightly_on("tensorflow")
def test_training_goes_on_with_the_state_of_its_optimizer(tmp_path: Path) -> None:
    with to_be_overwritten():
        model = MobileClipTextEncoder("small_mct_of_64_words", 16)
        randomise(MobileClipModel(text_encoder=model))
        model.backbone.trainable = False
        model.compile(keras.optimizers.Adam(1e-3), "mse")
        data = TOKENS % 64, np.zeros((4, 16), np.float32)
        model.fit(*data, epochs=2, verbose=0)
        again = from_keras_file(model, tmp_path)
    assert [tuple(v.shape) for v in again.optimizer.variables] == [tuple(v.shape) for v in model.optimizer.variables]
    for mine, loaded in zip(model.optimizer.variables, again.optimizer.variables, strict=True):
        assert np.array_equal(keras.ops.convert_to_numpy(mine), keras.ops.convert_to_numpy(loaded))
    assert int(again.optimizer.iterations) == 2
    # The batch norms of the RepMixer block are frozen, too.
    assert moved_by_fit(again, *data) == moved_by_fit(model, *data) == {"text_encoder/projection/kernel"}
    for one, other in zip(values(model).values(), values(again).values(), strict=True):
        assert np.allclose(one, other, atol=1e-6)


@pytest.mark.backend
def test_a_frozen_tower_in_a_functional_model(tmp_path: Path) -> None:
    tower = small_model(None, "small_mct_of_64_words").text_encoder
    tower.trainable = False
    tower.backbone.final_norm.trainable = True
    inputs = keras.Input((77,), dtype="int32")
    model = keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(tower(inputs)))
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    for made in (model, again, keras.models.clone_model(model)):
        assert len(made.trainable_variables) == 4
    moved = moved_by_fit(again, TOKENS % 64, np.arange(4) % 3, loss="sparse_categorical_crossentropy")
    assert {path for path in moved if "final_norm" not in path} == {v.path for v in again.layers[-1].weights}


@pytest.mark.backend
def test_one_tower_alone_keeps_its_flags(tmp_path: Path) -> None:
    model = small_model("small_vit", "small_mct")
    freeze(model)
    model.save_pretrained(tmp_path / "model")
    for tower in ("image", "text"):
        alone = MobileClipModel.from_pretrained(tmp_path / "model", towers=tower)
        assert flags(getattr(alone, f"{tower}_encoder")) == flags(getattr(model, f"{tower}_encoder"))


def test_a_frozen_backbone_of_another_kind(tmp_path: Path) -> None:
    inputs = keras.Input((None, None, 3))
    outputs = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3, strides=2)(inputs))
    model = MobileClipModel(MobileClipImageEncoder(keras.Model(inputs, outputs), 16, image_size=64))
    for part in (model.image_encoder.backbone.layers[1], model.image_encoder.backbone, model.image_encoder):
        part.trainable = False
        assert flags(from_keras_file(model, tmp_path)) == flags(model)


@pytest.mark.nightly
def test_a_backbone_of_keras_applications_stays_frozen(tmp_path: Path) -> None:
    model = MobileClipModel(MobileClipImageEncoder("MobileNetV2", 16, image_size=32))
    for layer in model.image_encoder.backbone.layers[:100]:
        layer.trainable = False
    assert flags(from_keras_file(model, tmp_path)) == flags(model)


def test_an_encoder_made_frozen_is_frozen_throughout() -> None:
    assert not MobileClipImageEncoder("small_vit", 16, trainable=False).trainable_variables
    assert not any(v.trainable for v in MobileClipImageEncoder("small_vit", 16, trainable=False).weights)


# --- Folding ---


@pytest.mark.backend
def test_a_frozen_tower_is_frozen_once_folded() -> None:
    model = small_model()
    model.image_encoder.trainable = False
    for form in ("reparameterized", "inference"):
        folded = model.reparameterize(form)
        assert not folded.image_encoder.trainable and not folded.image_encoder.trainable_variables
        assert all(layer.trainable for _, layer in layers_by_path(folded.text_encoder))
        assert not any(v.path.startswith("image_encoder") for v in folded.trainable_variables)
        assert folded.logit_scale.trainable


def conv_flags(model: MobileClipModel) -> list[bool]:
    block = model.image_encoder.backbone.stages[0].blocks[0]
    return [block.token_mixer.reparam_conv.trainable, block.mlp.conv.trainable, block.mlp.fc1.trainable]


def test_a_folded_layer_is_frozen_where_all_that_became_of_it_was() -> None:
    model = small_model("small_mci", None)
    block = model.image_encoder.backbone.stages[0].blocks[0]
    block.mlp.conv.bn.trainable = False
    assert conv_flags(model.reparameterize()) == [True, True, True]
    block.mlp.conv.conv.trainable = False
    assert conv_flags(model.reparameterize()) == [True, False, True]
    block.token_mixer.trainable = False
    assert conv_flags(model.reparameterize()) == [False, False, True]
    block.token_mixer.layer_scale.trainable = True
    assert conv_flags(model.reparameterize()) == [True, False, True]


def test_dense_layers_and_what_folds_into_them() -> None:
    model = small_model(None)
    block = model.text_encoder.backbone.blocks[0]
    block.mlp.fc2.trainable = False
    assert model.reparameterize().text_encoder.backbone.blocks[0].mlp.fc2.trainable
    block.layer_scale.trainable = False
    folded = model.reparameterize().text_encoder.backbone.blocks[0]
    assert not folded.mlp.fc2.trainable and folded.mlp.fc1.trainable


# --- Configs ---


def test_a_config_that_freezes_what_is_not_there_is_refused(tmp_path: Path) -> None:
    model = small_model(None, "small_transformer")
    config = model.get_config() | {"trainable_parts": {"text_encoder/backbone/head": False}}
    with pytest.raises(ValueError, match="does not have: text_encoder/backbone/head"):
        MobileClipModel.from_config(config)


@pytest.mark.parametrize(
    "entries",
    [
        {"trainable_parts": {"backbone": 0}},
        {"trainable_parts": ["backbone"]},
        {"trainable": "no"},
        {"lora": {"projection": [10**12, 1]}},
        {"lora": {"projection": [2, float("nan")]}},
        {"lora": {"backbone/final_norm": [2, 2]}},
        {"lora": {"projection": 2}},
        {"quantized": {"projection": True}},
        {"quantized": ["backbone"]},
    ],
)
def test_configs_of_strangers_are_refused(entries: dict[str, Any]) -> None:
    config = small_model(None, "small_mct_of_64_words").text_encoder.get_config()
    with pytest.raises(ValueError, match=r"The config"):
        MobileClipTextEncoder.from_config(config | entries)


def test_configs_from_before_still_load(tmp_path: Path) -> None:
    model = small_model(None, "small_transformer")
    model.save_pretrained(tmp_path / "model")
    assert "trainable_parts" not in (tmp_path / "model" / CONFIG).read_text()
    assert flags(MobileClipModel.from_pretrained(tmp_path / "model")) == flags(model)
