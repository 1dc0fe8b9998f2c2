"""What is exported computes the same in the operations that its runtime is fast at."""

from collections import Counter
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from mobileclip_keras.converters.deploy.jobs import write_part
from mobileclip_keras.converters.deploy.request import make_request
from mobileclip_keras.converters.deploy.runtimes.onnx_gelu import with_gelu
from mobileclip_keras.converters.deploy.runtimes.onnx_norms import with_layer_norms
from mobileclip_keras.converters.deploy.runtimes.parts import Part, parts_of
from mobileclip_keras.converters.deploy.runtimes.registry import RUNTIMES, open_tower
from mobileclip_keras.keras_models import kernels
from mobileclip_keras.keras_models.formulation import Formulation, formulated, parts_of_kernel
from mobileclip_keras.keras_models.kernels import plain

from .small import small_model

pytestmark = [
    pytest.mark.usefixtures("small_towers"),
    pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="every route goes through TensorFlow"),
]

RANDOM = np.random.default_rng(0)
EXACT = 1e-12
MOST_TAPS = 25


def normal(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape)


def difference(made: Any, expected: Any) -> float:
    return float(np.abs(np.asarray(made) - np.asarray(expected)).max())


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        ((7, 7), [25, 14, 10]),
        ((9, 9), [25, 18, 14, 14, 10]),
        ((5, 7), [15, 14, 6]),
        ((3, 3), [9]),
        ((5, 5), [25]),
        ((1, 31), [31]),
    ],
)
def test_the_parts_of_a_kernel_are_the_kernel(shape: tuple[int, int], sizes: list[int]) -> None:
    parts = parts_of_kernel(*shape, MOST_TAPS)
    counted = np.zeros(shape, int)
    for rows, columns, _ in parts:
        counted[rows, columns] += 1
    assert (counted == 1).all()
    assert [counted[rows, columns].size for rows, columns, _ in parts] == sizes


