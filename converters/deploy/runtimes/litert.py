"""Towers as LiteRT files (.tflite): written by TensorFlow's converter, run by ai-edge-litert."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..quantize.rounding import Axes, fits_half, how_stored
from .lint import layer_of
from .litert_model import read_model, write_model
from .operation import Operation
from .registry import Arrays, Run
from .saved_model import signature_name

THREADS = 2
METADATA = "mobileclip_keras"
"""The name of what a file says of itself, as JSON."""


def write(saved: Path, out: Path, batches: tuple[int, ...]) -> None:
    """Converts a SavedModel, with built-in operations alone. Signatures share their weights and keep their names."""
    import tensorflow as tf

    names = [signature_name(batch, batches) for batch in batches]
    converter = tf.lite.TFLiteConverter.from_saved_model(str(saved), signature_keys=names)
    converter.exclude_conversion_metadata = True  # `describe` says more, and does not write the file once more
    out.write_bytes(converter.convert())


def write_fp16(float32: Path, out: Path, kept: list[str]) -> list[str]:
    """Rounds weights to float16, but for those of some layers.

    Args:
        float32: a file that `write` wrote.
        out: to be written.
        kept: names of the operations whose weights stay float32.

    Returns:
        The same names.
    """
    import re

    from ai_edge_quantizer import qtyping, quantizer
    from ai_edge_quantizer.algorithm_manager import AlgorithmName

    rounding = quantizer.Quantizer(str(float32))
    half = qtyping.OpQuantizationConfig(
        weight_tensor_config=qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT),
        compute_precision=qtyping.ComputePrecision.FLOAT,
        explicit_dequantize=True,
    )
    everything = qtyping.TFLOperationName.ALL_SUPPORTED
    rounding.update_quantization_recipe(
        regex=".*", operation_name=everything, op_config=half, algorithm_key=AlgorithmName.FLOAT_CASTING
    )
    for name in kept:
        rounding.update_quantization_recipe(
            regex=f"^{re.escape(name)};", operation_name=everything, algorithm_key=AlgorithmName.NO_QUANTIZE
        )
    out.write_bytes(rounding.quantize().quantized_model)
    return kept


def unfit(path: Path) -> list[str]:
    """The names of operations with weights that float16 cannot hold."""
    return [name for _, name, array, _ in _weights(path) if not fits_half(array)]


_WEIGHTS = {
    "FULLY_CONNECTED": (1, 0),
    "CONV_2D": (1, 0),
    "DEPTHWISE_CONV_2D": (1, 3),
    "EMBEDDING_LOOKUP": (1, 0),
    "BATCH_MATMUL": (1, -1),
}
"""Operations with weights: which input these are, and the axis that counts channels."""
_INT4 = ("FULLY_CONNECTED", "EMBEDDING_LOOKUP")
"""What the runtime computes from 4 bits. Of others it would make floats at every call: twice the time, or more."""
_NO_HALF = ("BATCH_MATMUL",)
"""What the quantiser has no smaller type for, though the runtime may."""


def write_rounded(float32: Path, out: Path, floats: Collection[str] | None) -> None:
    """Stores each weight in the smallest type that holds it as it is. Rounding was done before, in the model.

    Args:
        float32: a file that `write` wrote.
        out: to be written.
        floats: the dense layers with weights of 8 bits that compute with floats; None for all. The others compute in
            integers, which rounds what they are given. So do those with weights of 4 bits, always: for floats the
            runtime has no program.
    """
    import re

    from ai_edge_quantizer import quantizer
    from ai_edge_quantizer.algorithm_manager import AlgorithmName
    from ai_edge_quantizer.qtyping import TFLOperationName

    storing = quantizer.Quantizer(str(float32))
    chosen = list(_storable(float32))
    for kind, name, dtype, axes in chosen:
        casting = AlgorithmName.FLOAT_CASTING if dtype == "float16" else AlgorithmName.MIN_MAX_UNIFORM_QUANT
        storing.update_quantization_recipe(
            regex=f"^{re.escape(name)};",
            operation_name=TFLOperationName[kind],
            op_config=_stored_as(dtype, axes, _in_integers(kind, name, dtype, floats)),
            algorithm_key=casting,
        )
    if chosen:
        out.write_bytes(storing.quantize().quantized_model)
    else:
        out.write_bytes(float32.read_bytes())


def _in_integers(kind: str, name: str, dtype: str, floats: Collection[str] | None) -> bool:
    """Whether an operation takes its weights as integers. A look-up does, and makes floats of a few rows."""
    if kind != "FULLY_CONNECTED":
        return kind == "EMBEDDING_LOOKUP"
    return dtype == "int4" or (floats is not None and not _is_of(name, floats))


def _is_of(name: str, layers: Collection[str]) -> bool:
    """Whether an operation may be of one of some layers.

    Its name joins those of what the converter made one of, and the deepest says the layer. Where a layer's weight is
    used in parts, that is the layer that holds this one.
    """
    joined = [layer_of(part) for part in name.split(";") if part]
    depth = max(path.count("/") for path in joined)
    own = {path for path in joined if path.count("/") == depth}
    return any(layer == each or layer.startswith(f"{each}/") for layer in layers for each in own)


def _stored_as(dtype: str, axes: Axes, integers: bool) -> Any:
    """How the quantiser shall store an operation's weights.

    Args:
        dtype: of the weights.
        axes: that count their scales.
        integers: whether the operation takes integers.
    """
    from ai_edge_quantizer import qtyping

    kind = qtyping.TensorDataType.FLOAT if dtype == "float16" else qtyping.TensorDataType.INT
    bits = {"float16": 16, "int8": 8, "int4": 4}[dtype]
    computes = integers and dtype != "float16"
    return qtyping.OpQuantizationConfig(
        weight_tensor_config=qtyping.TensorQuantizationConfig(
            num_bits=bits,
            dtype=kind,
            granularity=qtyping.QuantGranularity.TENSORWISE
            if dtype == "float16" or not axes
            else qtyping.QuantGranularity.CHANNELWISE,
        ),
        compute_precision=qtyping.ComputePrecision.INTEGER if computes else qtyping.ComputePrecision.FLOAT,
        explicit_dequantize=not computes,
    )


def _storable(path: Path) -> Iterator[tuple[str, str, str, Axes]]:
    """Of each operation whose weights a smaller type holds: its kind, its name, the type, the axes of scales."""
    known: dict[tuple[int, str], tuple[str, Axes]] = {}
    for kind, name, array, buffer in _weights(path):
        if (buffer, kind) not in known:
            axis = _WEIGHTS[kind][1]
            allowed = ("int4", "int8") if kind in _INT4 else ("int8",)
            known[buffer, kind] = how_stored(array, (axis % array.ndim,), allowed)
        dtype, axes = known[buffer, kind]
        if dtype != "float32" and not (kind in _NO_HALF and dtype == "float16"):
            yield kind, name, dtype, axes


def _weights(path: Path) -> Iterator[tuple[str, str, np.ndarray, int]]:
    """Each operation with a weight: its kind, its name, the weight's numbers, and the number of its buffer."""
    from ai_edge_litert import schema_py_generated as schema

    model = read_model(path)
    kinds = _names(schema.BuiltinOperator)
    for graph in model.subgraphs:
        for each in graph.operators:
            code = model.operatorCodes[each.opcodeIndex]
            kind = kinds[max(code.builtinCode, code.deprecatedBuiltinCode)]
            if kind not in _WEIGHTS:
                continue
            tensor = graph.tensors[each.inputs[_WEIGHTS[kind][0]]]
            data = model.buffers[tensor.buffer].data
            if tensor.type != schema.TensorType.FLOAT32 or data is None or not len(data):
                continue  # no constant
            name = graph.tensors[each.outputs[0]].name
            array = np.frombuffer(bytes(data), np.float32).reshape(tuple(tensor.shape))
            yield kind, name.decode() if isinstance(name, bytes) else name, array, int(tensor.buffer)


