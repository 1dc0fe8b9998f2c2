"""`freeze` and `unfreeze`: towers, norms, the whole model."""

from pathlib import Path

import keras
import numpy as np
import pytest

from mobileclip_keras.keras_models.models.model import MobileClipModel
from mobileclip_keras.verify.data import synthetic

from .small import small_model
from .support import from_keras_file, from_pretrained, nightly_on

pytestmark = pytest.mark.usefixtures("small_towers")

PAIRS = {"image": synthetic.images(4, 64, seed=0), "text": synthetic.tokens(4, seed=0) % 64}


def moved_by_fit(model: MobileClipModel) -> set[str]:
    """The weights that a step changes, by path below the model."""
    model.compile(keras.optimizers.SGD(1e-2), jit_compile=False)
    before = [np.array(keras.ops.convert_to_numpy(v)) for v in model.weights]
    model.fit(PAIRS, verbose=0)
    pairs = zip(model.weights, before, strict=True)
    return {v.path for v, old in pairs if not np.array_equal(keras.ops.convert_to_numpy(v), old)}


def of_norms(paths: set[str]) -> set[str]:
    parts = ("moving_mean", "moving_variance", "num_batches_tracked", "/gamma", "/beta")
    return {path for path in paths if path.endswith(parts) and "layer_scale" not in path}


@nightly_on("jax")
def test_a_frozen_norm_neither_learns_nor_moves_its_statistics() -> None:
    model = small_model("small_vit", "small_mct_of_64_words")
    model.freeze(norms=True)
    frozen = moved_by_fit(model)
    assert len(frozen) > 20 and not of_norms(frozen)
    model.unfreeze(norms=True)
    assert len(of_norms(moved_by_fit(model))) > 20


@pytest.mark.nightly
def test_frozen_towers_stay_frozen_once_loaded(tmp_path: Path) -> None:
    model = small_model("small_vit", "small_mct_of_64_words")
    model.freeze(text=True, norms=True)
    for again in (from_keras_file(model, tmp_path), from_pretrained(model, tmp_path)):
        assert [v.trainable for v in again.weights] == [v.trainable for v in model.weights]
    moved = moved_by_fit(model)
    assert moved and not any(path.startswith("text_encoder") for path in moved) and not of_norms(moved)


def test_nothing_named_is_everything(caplog: pytest.LogCaptureFixture) -> None:
    model = small_model("small_vit", "small_mct_of_64_words")
    trained = len(model.trainable_variables)
    model.freeze()
    assert not model.trainable_variables and not model.logit_scale.trainable
    model.unfreeze(image=True)
    assert {v.path.split("/")[0] for v in model.trainable_variables} == {"image_encoder"}
    model.unfreeze()
    assert len(model.trainable_variables) == trained and not caplog.messages
    model.compile("adam")
    model.freeze(image=True)
    assert "Call compile again before fit" in caplog.text


def test_a_tower_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match="has no image tower"):
        small_model(None, "small_mct_of_64_words").freeze(image=True)
