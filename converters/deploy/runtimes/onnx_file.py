"""Towers as ONNX files: written by tf2onnx, run by onnxruntime."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .operation import Operation, TensorInfo
from .registry import Arrays, Run
from .saved_model import SIGNATURE

OPSET = 18
"""The newest that tf2onnx writes."""
THREADS = 2


def write(saved: Path, out: Path, batches: tuple[int, ...]) -> None:
    """Converts a SavedModel. Inputs and outputs keep their names."""
    import onnx
    from tf2onnx import convert, tf_loader

    graph, inputs, outputs, names = tf_loader.from_saved_model(
        str(saved), None, None, tag="serve", signatures=[SIGNATURE], return_tensors_to_rename=True
    )
    model, _ = convert.from_graph_def(
        graph, name=out.stem, input_names=inputs, output_names=outputs, opset=OPSET, tensors_to_rename=names
    )
    for tensor in (*model.graph.input, *model.graph.output):  # a free batch has a name, not a number made up
        first = tensor.type.tensor_type.shape.dim[0]
        if not batches and not first.dim_value:
            first.dim_param = "batch"
    onnx.checker.check_model(model)
    onnx.save(model, str(out))


def describe(path: Path, about: dict[str, str]) -> None:
    """Writes metadata into a file."""
    import onnx

    model = onnx.load(str(path))
    onnx.helper.set_model_props(model, about)
    onnx.save(model, str(path))


def write_fp16(float32: Path, out: Path, kept: list[str]) -> None:
    """Computes in float16, but for some operations. Inputs and outputs stay float32.

    Args:
        float32: a file that `write` wrote.
        out: to be written.
        kept: names of the operations that stay float32.
    """
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = onnx.load(str(float32))
    half = convert_float_to_float16(model, keep_io_types=True, node_block_list=kept, disable_shape_infer=False)
    onnx.save(half, str(out))


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

    model = onnx.shape_inference.infer_shapes(onnx.load(str(path)))
    tensors: dict[str, TensorInfo] = {}
    graph = model.graph
    for index, info in enumerate((*graph.input, *graph.value_info, *graph.output)):
        kind = info.type.tensor_type
        shape = tuple(dim.dim_value or -1 for dim in kind.shape.dim)
        tensors[info.name] = TensorInfo(index, shape, _dtype(kind.elem_type))
    for initializer in graph.initializer:
        tensors[initializer.name] = TensorInfo(-1, tuple(initializer.dims), _dtype(initializer.data_type))
    for node in graph.node:
        inputs, outputs = (
            tuple(tensors[name] for name in names if name in tensors) for names in (node.input, node.output)
        )
        yield Operation(node.op_type, node.output[0], inputs, outputs)


def _dtype(number: int) -> str:
    import onnx

    name = onnx.TensorProto.DataType.Name(number)
    return {"FLOAT": "FLOAT32", "DOUBLE": "FLOAT64"}.get(name, name)