def describe(path: Path, about: dict[str, str]) -> None:
    """Writes a description and metadata into a file.

    Names are cut to what says their layer: the converter joins those of all that it made one of.
    """
    import json

    from ai_edge_litert import schema_py_generated as schema

    model = read_model(path)
    for tensor in (tensor for graph in model.subgraphs for tensor in graph.tensors):
        tensor.name = bytes(tensor.name).split(b";")[0]
    model.description = f"{about['name']}: {about['description']}"
    content, entry = schema.BufferT(), schema.MetadataT()
    content.data = np.frombuffer(json.dumps(about).encode(), np.uint8)
    entry.name, entry.buffer = METADATA, len(model.buffers)
    model.buffers.append(content)
    model.metadata = [*(model.metadata or []), entry]
    write_model(model, path)


def open_tower(path: Path, batch: int | None, way: str = "") -> Run:
    """Runs the signature for a batch."""
    interpreter = _interpreter(path)
    names = list(interpreter.get_signature_list())
    runner = interpreter.get_signature_runner(names[0] if len(names) == 1 else f"batch_{batch}")

    def run(given: Arrays) -> Arrays:
        return {name: np.array(value) for name, value in runner(**given).items()}

    return run


def _interpreter(path: Path, **options: Any) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    return Interpreter(model_path=str(path), num_threads=THREADS, **options)


