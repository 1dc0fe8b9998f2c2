"""Towers as ONNX files: written by tf2onnx, run by onnxruntime."""

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from ..quantize.rounding import BITS, Axes, how_stored, to_integers
from .onnx_gelu import with_gelu
from .onnx_half import unfit, write_fp16
from .onnx_norms import with_layer_norms
from .onnx_shapes import with_constant_shapes
from .operation import Operation, TensorInfo
from .registry import Arrays, Run
from .saved_model import SIGNATURE, WEIGHT, WEIGHTS_FILE

__all__ = ["unfit", "write_fp16"]  # a runtime's file has them

OPSET = 18
"""The newest that tf2onnx writes."""
THREADS = 2
CATCH_ERRORS = "TF2ONNX_CATCH_ERRORS"
FAILING = "Einsum"
"""An operation that tf2onnx cannot optimise where its equation has "...", as a preprocessor's; it goes on without."""
MOST_OF_A_SHAPE = 1024
"""Bytes. What shapes are computed from is smaller."""


def write(saved: Path, out: Path, batches: tuple[int, ...]) -> None:
    """Converts a SavedModel without weights, then puts these in. Inputs and outputs keep their names.

    tf2onnx copies its graph for every step of its optimiser. With the weights of s0 inside, that took 11 GB.
    """
    import onnx
    from tf2onnx import convert, tf_loader

    graph, inputs, outputs, names = tf_loader.from_saved_model(
        str(saved), None, None, tag="serve", signatures=[SIGNATURE], return_tensors_to_rename=True
    )
    with nullcontext() if any(node.op == FAILING for node in graph.node) else errors_raised():
        model, _ = convert.from_graph_def(
            graph, name=out.stem, input_names=inputs, output_names=outputs, opset=OPSET, tensors_to_rename=names
        )
    if not batches:
        model = with_constant_shapes(model)
    with np.load(saved / WEIGHTS_FILE) as weights:
        _put_in(model, weights)
    for tensor in (*model.graph.input, *model.graph.output):  # a free batch has a name, not a number made up
        first = tensor.type.tensor_type.shape.dim[0]
        if not batches and not first.dim_value:
            first.dim_param = "batch"
    onnx.save(model, str(out))
    del model  # while onnxruntime has its own
    model = with_layer_norms(with_gelu(_folded(out)))
    del model.metadata_props[:]  # `describe` writes them
    onnx.save(model, str(out))
    del model
    onnx.checker.check_model(str(out))


@contextmanager
def errors_raised() -> Iterator[None]:
    """Within this context, an error in tf2onnx's optimiser is one.

    Else tf2onnx copies its graph before each step of it, to go on without a step that failed: 4 of 20 s.
    """
    before = os.environ.get(CATCH_ERRORS)
    os.environ[CATCH_ERRORS] = "FALSE"
    try:
        yield
    finally:
        if before is None:
            del os.environ[CATCH_ERRORS]
        else:
            os.environ[CATCH_ERRORS] = before


def _put_in(model: Any, weights: Mapping[str, np.ndarray]) -> None:
    """Makes constants of the inputs that are weights."""
    from onnx import numpy_helper

    inputs = [tensor for tensor in model.graph.input if not tensor.name.startswith(WEIGHT)]
    used = [tensor.name for tensor in model.graph.input if tensor.name.startswith(WEIGHT)]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    model.graph.initializer.extend(numpy_helper.from_array(weights[name], name) for name in used)


def _folded(path: Path) -> Any:
    """Computes, once and for all, what depends on constants alone, such as kernels in another order of their axes.

    Args:
        path: of a model, in whose place onnxruntime writes what it made of it by standard operations alone.
    """
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    found = onnx.load(str(path))
    standard = [each for each in found.opset_import if each.domain in ("", "ai.onnx")]
    del found.opset_import[:]  # onnxruntime names all that it knows
    found.opset_import.extend(standard)
    return found


def describe(path: Path, about: dict[str, str]) -> None:
    """Writes metadata into a file that has none.

    A file is one message, and messages that follow each other are one message with the fields of all: so the metadata
    goes behind the rest, which is neither read nor written.
    """
    import onnx

    alone = onnx.ModelProto()
    onnx.helper.set_model_props(alone, about)
    with open(path, "ab") as file:
        file.write(alone.SerializeToString())


_WEIGHTS = {"Conv": (1, 0), "MatMul": (1, -1), "Gemm": (1, -1), "Gather": (0, 0)}
"""Operations with weights: which input these are, and the axis that counts channels."""
_INT4_OPSET = 21
"""The first whose DequantizeLinear takes 4 bits."""