@pytest.mark.parametrize("kernel", [(7, 7), (9, 7), (3, 3)])
@pytest.mark.parametrize("multiplier", [1, 2])
@pytest.mark.parametrize("strides", [1, 2])
def test_a_depthwise_convolution_by_parts_is_the_same(kernel: tuple[int, int], multiplier: int, strides: int) -> None:
    arrays = normal(2, 9, 12, 5), normal(*kernel, 5, multiplier), normal(5 * multiplier)
    how = {"strides": strides, "padding": (kernel[0] // 2, kernel[1] // 2), "depthwise": True}
    with formulated(Formulation(most_taps=MOST_TAPS)):
        made = kernels.convolve(*arrays, **how)
        without_bias = kernels.convolve(*arrays[:2], **how)
    assert difference(made, plain.convolve(*arrays, **how)) < EXACT
    assert difference(without_bias, plain.convolve(*arrays[:2], **how)) < EXACT


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", [None, plain.gelu])
def test_a_dense_layer_over_images_is_the_same_as_a_convolution(bias: bool, activation: Any) -> None:
    given = normal(2, 3, 4, 8), normal(8, 6), normal(6) if bias else None, activation
    with formulated(Formulation(dense_as_convolution=True)):
        made = kernels.dense(*given)
    assert difference(made, plain.dense(*given)) < EXACT


@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_a_norm_of_distances_is_the_same(dtype: str) -> None:
    given = [keras.ops.cast(array, dtype) for array in (normal(2, 5, 8) + 3, normal(8), normal(8))]
    with formulated(Formulation(norm_of_distances=True)):
        made = kernels.layer_norm(*given, 1e-2)
    assert keras.backend.standardize_dtype(made.dtype) == dtype
    # Both round to float16 once, so they are a step apart at most. Of numbers from 8 to 16 it is 2^-7.
    assert difference(made, kernels.layer_norm(*given, 1e-2)) <= (EXACT if dtype == "float64" else 2**-7)


@pytest.mark.parametrize("batch", [1, 2, None])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("scaled", ["queries", "scores", "packed"])
@pytest.mark.parametrize("without_batch", [True, False])
def test_attention_is_the_same_wherever_it_is_scaled(
    batch: int | None, causal: bool, scaled: Any, without_batch: bool
) -> None:
    import tensorflow as tf

    packed = normal(batch or 3, 5, 24)
    with formulated(Formulation(scaled=scaled, one_without_batch=without_batch)):
        attend = tf.function(lambda given: kernels.attention(given, 2, causal))
        traced = attend.get_concrete_function(tf.TensorSpec((batch, 5, 24), tf.float64))
    assert difference(traced(tf.constant(packed)), plain.attention(packed, 2, causal)) < EXACT
    most = max(len(each.shape) for node in traced.graph.get_operations() for each in node.outputs if each.shape.rank)
    assert most == (3 if batch == 1 and without_batch and scaled != "queries" else 4)


def image_part() -> Part:
    request = make_request("litert", ("image",))
    return parts_of(small_model("small_mci", None, form="inference"), request, None)[0]


def run_it(part: Part, runtime: str, path: Path) -> np.ndarray:
    """The features of an image."""
    given = {"image": np.random.default_rng(1).uniform(size=(1, *part.inputs["image"][0])).astype(np.float32)}
    run = open_tower(runtime, path, 1, RUNTIMES[runtime].ways[0])
    return run(given)["image_features"]


def written(runtime: str, part: Part, folder: Path) -> Path:
    request = make_request(runtime, ("image",), batch="1")
    path = folder / f"image{request.how.suffix}"
    write_part(part, request, path)
    return path


def test_litert_gets_no_large_depthwise_kernel(tmp_path: Path) -> None:
    """Of those with a stride of 1. Each is as fast as the others only up to 25 numbers."""
    part = image_part()
    path = written("litert", part, tmp_path)
    kernel_shapes = [
        each.inputs[1].shape
        for each in RUNTIMES["litert"].code.operations(path)
        if each.kind == "DEPTHWISE_CONV_2D" and each.inputs[0].shape[1] == each.outputs[0].shape[1]
    ]
    sizes = Counter(shape[1] * shape[2] for shape in kernel_shapes)
    assert max(sizes) <= MOST_TAPS and sizes[14] == sizes[10] > 0


def test_onnx_gets_convolutions_and_gelu(tmp_path: Path) -> None:
    part = image_part()
    counted = Counter(each.kind for each in RUNTIMES["onnx"].code.operations(written("onnx", part, tmp_path)))
    assert counted["Gelu"] > 0 and not counted["Erf"]


@pytest.mark.parametrize("runtime", ["litert", "onnx", "openvino"])
def test_every_runtime_gives_what_tensorflow_gives(runtime: str, tmp_path: Path) -> None:
    part = image_part()
    given = np.random.default_rng(1).uniform(size=(1, *part.inputs["image"][0])).astype(np.float32)
    expected = part.function({"image": keras.ops.convert_to_tensor(given)})["image_features"]
    assert difference(run_it(part, runtime, written(runtime, part, tmp_path)), expected) < 1e-6


def erf_model(half: float = 0.5, root: float = 0.5**0.5, one: float = 1.0, shown: bool = False) -> Any:
    """x times some number, times (some number + erf(x times some number)); with an inner tensor among its outputs."""
    from onnx import TensorProto, checker, helper

    def number(name: str, value: float) -> Any:
        return helper.make_tensor(name, TensorProto.FLOAT, [1, 1], [value])

    def tensor(name: str) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", 4])

    nodes = [
        helper.make_node("Mul", ["x", "root"], ["scaled"]),
        helper.make_node("Erf", ["scaled"], ["erf"]),
        helper.make_node("Add", ["one", "erf"], ["sum"]),
        helper.make_node("Mul", ["half", "x"], ["halved"]),
        helper.make_node("Mul", ["halved", "sum"], ["y"]),
    ]
    outputs = [tensor("y"), *([tensor("erf")] if shown else [])]
    numbers = [number("half", half), number("root", root), number("one", one)]
    graph = helper.make_graph(nodes, "gelu", [tensor("x")], outputs, numbers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    checker.check_model(model)
    return model


def test_gelu_is_told_by_its_numbers() -> None:
    import onnx

    made = with_gelu(erf_model())
    onnx.checker.check_model(made)
    assert [node.op_type for node in made.graph.node] == ["Gelu"]
    for changes in ({"half": 0.4}, {"root": 0.7}, {"one": 0.9}, {"shown": True}):
        other = with_gelu(erf_model(**changes))  # type: ignore[arg-type]
        assert [node.op_type for node in other.graph.node].count("Erf") == 1, changes
        assert other.opset_import[0].version == 18


def norm_model(changed: dict[str, list[str]] | None = None, axis: int = -1, keepdims: int = 1, shown: str = "") -> Any:
    """A layer norm as it is converted, with other inputs of some operations, by the name of their output."""
    from onnx import TensorProto, checker, helper

    def tensor(name: str, shape: list[Any]) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.DOUBLE, shape)

    constants = {"epsilon": [2.0**-17], "gamma": [1.0, 2.0, 3.0, 4.0], "beta": [4.0, 3.0, 2.0, 1.0]}
    graph = {
        "mean": ("ReduceMean", ["x", "axes"]),
        "apart": ("Sub", ["x", "mean"]),
        "square": ("Mul", ["apart", "apart"]),
        "variance": ("ReduceMean", ["square", "axes"]),
        "wide": ("Add", ["variance", "epsilon"]),
        "root": ("Sqrt", ["wide"]),
        "normed": ("Div", ["apart", "root"]),
        "scaled": ("Mul", ["normed", "gamma"]),
        "y": ("Add", ["scaled", "beta"]),
    }
    nodes = [
        helper.make_node(
            kind,
            (changed or {}).get(name, inputs),
            [name],
            name=name,
            **({"keepdims": keepdims} if kind == "ReduceMean" else {}),
        )
        for name, (kind, inputs) in graph.items()
    ]
    numbers = [helper.make_tensor(name, TensorProto.DOUBLE, [len(each)], each) for name, each in constants.items()]
    numbers += [helper.make_tensor(name, TensorProto.INT64, [1], [at]) for name, at in (("axes", axis), ("first", 1))]
    given = [tensor("x", [4, 4, 4]), tensor("other", [4, 4, 4])]
    outputs = [tensor("y", [4, 4, 4]), *([tensor(shown, ["a", "b", "c"])] if shown else [])]
    made = helper.make_graph(nodes, "norm", given, outputs, numbers)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    checker.check_model(model)
    return model


TURNED = {"y": ["beta", "scaled"], "scaled": ["gamma", "normed"], "wide": ["epsilon", "variance"]}


@pytest.mark.parametrize("turned", [{}, TURNED])
def test_onnx_computes_the_layer_norm_that_was_converted(turned: dict[str, list[str]]) -> None:
    import onnx
    import onnxruntime

    model = norm_model(turned)
    made = with_layer_norms(norm_model(turned))
    onnx.checker.check_model(made)
    assert [node.op_type for node in made.graph.node] == ["LayerNormalization"]
    given = {name: np.random.default_rng(2).normal(3, 5, (4, 4, 4)) for name in ("x", "other")}
    expected, found = (
        onnxruntime.InferenceSession(each.SerializeToString()).run(["y"], given)[0] for each in (model, made)
    )
    assert difference(found, expected) < EXACT


@pytest.mark.parametrize(
    "changes",
    [
        {"changed": {"mean": ["x", "first"]}},
        {"changed": {"variance": ["square", "first"]}},
        {"changed": {"apart": ["other", "mean"]}},
        {"changed": {"apart": ["mean", "x"]}},
        {"changed": {"square": ["apart", "x"]}},
        {"changed": {"square": ["x", "x"]}},
        {"changed": {"variance": ["apart", "axes"]}},
        {"changed": {"wide": ["variance", "gamma"]}},
        {"changed": {"wide": ["mean", "epsilon"]}},
        {"changed": {"root": ["variance"]}},
        {"changed": {"normed": ["root", "apart"]}},
        {"changed": {"normed": ["x", "root"]}},
        {"changed": {"normed": ["apart", "wide"]}},
        {"changed": {"scaled": ["normed", "other"]}},
        {"changed": {"y": ["scaled", "other"]}},
        {"axis": 1},
        {"keepdims": 0},
        *({"shown": name} for name in ("mean", "apart", "square", "variance", "wide", "root", "normed", "scaled")),
    ],
    ids=str,
)
def test_what_is_no_layer_norm_stays(changes: dict[str, Any]) -> None:
    before = norm_model(**changes)
    assert with_layer_norms(norm_model(**changes)) == before


@pytest.mark.parametrize(("runtime", "norm"), [("onnx", "LayerNormalization"), ("openvino", "MVN")])
def test_transformers_are_written_as_their_runtime_knows_them(runtime: str, norm: str, tmp_path: Path) -> None:
    (part,) = parts_of(
        small_model("small_vit", None, form="inference"), make_request(runtime, ("image",), batch="1"), None
    )
    operations = list(RUNTIMES[runtime].code.operations(written(runtime, part, tmp_path)))
    counted = Counter(each.kind for each in operations)
    assert counted[norm] == 5 and not counted["ReduceMean"]
    if runtime == "onnx":
        assert {len(each.inputs[0].shape) for each in operations if each.kind == "Softmax"} == {3}
    else:
        assert counted["ScaledDotProductAttention"] == 1
