"""ONNX files that compute in float16."""

from pathlib import Path
from typing import Any

from ..quantize.rounding import fits_half
from .onnx_shapes import drop_unused

PRODUCTS = ("Conv", "MatMul", "Gemm", "Gather")
"""Operations with weights."""
_SCALES = ("Div", "Max", "Min", "Pow", "Sqrt", "ReduceSum", "Mul")
"""What scales features to length 1."""
LAST_CAST = "features_in_float32"


def unfit(path: Path) -> list[str]:
    """The names of operations with weights that float16 cannot hold."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(path)).graph
    floats = [each for each in graph.initializer if each.data_type == onnx.TensorProto.FLOAT]
    wrong = {each.name for each in floats if not fits_half(numpy_helper.to_array(each))}
    return [node.name for node in graph.node if node.op_type in PRODUCTS and wrong.intersection(node.input)]


def write_fp16(float32: Path, out: Path, kept: list[str]) -> list[str]:
    """Computes in float16, but for some operations. Inputs and outputs stay float32.

    So does the scaling to length 1: squares of small numbers are too small for float16.

    Args:
        float32: a file that `write` of `onnx_file` wrote.
        out: to be written.
        kept: names of the operations that stay float32.

    Returns:
        The names of all that stay float32: what takes a number that float16 cannot hold does, too.
    """
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = onnx.load(str(float32))
    last = _cut(model.graph)
    kept = _with_users(model.graph, kept)
    half = convert_float_to_float16(
        model, keep_io_types=True, op_block_list=[], node_block_list=kept, disable_shape_infer=False
    )
    _drop_round_trips(half.graph)
    _put_back(half.graph, *last)
    onnx.save(half, str(out))
    return kept


def _scaling(graph: Any) -> list[Any]:
    """The last operations, behind the last product, in the order of computation."""
    makers = {name: node for node in graph.node for name in node.output}
    found, waiting = set(), [output.name for output in graph.output]
    while waiting:
        node = makers.get(waiting.pop())
        if node is not None and node.op_type in _SCALES and node.name not in found:
            found.add(node.name)
            waiting.extend(node.input)
    return [node for node in graph.node if node.name in found]


def _with_users(graph: Any, kept: list[str]) -> list[str]:
    """Operations, and those that take what they put out. Else it would be made float16 on the way."""
    names = set(kept)
    made = {name for node in graph.node if node.name in names for name in node.output}
    return [node.name for node in graph.node if node.name in names or made.intersection(node.input)]


def _drop_round_trips(graph: Any) -> None:
    """Hands what one operation in float32 gives to the next as it is: on the way through float16 it would be cut."""
    import onnx

    casts = {node.output[0]: node for node in graph.node if node.op_type == "Cast"}
    to = {name: node.attribute[0].i for name, node in casts.items()}
    single, half = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
    direct = {
        name: casts[node.input[0]].input[0]
        for name, node in casts.items()
        if to[name] == single and to.get(node.input[0]) == half
    }
    for node in graph.node:
        node.input[:] = [direct.get(name, name) for name in node.input]
    drop_unused(graph)


def _cut(graph: Any) -> tuple[list[Any], list[Any], list[Any]]:
    """Takes the scaling out of a graph, which then gives features of any length.

    Returns:
        The operations, their constants, and the outputs that the graph had.
    """
    import onnx

    last = _scaling(graph)
    copies: list[Any] = [onnx.NodeProto() for _ in last]
    own = {name for node in last for name in node.output}
    constants = {each.name: each for each in graph.initializer}
    given = {name for node in last for name in node.input} - own - set(constants)
    held, outputs = [], list(graph.output)
    if len(given) != 1:
        return [], [], outputs
    (features,) = given
    for copy, node in zip(copies, last, strict=True):
        copy.CopyFrom(node)
        copy.input[:] = [f"last_{name}" if name in constants else name for name in node.input]
        copy.input[:] = [LAST_CAST if name == features else name for name in copy.input]
        graph.node.remove(node)
    for name in dict.fromkeys(name for node in copies for name in node.input if name.startswith("last_")):
        constant = onnx.TensorProto()
        constant.CopyFrom(constants[name.removeprefix("last_")])
        constant.name = name
        held.append(constant)
    for node in graph.node:
        node.input[:] = [LAST_CAST if name == features else name for name in node.input]
        node.output[:] = [LAST_CAST if name == features else name for name in node.output]
    kept = [output for output in outputs if output.name not in own]
    del graph.output[:]
    graph.output.extend([*kept, onnx.helper.make_tensor_value_info(LAST_CAST, onnx.TensorProto.FLOAT, None)])
    return copies, held, outputs


def _put_back(graph: Any, operations: list[Any], constants: list[Any], outputs: list[Any]) -> None:
    """Undoes `_cut`."""
    graph.node.extend(operations)
    graph.initializer.extend(constants)
    del graph.output[:]
    graph.output.extend(outputs)