def write_rounded(float32: Path, out: Path, floats: Collection[str] | None) -> None:
    """Stores each weight in the smallest type that holds it as it is. Rounding was done before, in the model.

    A session computes with floats: it makes these once, when it is opened with `session.disable_quant_qdq`.

    Args:
        float32: a file that `write` wrote.
        out: to be written.
        floats: not for this runtime.
    """
    import onnx
    from onnx import numpy_helper

    model = onnx.load(str(float32))
    graph = model.graph
    axes = _weight_axes(graph)
    nodes, stored, smallest = [], [], set()
    for initializer in graph.initializer:
        kind = "float32"
        if initializer.name in axes and initializer.data_type == onnx.TensorProto.FLOAT:
            array = numpy_helper.to_array(initializer)
            kind, scaled = how_stored(array, (axes[initializer.name] % array.ndim,))
        smallest.add(kind)
        if kind == "float32":
            stored.append(initializer)
        else:
            tensors, node = _restored(initializer.name, array, scaled, kind)
            stored += tensors
            nodes.append(node)
    rest = list(graph.node)
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(stored)
    graph.node.extend([*nodes, *rest])
    if "int4" in smallest:
        for each in model.opset_import:
            each.version = max(each.version, _INT4_OPSET)
        model.ir_version = max(model.ir_version, 10)
    onnx.save(model, str(out))


def _weight_axes(graph: Any) -> dict[str, int]:
    """The axis that counts channels, for each tensor that only operations with weights use, and all by one axis."""
    found: dict[str, set[int | None]] = {}
    for node in graph.node:
        place, axis = _WEIGHTS.get(node.op_type, (None, None))
        turned = node.op_type == "Gemm" and any(each.name == "transB" and each.i for each in node.attribute)
        for position, name in enumerate(node.input):
            found.setdefault(name, set()).add((0 if turned else axis) if position == place else None)
    return {name: axis for name, (axis, *more) in found.items() if axis is not None and not more}


def _restored(name: str, array: np.ndarray, axes: Axes, kind: str) -> tuple[list[Any], Any]:
    """Stored tensors, and the operation that makes float32 of them under the old name."""
    import ml_dtypes
    import onnx
    from onnx import helper, numpy_helper

    inner = f"{name}_{kind}"
    if kind == "float16":
        node = helper.make_node("Cast", [inner], [name], name=f"{name}_restored", to=onnx.TensorProto.FLOAT)
        return [numpy_helper.from_array(array.astype(np.float16), inner)], node
    integers, scales = to_integers(array, axes, BITS[kind])
    if kind == "int4":
        tensor = numpy_helper.from_array(integers.astype(ml_dtypes.int4), inner)
    else:
        tensor = numpy_helper.from_array(integers, inner)
    inputs = [inner, f"{name}_scale"]
    along = {"axis": axes[0]} if axes else {}
    node = helper.make_node("DequantizeLinear", inputs, [name], name=f"{name}_restored", **along)
    return [tensor, numpy_helper.from_array(scales if axes else scales[0], inputs[1])], node


def open_tower(path: Path, batch: int | None, way: str = "") -> Run:
    """Runs a file on the processor."""
    session = _session(str(path))

    def run(given: Arrays) -> Arrays:
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, given), strict=True))

    return run


def _session(model: str | bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.add_session_config_entry("session.disable_quant_qdq", "1")  # makes floats of stored integers once
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def largest_activations(path: Path, batches: list[Arrays]) -> dict[str, float]:
    """The largest size of a number that each operation puts out, by the operation's name.

    Args:
        path: a file.
        batches: inputs, one batch after the other.
    """
    import onnx

    model = onnx.shape_inference.infer_shapes(onnx.load(str(path)))
    floats = {
        info.name
        for info in (*model.graph.value_info, *model.graph.output)
        if info.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }
    outputs = {name: node.name for node in model.graph.node for name in node.output if name in floats}
    shown = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs if name not in shown)
    session = _session(model.SerializeToString())
    found: dict[str, float] = {}
    for given in batches:
        for name, value in zip(outputs, session.run(list(outputs), given), strict=True):
            largest = float(np.abs(value).max()) if value.size else 0.0
            found[outputs[name]] = max(found.get(outputs[name], 0.0), largest)
    return found


def operations(path: Path) -> Iterator[Operation]:
    """Every operation of a file, in the order of computation."""
    import onnx

    model = onnx.load(str(path))
    for initializer in model.graph.initializer:
        if len(initializer.raw_data) > MOST_OF_A_SHAPE:
            initializer.ClearField("raw_data")  # shapes do not follow from weights, and those would be copied twice
    model = onnx.shape_inference.infer_shapes(model)
    tensors: dict[str, TensorInfo] = {}
    graph = model.graph
    for index, info in enumerate((*graph.input, *graph.value_info, *graph.output)):
        kind = info.type.tensor_type
        shape = tuple(dim.dim_value or -1 for dim in kind.shape.dim)
        tensors[info.name] = TensorInfo(index, shape, _dtype(kind.elem_type))
    for initializer in graph.initializer:
        tensors[initializer.name] = TensorInfo(
            -1, tuple(initializer.dims), _dtype(initializer.data_type), constant=True
        )
    for node in graph.node:
        inputs, outputs = (
            tuple(tensors[name] for name in names if name in tensors) for names in (node.input, node.output)
        )
        yield Operation(node.op_type, node.output[0], inputs, outputs)


def _dtype(number: int) -> str:
    import onnx

    name = onnx.TensorProto.DataType.Name(number)
    return {"FLOAT": "FLOAT32", "DOUBLE": "FLOAT64"}.get(name, name)