def largest_activations(path: Path, batches: list[Arrays]) -> dict[str, float]:
    """The largest size of a number that each operation puts out, by the operation's name.

    Args:
        path: a file whose first signature is run.
        batches: inputs, one batch after the other.
    """
    from ai_edge_litert.interpreter import OpResolverType

    plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES  # a delegate keeps what is between its operations
    interpreter = _interpreter(path, experimental_preserve_all_tensors=True, experimental_op_resolver_type=plain)
    interpreter.allocate_tensors()
    signature = next(iter(interpreter.get_signature_list()))
    indices = {
        name: interpreter.get_input_details()[place]["index"]
        for place, name in enumerate(_input_order(interpreter, signature))
    }
    found: dict[str, float] = {}
    listed = list(operations(path))
    for given in batches:
        for name, array in given.items():
            interpreter.set_tensor(indices[name], array)
        interpreter.invoke()
        for operation in listed:
            for tensor in operation.outputs:
                value = interpreter.get_tensor(tensor.index)
                if value.dtype == np.float32 and value.size:
                    largest = float(np.abs(value).max())
                    found[operation.name] = max(found.get(operation.name, 0.0), largest)
    return found


def _input_order(interpreter: Any, signature: str) -> list[str]:
    """The names of a signature's inputs, in the order of the interpreter's own list."""
    runner = interpreter.get_signature_runner(signature)
    by_index = {details["index"]: name for name, details in runner.get_input_details().items()}
    return [by_index[details["index"]] for details in interpreter.get_input_details()]


def operations(path: Path) -> Iterator[Operation]:
    """Every operation of a file's first signature, in the order of computation."""
    from ai_edge_litert import schema_py_generated as schema

    model = read_model(path)
    names = _names(schema.BuiltinOperator)
    types = _names(schema.TensorType)
    graph = model.subgraphs[0]
    for each in graph.operators:
        code = model.operatorCodes[each.opcodeIndex]
        kind = names[max(code.builtinCode, code.deprecatedBuiltinCode)]
        inputs, outputs = (
            tuple(_tensor(graph.tensors[index], index, types) for index in indices if index >= 0)
            for indices in (each.inputs, each.outputs)
        )
        label = graph.tensors[each.outputs[0]].name
        yield Operation(kind, label.decode() if isinstance(label, bytes) else label, inputs, outputs)


def _tensor(tensor: Any, index: int, types: dict[int, str]) -> Any:
    from .operation import TensorInfo

    shape = () if tensor.shape is None else tuple(int(size) for size in tensor.shape)
    return TensorInfo(int(index), shape, types[tensor.type])


def _names(enumeration: Any) -> dict[int, str]:
    return {value: name for name, value in vars(enumeration).items() if not name.startswith("_")}
