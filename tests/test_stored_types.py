"""Files of rounded weights: each type takes its bits, and computes as its recipe says."""

import os
import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from mobileclip_keras.converters.deploy.half import store_rounded
from mobileclip_keras.converters.deploy.quantize.options import PRECISIONS
from mobileclip_keras.converters.deploy.quantize.rounded_inputs import to_bytes
from mobileclip_keras.converters.deploy.quantize.rounding import BITS, rounded, to_half
from mobileclip_keras.converters.deploy.runtimes import litert
from mobileclip_keras.converters.deploy.runtimes.lint import layer_of
from mobileclip_keras.converters.deploy.runtimes.registry import RUNTIMES

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="every route goes through TensorFlow")

LITERT, ONNX = RUNTIMES["litert"], RUNTIMES["onnx"]
KERNEL = np.random.default_rng(0).normal(size=(512, 128)).astype(np.float32)
ROWS = np.random.default_rng(1).normal(size=(1, 512)).astype(np.float32)


def kernel_of(precision: str) -> np.ndarray:
    if precision in BITS:
        return rounded(KERNEL, (1,), BITS[precision])
    return to_half(KERNEL) if precision == "float16" else KERNEL


@pytest.fixture(scope="module")
def float_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """LiteRT files of dense layers, by the precision that their numbers fit; stored as floats. Not to be changed."""
    place = tmp_path_factory.mktemp("floats")
    return {name: written(kernel_of(name), place / f"of_{name}.tflite") for name in PRECISIONS}


def written(kernel: np.ndarray, path: Path, to: str = "litert") -> Path:
    """A dense layer, or a 1 x 1 convolution, as a runtime's file."""
    import tensorflow as tf

    module: Any = tf.Module()
    module.kernel = tf.Variable(kernel)
    shape = (1, 4, 4, 512) if kernel.ndim == 4 else (1, 512)

    @tf.function(input_signature=[tf.TensorSpec(shape, tf.float32, name="rows")])
    def serve(rows: Any) -> Any:
        product = tf.nn.conv2d(rows, module.kernel, 1, "SAME") if kernel.ndim == 4 else rows @ module.kernel
        return {"features": product}

    tf.saved_model.save(module, str(path.with_suffix("")), signatures={"serving_default": serve})
    RUNTIMES[to].code.write(path.with_suffix(""), path, (1,))
    return path


def onnx_file(kernel: np.ndarray, path: Path) -> Path:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rows, features = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("rows", "features"))
    node = helper.make_node("MatMul", ["rows", "kernel"], ["features"])
    graph = helper.make_graph([node], "dense", [rows], [features], [numpy_helper.from_array(kernel, "kernel")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), str(path))
    return path


@pytest.mark.parametrize("runtime", ["litert", "onnx"])
def test_each_type_takes_its_bits(runtime: str, float_files: dict[str, Path], tmp_path: Path) -> None:
    how = RUNTIMES[runtime]
    sizes = {}
    for precision in PRECISIONS:
        path = tmp_path / f"of_{precision}{how.suffix}"
        if how is LITERT:
            shutil.copy(float_files[precision], path)
        else:
            onnx_file(kernel_of(precision), path)
        store_rounded(how, path, None)
        sizes[precision] = path.stat().st_size
        (made,) = how.code.open_tower(path, 1)({"rows": ROWS}).values()
        in_integers = precision == "int4" and how is LITERT
        given = keras.ops.convert_to_numpy(to_bytes(ROWS, 512)) if in_integers else ROWS
        assert np.allclose(made, given @ kernel_of(precision), atol=1e-3)
    bits = {"int4": 4, "int8": 8, "float16": 16, "float32": 32}
    for precision, size in sizes.items():
        scales = 12 * KERNEL.shape[1] if precision in BITS else 0  # LiteRT has a scale, and where zero lies
        assert 0 <= size - KERNEL.size * bits[precision] / 8 <= scales + 2048, precision


def kinds_of(path: Path) -> dict[str, str]:
    """The operations of a LiteRT file, and the type of the weights of each that has any."""
    return {each.kind: each.inputs[1].dtype for each in LITERT.code.operations(path) if len(each.inputs) > 1}


def restored(path: Path) -> list[str]:
    """What a LiteRT file makes floats of."""
    return [each.inputs[0].dtype for each in LITERT.code.operations(path) if each.kind == "DEQUANTIZE"]


@pytest.mark.parametrize(
    ("precision", "integers", "stored", "floats"),
    [
        ("int8", False, "FLOAT32", ["INT8"]),
        ("int8", True, "INT8", []),
        ("int4", False, "INT4", []),  # there is no fast program for floats
        ("float16", True, "FLOAT32", ["FLOAT16"]),
    ],
)
def test_dense_layers_compute_in_integers(
    precision: str, integers: bool, stored: str, floats: list[str], float_files: dict[str, Path], tmp_path: Path
) -> None:
    path = Path(shutil.copy(float_files[precision], tmp_path / "dense.tflite"))
    store_rounded(LITERT, path, [] if integers else None)
    assert kinds_of(path)["FULLY_CONNECTED"] == stored and restored(path) == floats


