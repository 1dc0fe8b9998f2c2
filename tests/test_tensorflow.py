"""What TensorFlow alone has: SavedModels, LiteRT models, strategies of distribution.

TensorFlow is imported within the tests: those of other backends gather this file, too.
"""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from mobileclip_keras.keras_models import kernels
from mobileclip_keras.keras_models.kernels import float64_enabled, gelu, memory
from mobileclip_keras.keras_models.kernels.keras_internals import TakesTokens

from .small import small_model
from .support import TOKENS, error, images

pytestmark = pytest.mark.usefixtures("small_towers")

INPUTS = {"image": images(64, 2), "text": TOKENS[:2].astype("int32")}  # of int64, LiteRT finds no largest one


def exported(model: keras.Model, folder: Path, inputs: Any) -> Any:
    """What a SavedModel of a model gives for some inputs."""
    import tensorflow

    signature = keras.tree.map_structure(lambda array: tensorflow.TensorSpec(array.shape, array.dtype), inputs)
    model.export(folder, input_signature=[signature], verbose=False)
    loaded = tensorflow.saved_model.load(str(folder))
    return loaded.serve(inputs)


def in_litert(converter: Any, inputs: np.ndarray) -> np.ndarray:
    """What a LiteRT model of built-in operations alone gives for one input."""
    import tensorflow

    interpreter = tensorflow.lite.Interpreter(model_content=converter.convert())
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], inputs)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


@pytest.mark.filterwarnings("ignore")
def test_models_of_tokens_are_exported_without_the_private_part_of_keras(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The public way to a SavedModel does not depend on it."""
    monkeypatch.delattr(TakesTokens, "_default_save_signature")
    model = small_model("small_mci", "small_mct", form="inference")
    for found, inputs in ((model, INPUTS), (model.text_encoder, INPUTS["text"])):
        made, expected = exported(found, tmp_path / found.name, inputs), found(inputs, training=False)
        for value, wanted in zip(keras.tree.flatten(made), keras.tree.flatten(expected), strict=True):
            assert error(np.asarray(value), np.asarray(wanted)) < 1e-5


@pytest.mark.filterwarnings("ignore")
def test_keras_exports_a_model_of_tokens_for_litert(tmp_path: Path) -> None:
    encoder = small_model(None, "small_mct", form="inference").text_encoder
    signature = [keras.InputSpec(shape=(1, 77), dtype="int32")]
    encoder.export(tmp_path / "text.tflite", format="litert", input_signature=signature, verbose=False)
    assert (tmp_path / "text.tflite").stat().st_size > 1000


@pytest.mark.nightly  # bundles are exported by day
@pytest.mark.filterwarnings("ignore")  # TensorFlow's own, of what it will take out
@pytest.mark.parametrize("form", ["inference", "train"])
def test_models_are_exported_for_tensorflow_and_litert(tmp_path: Path, form: str) -> None:
    import tensorflow

    model = small_model("small_mci", "small_mct", form=form)
    expected = model(INPUTS, training=False)
    for name, value in exported(model, tmp_path / "both", INPUTS).items():
        assert error(np.asarray(value), np.asarray(expected[name])) < 1e-5, name
    assert tensorflow.lite.TFLiteConverter.from_saved_model(str(tmp_path / "both")).convert()
    for tower, encoder in (("image", model.image_encoder), ("text", model.text_encoder)):
        given = np.asarray(encoder(INPUTS[tower], training=False))
        assert error(np.asarray(exported(encoder, tmp_path / tower, INPUTS[tower])), given) < 1e-5, tower
        converter = tensorflow.lite.TFLiteConverter.from_saved_model(str(tmp_path / tower))
        assert error(in_litert(converter, INPUTS[tower]), given) < 1e-5, tower


@pytest.mark.filterwarnings("ignore")
def test_litert_takes_gelu_for_its_own() -> None:
    import tensorflow

    inputs = np.linspace(-6, 6, 64, dtype="float32")
    signature = [tensorflow.TensorSpec(inputs.shape, "float32")]
    function = tensorflow.function(gelu, input_signature=signature).get_concrete_function()
    made = in_litert(tensorflow.lite.TFLiteConverter.from_concrete_functions([function]), inputs)
    with float64_enabled():
        exact = keras.ops.convert_to_numpy(gelu(keras.ops.convert_to_tensor(inputs.astype("float64"))))
    assert np.abs(made - exact).max() < 4 * np.finfo("float32").eps


def test_variables_of_a_strategy_are_filled_and_seen() -> None:
    import tensorflow

    with tensorflow.distribute.MirroredStrategy(["CPU:0"]).scope():
        variable = keras.Variable(np.zeros((4, 3)), dtype="float32")
    memory.fill(variable, np.arange(12.0).reshape(3, 4).T)
    seen = kernels.view(variable)
    assert seen is not None and np.array_equal(seen, np.arange(12.0).reshape(3, 4).T)
