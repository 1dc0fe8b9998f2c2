"""Blocks that are computed again for the gradient: the same step, in less memory."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from mobileclip_keras.keras_models.layers.pure_call import Recomputed
from mobileclip_keras.keras_models.models.copying import copy_model
from mobileclip_keras.keras_models.models.image_encoder import MobileClipImageEncoder
from mobileclip_keras.keras_models.models.model import MobileClipModel

from .small import EMBED_DIM, small_model
from .support import from_keras_file, from_pretrained, nightly_on
from .training_steps import CHUNK, PAIRS, TEXT, difference, step

pytestmark = pytest.mark.usefixtures("small_towers")

ROUNDING = 1.25e-12
"""How far a step in float64 on JAX is from itself with the pairs of its batch in another order, where nothing but sums
differ: 0.78e-12, 1.07e-12 and 1.23e-12 in three orders of pairs of the mci towers. XLA adds up in another order with
remat, too. The same on TensorFlow is 0.35e-12."""
BLOCKS = {"small_mci": 15, "small_vit": 5, "small_mct": 3, TEXT: 2, "small_transformer": 2}
"""What is computed again, by tower."""


LOSS = {"float32": 100 * 2**-24, "mixed_bfloat16": 100 * 2**-9}
"""How near losses are to float64's, relatively: features are rounded to 2^-24 or 2^-9, and similarities multiplied by
100."""


@pytest.fixture
def again(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The classes of the blocks that were called to be computed again."""
    called: list[str] = []
    original = Recomputed.call

    def call(self: Recomputed, inputs: Any, training: bool | None = None, **options: Any) -> Any:
        called.append(type(self._layer()).__name__)
        return original(self, inputs, training=training, **options)

    monkeypatch.setattr(Recomputed, "call", call)
    return called


def with_remat(model: MobileClipModel) -> MobileClipModel:
    copy = copy_model(model)
    copy.remat = True
    return copy


@nightly_on("jax")  # which compiles for long; tests/test_kernels.py has the same in small
@pytest.mark.parametrize(
    "towers",
    [
        pytest.param(("small_mci", "small_mct"), marks=nightly_on("jax", "tensorflow")),
        ("small_vit", "small_transformer"),
    ],
)
def test_the_step_is_the_same(towers: tuple[str, str], again: list[str]) -> None:
    """Loss, gradients, and the averages of batch norms, which learn."""
    model = small_model(*towers, "float64")
    expected = step(model)
    assert not again
    found = step(with_remat(model))
    assert difference(expected, found) < (2 * ROUNDING if keras.backend.backend() == "jax" else 1e-12)
    assert len(again) >= sum(BLOCKS[tower] for tower in towers)
    moved = [name for name in expected if "moving_mean" in name]
    assert moved


@pytest.mark.nightly
@pytest.mark.backend
def test_it_changes_no_more_than_the_order_of_pairs_does() -> None:
    """Which changes sums alone, so this is what rounding makes of the gradients of these towers."""
    model = small_model("small_mci", "small_mct", "float64")
    expected = step(model)
    orders = [6, 5, 4, 3, 2, 1, 0], [4, 6, 1, 0, 5, 2, 3]
    rounding = max(difference(expected, step(model, order=order)) for order in orders)
    assert difference(expected, step(with_remat(model))) < 2 * rounding < 1e-10


@nightly_on("jax", "tensorflow")
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_the_step_is_as_exact_in_other_dtypes(dtype: str) -> None:
    """Beside float64. To the last bits on PyTorch; a compiled program may add up in another order."""
    model = small_model("small_vit", TEXT, dtype)
    found, again = step(model), step(with_remat(model))
    if keras.backend.backend() == "torch":
        assert difference(found, again) < 1e-6
    truth = step(copy_model(model, "float64"))
    limit = 2 * difference(truth, found, LOSS[dtype])
    assert difference(truth, again, LOSS[dtype]) < limit


@nightly_on("jax", "tensorflow")
def test_with_chunks_adapters_and_frozen_parts(again: list[str]) -> None:
    model = small_model("small_vit", TEXT, "float64")
    model.enable_lora(2)
    model.text_encoder.projection.trainable = True
    model.image_encoder.backbone.blocks[0].norm1.trainable = True
    assert difference(step(model, CHUNK), step(with_remat(model), CHUNK)) < 1e-12
    assert again


@nightly_on("jax")
def test_another_backbone_is_one_block_and_draws_the_same_numbers_again(again: list[str]) -> None:
    layers = [keras.Input((64, 64, 3)), keras.layers.Conv2D(8, 16, 16, activation="gelu", dtype="float64")]
    layers += [keras.layers.BatchNormalization(dtype="float64"), keras.layers.Dropout(0.5, seed=3, dtype="float64")]
    backbone = keras.Sequential(layers)
    image = MobileClipImageEncoder(backbone, EMBED_DIM, image_size=64, dtype="float64")
    model = MobileClipModel(image, small_model(None, TEXT, "float64").text_encoder, dtype="float64")
    assert difference(step(model), step(with_remat(model))) < 1e-12
    assert "Sequential" in again


@pytest.mark.backend
def test_it_is_asked_for_in_many_ways_and_saved(tmp_path: Path) -> None:
    model = small_model("small_vit", TEXT, variant="mobileclip_s0")
    assert not model.remat and "remat" not in str(model.get_config())
    model.train_function = "compiled for what it was"
    model.remat = True
    assert model.remat and model.image_encoder.remat and model.text_encoder.remat and model.train_function is None
    for again in (copy_model(model), from_keras_file(model, tmp_path), from_pretrained(model, tmp_path)):
        assert again.remat
    model.remat = False
    assert not from_pretrained(model, tmp_path / "plain").remat
    assert MobileClipModel.from_pretrained(tmp_path / "plain" / "model", remat=True).remat
    assert not MobileClipModel.from_pretrained(tmp_path / "model", towers="text").image_encoder
    assert MobileClipImageEncoder("small_vit", EMBED_DIM, remat=True).remat


@pytest.mark.backend
def test_only_training_is_concerned(again: list[str]) -> None:
    model = small_model("small_vit", TEXT)
    model.remat = True
    model.encode_text(PAIRS["text"])
    model.text_encoder(keras.ops.convert_to_tensor(PAIRS["text"]), training=False)
    assert not again
    model.text_encoder(keras.ops.convert_to_tensor(PAIRS["text"]), training=True)
    assert again == ["RepMixerBlock", "TransformerBlock"]


@nightly_on("jax", "tensorflow")
@pytest.mark.parametrize(
    ("scope", "blocks"),
    [
        ({"mode": "full"}, 7),
        ({"mode": "list_of_layers", "layer_names": ["image_encoder"]}, 5),
        ({"mode": "list_of_layers", "layer_names": ["blocks_0"]}, 0),
    ],
)
def test_keras_own_scope_does_the_same(scope: dict[str, Any], blocks: int, again: list[str]) -> None:
    model = small_model("small_vit", TEXT, "float64")
    expected = step(model)
    with keras.RematScope(**scope):
        found = step(model)
    assert difference(expected, found) < 1e-12
    assert (len(again) >= blocks) if blocks else not again


def test_layers_that_add_losses_are_refused() -> None:
    regular = keras.layers.Conv2D(8, 16, 16, activity_regularizer="l2")
    backbone = keras.Sequential([keras.Input((64, 64, 3)), regular])
    image = MobileClipImageEncoder(backbone, EMBED_DIM, image_size=64, remat=True)
    with pytest.raises(ValueError, match="remat does not go with layers that add losses"):
        image(np.zeros((2, 64, 64, 3), "float32"), training=True)
