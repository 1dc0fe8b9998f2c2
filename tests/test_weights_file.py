"""The writer of weights gives what Keras' own gives, group by group and bit by bit."""

from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest

from mobileclip_keras.keras_models.layers.paths import layers_by_path
from mobileclip_keras.keras_models.models.copying import copy_model
from mobileclip_keras.keras_models.models.image_encoder import MobileClipImageEncoder
from mobileclip_keras.keras_models.models.model import MobileClipModel
from mobileclip_keras.keras_models.store import weights_file
from mobileclip_keras.keras_models.store.file_names import WEIGHTS
from mobileclip_keras.keras_models.store.load import load_folder
from mobileclip_keras.keras_models.store.weights_file import (
    can_write,
    save_by_keras,
    save_model,
)

from .small import SMALL_IMAGE_TOWERS, SMALL_TEXT_TOWERS, small_model

pytestmark = [pytest.mark.backend, pytest.mark.usefixtures("small_towers")]

PAIRS = [*zip(SMALL_IMAGE_TOWERS, [*SMALL_TEXT_TOWERS, None], strict=True)]


def contents(folder: Path) -> dict[str, Any]:
    """Everything in a file of weights: attributes, shapes, dtypes and bytes by path."""
    found: dict[str, Any] = {}

    def see(path: str, item: Any) -> None:
        array = np.array(item) if isinstance(item, h5py.Dataset) else None
        found[path] = (dict(item.attrs), None if array is None else (array.shape, str(array.dtype), array.tobytes()))

    with h5py.File(folder / WEIGHTS) as file:
        file.visititems(see)
    return found


def written(write: Any, model: keras.Model, folder: Path) -> dict[str, Any]:
    folder.mkdir()
    write(model, folder)
    return contents(folder)


@pytest.mark.parametrize("form", ["train", "inference"])
@pytest.mark.parametrize(("image", "text"), PAIRS)
def test_what_is_written_is_what_keras_writes(image: str, text: str | None, form: str, tmp_path: Path) -> None:
    model = small_model(image, text, form=form)
    assert can_write(model, layers_by_path(model))
    assert written(save_model, model, tmp_path / "own") == written(save_by_keras, model, tmp_path / "keras")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "mixed_float16"])
def test_in_every_dtype(dtype: str, tmp_path: Path) -> None:
    model = copy_model(small_model("small_vit", None), dtype)
    assert written(save_model, model, tmp_path / "own") == written(save_by_keras, model, tmp_path / "keras")


def test_a_backbone_that_is_a_model_is_left_to_keras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = keras.Input((32, 32, 3))
    backbone = keras.Model(inputs, keras.layers.Conv2D(4, 3, name="conv")(inputs), name="other")
    model = MobileClipModel(MobileClipImageEncoder(backbone, 8, image_size=32))
    assert not can_write(model, layers_by_path(model))
    save_model(model, tmp_path / "own")
    loaded = keras.saving.load_model(tmp_path / "own")
    for mine, saved in zip(loaded.weights, model.weights, strict=True):
        assert np.array_equal(keras.ops.convert_to_numpy(mine), keras.ops.convert_to_numpy(saved))


def test_without_the_reader_by_names_keras_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that do not lead to exactly one array for each variable are left to Keras."""
    model = small_model()
    save_model(model, tmp_path / "own")
    monkeypatch.setattr(weights_file, "_fits", lambda variables, datasets: False)
    loaded = load_folder(tmp_path / "own")
    for mine, saved in zip(loaded.weights, model.weights, strict=True):
        assert np.array_equal(keras.ops.convert_to_numpy(mine), keras.ops.convert_to_numpy(saved))
