"""Models saved by Keras and loaded again, also on another backend."""

import gc
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest

from mobileclip_keras.keras_models.kernels import memory
from mobileclip_keras.keras_models.kernels.memory import no_collection
from mobileclip_keras.keras_models.models.image_encoder import ImageProjectionHead, MobileClipImageEncoder
from mobileclip_keras.keras_models.models.model import MobileClipModel
from mobileclip_keras.keras_models.store.file_names import CONFIG, WEIGHTS
from mobileclip_keras.keras_models.store.weights_file import save_model

from .small import SMALL_IMAGE_TOWERS, SMALL_TEXT_TOWERS, small_model
from .support import ROOT, TOKENS, call, features, images, weights

pytestmark = pytest.mark.usefixtures("small_towers", "quickly_compiled")

INPUTS = {"image": images(64, 2), "text": TOKENS[:2]}


def outputs(model: keras.Model, inputs: dict[str, np.ndarray] = INPUTS) -> dict[str, np.ndarray]:
    made = call(model, inputs)
    return {key: keras.ops.convert_to_numpy(keras.ops.cast(value, "float64")) for key, value in made.items()}


def assert_same(model: keras.Model, loaded: keras.Model, inputs: dict[str, np.ndarray] = INPUTS) -> None:
    expected = outputs(model, inputs)
    for key, value in outputs(loaded, inputs).items():
        assert np.array_equal(value, expected[key]), key
    assert [v.path for v in model.weights] == [v.path for v in loaded.weights]
    for one, other in zip(weights(model), weights(loaded), strict=True):
        assert np.array_equal(one, other)


@pytest.mark.backend
@pytest.mark.parametrize("form", ["train", "inference"])
def test_a_model_comes_back_from_a_keras_file(tmp_path: Path, form: str) -> None:
    model = small_model(form=form)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(loaded, MobileClipModel) and loaded.form == form
    assert_same(model, loaded)


@pytest.mark.backend
def test_a_model_comes_back_from_an_unzipped_folder(tmp_path: Path) -> None:
    model = small_model("small_vit", "small_transformer_causal")
    keras.saving.save_model(model, tmp_path / "model", zipped=False)
    assert {"config.json", "metadata.json", "model.weights.h5"} <= {p.name for p in (tmp_path / "model").iterdir()}
    assert_same(model, keras.saving.load_model(tmp_path / "model"))


def contents(file: h5py.File) -> dict[str, Any]:
    """Every group of a file with its attributes, and every array."""
    found: dict[str, Any] = {}

    def visit(name: str, item: Any) -> None:
        found[name] = (dict(item.attrs), np.array(item) if isinstance(item, h5py.Dataset) else None)

    file.visititems(visit)
    return found


@pytest.mark.backend
def test_what_is_written_is_what_keras_writes(tmp_path: Path) -> None:
    assert_written_as_by_keras(small_model(), tmp_path)


@pytest.mark.parametrize("options", [{"form": "inference"}, {"image": "small_vit"}, {"dtype": "bfloat16"}])
def test_what_is_written_is_what_keras_writes_of_every_kind(tmp_path: Path, options: dict[str, Any]) -> None:
    assert_written_as_by_keras(small_model(**options), tmp_path)


@pytest.mark.backend
def test_what_is_written_is_what_keras_writes_of_a_functional_model(tmp_path: Path) -> None:
    inputs = keras.Input((None, None, 3))
    features = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3, strides=2)(inputs))
    encoder = MobileClipImageEncoder(keras.Model(inputs, features), 16, image_size=64)
    assert_written_as_by_keras(MobileClipModel(encoder, small_model(None).text_encoder), tmp_path)


def assert_written_as_by_keras(model: MobileClipModel, folder: Path) -> None:
    for variable in model.weights:
        if "float" in variable.dtype:
            variable.assign(np.random.default_rng(0).normal(size=variable.shape))
    keras.saving.save_model(model, folder / "keras", zipped=False)
    save_model(model, folder / "ours")
    configs = ((folder / name / CONFIG).read_text() for name in ("keras", "ours"))
    assert len({re.sub(r', "shared_object_id": \d+', "", config) for config in configs}) == 1
    with h5py.File(folder / "keras" / WEIGHTS) as theirs, h5py.File(folder / "ours" / WEIGHTS) as ours:
        expected, written = contents(theirs), contents(ours)
    assert written.keys() == expected.keys()
    assert len(written) > len(model.weights)
    for name, (attributes, array) in expected.items():
        assert written[name][0] == attributes, name
        if array is not None:
            assert written[name][1].dtype == array.dtype and np.array_equal(written[name][1], array), name


