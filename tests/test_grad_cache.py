"""Batches that do not fit: chunk by chunk, `fit` takes the step that it would take with the whole batch."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from mobileclip_keras.keras_models import kernels
from mobileclip_keras.keras_models.kernels import plain
from mobileclip_keras.keras_models.models.copying import copy_model
from mobileclip_keras.keras_models.models.image_encoder import MobileClipImageEncoder
from mobileclip_keras.keras_models.models.model import MobileClipModel
from mobileclip_keras.keras_models.training.grad_cache import InChunks

from .small import EMBED_DIM, small_model
from .support import nightly_on
from .training_steps import CHUNK, PAIRS, ROWS, TEXT, difference, name_of, step

pytestmark = pytest.mark.usefixtures("small_towers")


@pytest.fixture(scope="module")
def model(small_towers: None) -> MobileClipModel:
    """In float64, with batch norms in the text tower, which learn."""
    return small_model("small_vit", TEXT, "float64")


@pytest.fixture
def fixed_norms(model: MobileClipModel) -> MobileClipModel:
    copy = copy_model(model)
    copy.freeze(norms=True)
    return copy


@nightly_on("jax")  # which compiles for long; tests/test_kernels.py has the same in small
def test_the_gradient_is_that_of_the_whole_batch(fixed_norms: MobileClipModel) -> None:
    options = {"sample_weight": np.linspace(0.5, 2, ROWS)}
    whole, unweighted = step(fixed_norms, None, **options), step(fixed_norms, None)
    assert abs(whole["loss"] - unweighted["loss"]) > 0.01
    assert sum(np.abs(value).max() > 1e-6 for name, value in whole.items() if name.endswith("gradient")) > 25
    assert difference(whole, step(fixed_norms, CHUNK, **options)) < 1e-12


@nightly_on("jax", "tensorflow")
def test_what_is_frozen_stays_and_a_part_within_is_trained(fixed_norms: MobileClipModel) -> None:
    fixed_norms.freeze(image=True)
    fixed_norms.image_encoder.projection.trainable = True
    whole, chunked = step(fixed_norms, None), step(fixed_norms, CHUNK)
    assert difference(whole, chunked) < 1e-12
    image = {name_of(n, v): v for n, v in enumerate(fixed_norms.weights) if v.path.startswith("image_encoder")}
    moved = [name for name, v in image.items() if not np.array_equal(keras.ops.convert_to_numpy(v), chunked[name])]
    assert len(moved) == 1 and moved[0].endswith("kernel gradient")


@nightly_on("jax")  # which compiles for long; tests/test_kernels.py has the same in small
def test_chunks_are_computed_again_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropout and learning batch norms, against the same chunks with nothing dropped and nothing computed again."""
    layers = [keras.Input((64, 64, 3)), keras.layers.Conv2D(8, 16, 16, activation="gelu", dtype="float64")]
    layers += [keras.layers.BatchNormalization(dtype="float64"), keras.layers.Dropout(0.5, seed=3, dtype="float64")]
    image = MobileClipImageEncoder(keras.Sequential(layers), EMBED_DIM, image_size=64, dtype="float64")
    model = MobileClipModel(image, small_model(None, TEXT, "float64").text_encoder, dtype="float64")
    chunked = step(model, CHUNK)
    monkeypatch.setattr(kernels, "in_chunks", plain.in_chunks)
    kept = step(model, CHUNK, eager=keras.backend.backend() == "tensorflow")
    if (
        keras.backend.backend() == "jax"
    ):  # Keras' own batch norm moves its averages in float32 there, once for each chunk
        averages = [name for name in kept if name.startswith(("5 moving", "6 moving"))]
        assert len(averages) == 2
        for name in averages:
            assert np.allclose(kept.pop(name), chunked.pop(name), rtol=3 * 2**-23, atol=0)
    assert difference(kept, chunked) < 1e-12
    monkeypatch.undo()
    if keras.backend.backend() == "tensorflow":
        assert difference(kept, step(model, CHUNK, eager=True)) < 1e-12
    counted = {name_of(n, v): v for n, v in enumerate(model.weights) if v.name == "num_batches_tracked"}
    assert counted and all(chunked[name] == int(v.value) + 3 for name, v in counted.items())


@nightly_on("jax", "tensorflow")
def test_in_float32(model: MobileClipModel) -> None:
    single = copy_model(model, "float32")
    single.freeze(norms=True)
    assert difference(step(single, None), step(single, CHUNK)) < 1e-5


@nightly_on("jax")  # which compiles for long; tests/test_kernels.py has the same in small
def test_evaluate_and_saved_models_keep_to_chunks(fixed_norms: MobileClipModel, tmp_path: Path) -> None:
    fixed_norms.compile(keras.optimizers.SGD(), chunk_size=CHUNK)
    sizes: list[int | None] = []
    original = InChunks.call

    def counted(self: InChunks, rows: Any, training: bool | None = None) -> Any:
        sizes.append(self.size)
        return original(self, rows, training)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InChunks, "call", counted)
        chunked = fixed_norms.evaluate(PAIRS, batch_size=ROWS, verbose=0)
        assert sizes == [CHUNK, CHUNK]
        fixed_norms.predict(PAIRS, batch_size=ROWS, verbose=0)
        assert len(sizes) == 2
        fixed_norms.save(tmp_path / "model.keras")
        again = keras.saving.load_model(tmp_path / "model.keras")
        assert again.evaluate(PAIRS, batch_size=ROWS, verbose=0) == pytest.approx(chunked, rel=1e-12)
        assert len(sizes) == 4
        again.compile()
        assert again.evaluate(PAIRS, batch_size=ROWS, verbose=0) == pytest.approx(chunked, rel=1e-12)
        assert len(sizes) == 4


def test_what_does_not_go_with_chunks_is_refused(fixed_norms: MobileClipModel) -> None:
    for size in (0, -1, 2.0, True, "all"):
        with pytest.raises(ValueError, match="chunk_size is the largest number of pairs computed at once"):
            fixed_norms.compile(chunk_size=size)
    if keras.backend.backend() == "tensorflow":
        with pytest.raises(ValueError, match="does not go with jit_compile=True"):
            fixed_norms.compile(chunk_size=2, jit_compile=True)
    regular = keras.layers.Conv2D(8, 16, 16, activity_regularizer="l2")
    image = MobileClipImageEncoder(keras.Sequential([keras.Input((64, 64, 3)), regular]), EMBED_DIM, image_size=64)
    model = MobileClipModel(image, small_model(None, TEXT).text_encoder)
    model.compile(keras.optimizers.SGD(), chunk_size=CHUNK)
    with pytest.raises(ValueError, match="add losses of their own"):
        model.fit(PAIRS, batch_size=ROWS, verbose=0)