BLOCK = "text_encoder/backbone/blocks_2"
BLOCK_1 = "text_encoder_1/backbone_1/blocks_2_1"


@pytest.mark.parametrize(
    ("name", "layer", "found"),
    [
        (f"{BLOCK_1}/mlp_1/fc1_1/MatMul;{BLOCK_1}/mlp_1/fc1_1/BiasAdd", f"{BLOCK}/mlp/fc1", True),
        (f"{BLOCK_1}/mlp_1/fc1_1/MatMul;", f"{BLOCK}/mlp/fc2", False),
        # A sum that the converter makes part of the product stands first.
        (f"{BLOCK_1}/mlp_1/conv_1/add;{BLOCK_1}/mlp_1/fc1_1/MatMul;", f"{BLOCK}/mlp/fc1", True),
        (f"{BLOCK_1}/Reshape_1;{BLOCK_1}/attn_1/proj_1/Reshape_1", f"{BLOCK}/attn/proj", True),
        (f"{BLOCK_1}/Reshape_1;{BLOCK_1}/attn_1/proj_1/Reshape_1", f"{BLOCK}/mlp/fc1", False),
        # A part of a layer's weight alone.
        (f"{BLOCK_1}/attn_1/matmul_1;{BLOCK_1}/attn_1/add;{BLOCK_1}/attn_1/mul1", f"{BLOCK}/attn/qkv", True),
        (f"{BLOCK_1}/attn_1/matmul_1;", f"{BLOCK}/mlp/fc1", False),
        (f"{BLOCK_1}/attn_1/matmul_1;", "text_encoder/backbone/blocks_2/attn_of_another/qkv", False),
        ("text_encoder_1/projection_1/matmul_31", "text_encoder/projection", True),
    ],
)
def test_an_operation_s_layer_is_known_by_its_name(name: str, layer: str, found: bool) -> None:
    assert litert._is_of(name, ["text_encoder/backbone/blocks_0/mlp/fc1", layer]) == found
    assert not litert._is_of(name, ["text_encoder/backbone/blocks_0/mlp/fc1"]) and not litert._is_of(name, [])


@pytest.mark.parametrize("of_it", [True, False])
def test_a_layer_that_is_named_computes_with_floats(of_it: bool, float_files: dict[str, Path], tmp_path: Path) -> None:
    path = Path(shutil.copy(float_files["int8"], tmp_path / "dense.tflite"))
    (name,) = (each.name for each in LITERT.code.operations(path) if each.kind == "FULLY_CONNECTED")
    store_rounded(LITERT, path, [layer_of(name) if of_it else "another"])
    assert kinds_of(path)["FULLY_CONNECTED"] == ("FLOAT32" if of_it else "INT8")


def test_convolutions_of_few_levels_get_8_bits_and_compute_in_floats(tmp_path: Path) -> None:
    path = written(kernel_of("int4")[None, None], tmp_path / "convolution.tflite")
    store_rounded(LITERT, path, [])
    assert "INT4" not in {*kinds_of(path).values(), *restored(path)}


@pytest.mark.nightly
def test_openvino_takes_folders_with_commas(tmp_path: Path) -> None:
    """Its converter takes a comma in a path for the end of the path."""
    (tmp_path / "cats, dogs").mkdir()
    path = written(KERNEL, tmp_path / "cats, dogs" / "dense.xml", "openvino")
    (made,) = RUNTIMES["openvino"].code.open_tower(path, 1, "float32")({"rows": ROWS}).values()
    assert np.allclose(made, ROWS @ KERNEL, atol=1e-3)


@pytest.mark.parametrize("before", [None, "false"])
def test_openvino_sends_no_record_of_its_use(
    before: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is no network, an export would end only after each message has waited for it."""
    import openvino
    from openvino_telemetry.utils.opt_in_checker import ConsentCheckResult, OptInChecker

    for name in ("CI", "TF_BUILD", "JENKINS_URL"):
        monkeypatch.delenv(name, raising=False)
    if before is not None:
        monkeypatch.setenv("CI", before)
    asked: list[Any] = []
    monkeypatch.setattr(openvino, "convert_model", lambda path: asked.append(OptInChecker().check(False, True)))
    monkeypatch.setattr(openvino, "save_model", lambda *_, **__: None)
    RUNTIMES["openvino"].code.write(tmp_path, tmp_path / "image.xml", (1,))
    assert asked == [ConsentCheckResult.DECLINED] and os.environ.get("CI") == before