@pytest.mark.parametrize("image", SMALL_IMAGE_TOWERS)
def test_every_image_tower_comes_back(tmp_path: Path, image: str) -> None:
    options = {"norm_epsilon": 1e-6, "stem_padding": 1} if image == "small_vit" else {}
    model = small_model(image, None, projection_bias=True, **options)
    model.save(tmp_path / "model.keras")
    inputs = {"image": images(SMALL_IMAGE_TOWERS[image].image_size, 2)}
    assert_same(model, keras.saving.load_model(tmp_path / "model.keras"), inputs)


@pytest.mark.parametrize("text", SMALL_TEXT_TOWERS)
def test_every_text_tower_comes_back(tmp_path: Path, text: str) -> None:
    model = small_model(None, text)
    model.save(tmp_path / "model.keras")
    assert_same(model, keras.saving.load_model(tmp_path / "model.keras"), {"text": TOKENS})


@pytest.mark.parametrize(
    "policy", ["mixed_float16", *(pytest.param(p, marks=pytest.mark.nightly) for p in ("bfloat16", "float64"))]
)
def test_the_dtype_policy_comes_back(tmp_path: Path, policy: str) -> None:
    model = small_model(dtype=policy)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.dtype_policy.name == loaded.image_encoder.dtype_policy.name == policy
    assert loaded.image_encoder.backbone.stem[0].dtype_policy.name == policy
    assert_same(model, loaded)


@pytest.mark.backend
def test_another_keras_model_as_image_tower_comes_back(tmp_path: Path) -> None:
    inputs = keras.Input((None, None, 3))
    features = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3, strides=2)(inputs))
    encoder = MobileClipImageEncoder(keras.Model(inputs, features), 16, image_size=64)
    model = MobileClipModel(encoder, small_model(None).text_encoder)
    model.save(tmp_path / "model.keras")
    assert_same(model, keras.saving.load_model(tmp_path / "model.keras"))


@pytest.mark.nightly
def test_a_backbone_of_keras_applications_comes_back(tmp_path: Path) -> None:
    model = MobileClipModel(MobileClipImageEncoder("MobileNetV2", 16, image_size=64))
    model.save(tmp_path / "model.keras")
    assert_same(model, keras.saving.load_model(tmp_path / "model.keras"), {"image": images(64, 2)})


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_a_model_saved_on_tensorflow_loads_on(tmp_path: Path, backend: str) -> None:
    model = small_model(form="inference")
    model.save(tmp_path / "model.keras")
    np.savez(tmp_path / "features.npz", **features(model, 64))
    script = tmp_path / "load.py"
    script.write_text(
        "import sys, keras, numpy as np\n"
        "import mobileclip_keras\n"
        "from mobileclip_keras.keras_models.architectures import IMAGE_TOWERS, TEXT_TOWERS\n"
        "from tests.small import SMALL_IMAGE_TOWERS, SMALL_TEXT_TOWERS\n"
        "IMAGE_TOWERS |= SMALL_IMAGE_TOWERS; TEXT_TOWERS |= SMALL_TEXT_TOWERS\n"
        "from tests.support import features\n"
        "made = features(keras.saving.load_model(sys.argv[1]), 64)\n"
        "for key, value in np.load(sys.argv[2]).items():\n"
        "    assert np.abs(value - made[key]).max() < 1e-5, key\n"
        "print(keras.backend.backend())\n"
    )
    ran = subprocess.run(
        [sys.executable, script, tmp_path / "model.keras", tmp_path / "features.npz"],
        env=os.environ | {"KERAS_BACKEND": backend, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == backend


# --- The parts on their own ---


def test_an_encoder_is_a_model_of_its_own(tmp_path: Path) -> None:
    for encoder, inputs in (
        (small_model().image_encoder, images(64, 2)),
        (small_model().text_encoder, TOKENS[:2]),
    ):
        encoder.save(tmp_path / "encoder.keras")
        loaded = keras.saving.load_model(tmp_path / "encoder.keras")
        assert np.array_equal(loaded.predict(inputs, verbose=0), encoder.predict(inputs, verbose=0))
        assert loaded.get_config() == encoder.get_config()


def test_the_projection_head_comes_back_from_its_config() -> None:
    config: dict[str, Any] = ImageProjectionHead(7, use_bias=True, name="head").get_config()
    again = ImageProjectionHead.from_config(config)
    again.build((None, 4, 4, 3))
    assert (again.name, again.embed_dim) == ("head", 7)
    assert [tuple(v.shape) for v in again.weights] == [(3, 7), (7,)]


def test_the_collection_of_garbage_goes_on_as_before() -> None:
    with pytest.raises(ZeroDivisionError), no_collection():
        assert not gc.isenabled()
        raise ZeroDivisionError
    assert gc.isenabled()
    gc.disable()
    try:
        with no_collection():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without fork")
@pytest.mark.parametrize("size", [8, memory.OWN_PAGES])
def test_a_forked_process_has_weights_of_its_own(size: int) -> None:
    array = memory.zeros((size,), "float32")
    child = os.fork()
    if child == 0:
        array[...] = 1
        os._exit(0)
    os.waitpid(child, 0)
    assert not array.any()
