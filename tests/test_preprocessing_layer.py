"""The Keras layer against `ImagePreprocessor`, which is torchvision's bit for bit."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image

from mobileclip_keras.keras_models.inputs.preprocessing import ImagePreprocessor
from mobileclip_keras.keras_models.inputs.preprocessing_layer import PreprocessingLayer
from mobileclip_keras.keras_models.registry import OPENAI_MEAN, OPENAI_STD

pytestmark = pytest.mark.backend

PHOTOS = sorted((Path(__file__).parent.parent / "verify" / "photos").glob("*.jpg"))
ROUNDING = 1.5e-7  # what the layer's docstring states, in units of [0, 1]; one 8-bit step is 4e-3

PREPROCESSORS = [
    ImagePreprocessor(256),
    ImagePreprocessor(224, interpolation="bicubic"),
    ImagePreprocessor(96, OPENAI_MEAN, OPENAI_STD),
]


def pixels(path: Path, scale: float = 1.0) -> np.ndarray:
    image = Image.open(path).convert("RGB")
    return np.asarray(image.resize((int(image.width * scale), int(image.height * scale))))


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng([height, width]).integers(0, 256, (height, width, 3), dtype=np.uint8)


def assert_close(ours: object, image: np.ndarray, preprocess: ImagePreprocessor) -> None:
    difference = np.abs(keras.ops.convert_to_numpy(ours) - preprocess(image)) * np.float32(preprocess.std)
    height, width = image.shape[-3:-1]
    # Tall images: see the layer's docstring.
    assert difference.max() <= (ROUNDING if height <= 2 * width else 2.01 / 255), image.shape


@pytest.mark.parametrize("preprocess", PREPROCESSORS, ids=str)
def test_photographs_and_batches(preprocess: Any) -> None:
    layer = preprocess.as_layer()
    for image in (pixels(PHOTOS[0], 2.7), pixels(PHOTOS[3], 0.3)):
        result = layer(image)
        assert tuple(result.shape) == (preprocess.image_size, preprocess.image_size, 3)
        assert keras.backend.standardize_dtype(result.dtype) == "float32"
        assert_close(result, image, preprocess)
    batch = np.stack([pixels(PHOTOS[2]), pixels(PHOTOS[2])[::-1]])
    assert_close(layer(batch), batch, preprocess)
    assert_close(layer(batch.astype("float32")), batch, preprocess)


@pytest.mark.parametrize("preprocess", PREPROCESSORS, ids=str)
def test_in_a_tf_data_pipeline_whatever_keras_runs_on(preprocess: Any) -> None:
    tf = pytest.importorskip("tensorflow")
    rng = np.random.default_rng(0)
    sizes = [(1, 1), (1, 60), (60, 1), (256, 256), (257, 256), (255, 300), (512, 512), (448, 900)]
    sizes += [(int(h), int(w)) for h, w in rng.integers(4, 600, (30, 2))]
    assert sum(h <= 2 * w for h, w in sizes) > 25
    images = [noise(*size) for size in sizes] + [pixels(path) for path in PHOTOS]
    signature = tf.TensorSpec((None, None, 3), tf.uint8)
    dataset = tf.data.Dataset.from_generator(lambda: iter(images), output_signature=signature)
    dataset = dataset.map(preprocess.as_layer())
    assert dataset.element_spec.shape == (preprocess.image_size, preprocess.image_size, 3)
    results = list(dataset.as_numpy_iterator())
    assert len(results) == len(images)
    for image, result in zip(images, results, strict=True):
        assert_close(result, image, preprocess)


@pytest.mark.parametrize("size", [(None, None), (213, 320)])
@pytest.mark.parametrize("jit_compile", [False, "auto"])
def test_inside_a_model_that_is_saved_and_loaded(tmp_path: Path, size: int, jit_compile: Any) -> None:
    preprocess = PREPROCESSORS[2]
    inputs = keras.Input((*size, 3), dtype="uint8")
    model = keras.Model(inputs, PreprocessingLayer(96, OPENAI_MEAN, OPENAI_STD, name="preprocessing")(inputs))
    assert model.output_shape == (None, 96, 96, 3)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.get_layer("preprocessing").get_config() == model.get_layer("preprocessing").get_config()
    batch = np.stack([pixels(PHOTOS[2]), pixels(PHOTOS[2])[:, ::-1]])
    for each in (model, loaded):
        if keras.backend.backend() != "torch":  # whose compiler is not what is tested here
            each.compile(jit_compile=jit_compile)
        assert_close(each.predict(batch, verbose=0), batch, preprocess)


def test_stays_in_float32_under_another_policy_and_image_format() -> None:
    keras.config.set_dtype_policy("mixed_float16")
    image_format = keras.config.image_data_format()
    keras.config.set_image_data_format("channels_first")
    try:
        assert_close(PREPROCESSORS[2].as_layer()(pixels(PHOTOS[0])), pixels(PHOTOS[0]), PREPROCESSORS[2])
    finally:
        keras.config.set_image_data_format(image_format)


def test_what_it_cannot_do_is_refused() -> None:
    with pytest.raises(ValueError, match="three channels"):
        PreprocessingLayer(32)(np.zeros((40, 50, 4), np.uint8))
    with pytest.raises(ValueError, match="interpolation must be"):
        PreprocessingLayer(32, interpolation="lanczos")
