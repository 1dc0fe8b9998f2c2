"""Towers as OpenVINO files (.xml and .bin): written and run by openvino."""

import os
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..quantize.rounding import BITS, SMALLEST, Axes, fits_half, how_stored, to_integers
from .operation import Operation, TensorInfo
from .registry import Arrays, Run

FLOAT32 = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
"""Without these, a device may compute in half precision, and in integers where weights are integers."""


def write(saved: Path, out: Path, batches: tuple[int, ...]) -> None:
    """Converts a SavedModel, in float32. Inputs and outputs keep their names."""
    import openvino

    with _without_comma(saved) as path, _telling_nobody():
        model = openvino.convert_model(str(path))
    openvino.save_model(model, str(out), compress_to_fp16=False)


@contextmanager
def _without_comma(path: Path) -> Iterator[Path]:
    """Within this context, a way to a folder that openvino does not take for a list of several."""
    if "," not in str(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as beside:
        link = Path(beside, "saved")
        link.symlink_to(path.resolve(), target_is_directory=True)
        yield link


@contextmanager
def _telling_nobody() -> Iterator[None]:
    """Within this context, openvino sends no record of its use to its makers.

    It does so from everywhere but CI. Where no network answers, each message holds up the process's end for seconds.
    """
    before = os.environ.get("CI")
    os.environ["CI"] = "true"
    try:
        yield
    finally:
        if before is None:
            del os.environ["CI"]
        else:
            os.environ["CI"] = before


def write_fp16(float32: Path, out: Path, kept: list[str]) -> list[str]:
    """Stores weights in float16, but for those of some operations. They are computed with in float32.

    Args:
        float32: a file that `write` wrote.
        out: to be written.
        kept: names of the operations whose weights stay float32.

    Returns:
        The same names.
    """

    def half(array: np.ndarray, axes: Axes, name: str) -> tuple[str, Axes]:
        return "float32" if array.size < SMALLEST or name in kept else "float16", axes

    _store(float32, out, half)
    return kept


def unfit(path: Path) -> list[str]:
    """The names of operations with weights that float16 cannot hold."""
    import openvino

    model: Any = openvino.Core().read_model(str(path))
    return [node.get_friendly_name() for node, _, array, _ in _weights(model) if not fits_half(array)]


def write_rounded(float32: Path, out: Path, floats: Collection[str] | None) -> None:
    """Stores each weight in the smallest type that holds it as it is. Rounding was done before, in the model.

    Args:
        float32: a file that `write` wrote.
        out: to be written.
        floats: not for this runtime, which computes in integers by itself where that is faster.
    """
    _store(float32, out, lambda array, axes, name: how_stored(array, axes, ("int8",)))


def _store(float32: Path, out: Path, choose: Callable[[np.ndarray, Axes, str], tuple[str, Axes]]) -> None:
    """Stores each weight as is chosen for its numbers, its channels' axes and its operation's name.

    What is chosen is the type, and the axes that count scales.
    """
    import openvino

    model: Any = openvino.Core().read_model(str(float32))
    for node, place, array, channels in _weights(model):
        kind, axes = choose(array, channels, node.get_friendly_name())
        if kind != "float32":
            node.input(place).replace_source_output(_restored(array, axes, kind).output(0))
    openvino.save_model(model, str(out), compress_to_fp16=False)


def _weights(model: Any) -> Iterator[tuple[Any, int, np.ndarray, Axes]]:
    """Each operation with a weight: itself, which input that is, its numbers, and the axes that count channels."""
    for node in model.get_ordered_ops():
        place, axes = _weight_of(node)
        if place is None:
            continue
        constant = node.input_value(place).get_node()
        if constant.get_type_name() != "Constant":
            continue
        array = np.array(constant.data)
        if array.dtype == np.float32 and array.ndim:
            yield node, place, array, tuple(axis % array.ndim for axis in axes)


def _weight_of(node: Any) -> tuple[int | None, Axes]:
    """Which input of an operation is a weight, and the axes of that which count channels."""
    kind = node.get_type_name()
    if kind == "MatMul":
        return 1, ((-2,) if node.get_attributes()["transpose_b"] else (-1,))
    return {"Convolution": (1, (0,)), "GroupConvolution": (1, (0, 1)), "Gather": (0, (0,))}.get(kind, (None, ()))


def _restored(array: np.ndarray, axes: Axes, kind: str) -> Any:
    """The operation that makes float32 of stored numbers."""
    import openvino.opset13 as ops

    if kind == "float16":
        return ops.convert(ops.constant(array.astype(np.float16)), "f32")
    integers, scales = to_integers(array, axes, BITS[kind])
    shape = [size if axis in axes else 1 for axis, size in enumerate(array.shape)]
    return ops.multiply(ops.convert(ops.constant(integers), "f32"), ops.constant(scales.reshape(shape)))


def largest_activations(path: Path, batches: list[Arrays]) -> dict[str, float]:
    """The largest size of a number that each operation puts out, by the operation's name.

    Args:
        path: a file.
        batches: inputs, one batch after the other.
    """
    import openvino

    core = openvino.Core()
    model: Any = core.read_model(str(path))
    outputs = [
        node.output(0)
        for node in model.get_ordered_ops()
        if node.get_type_name() not in ("Constant", "Parameter", "Result")
        and node.output(0).get_element_type().get_type_name() == "f32"
    ]
    model.add_outputs(outputs)  # but for those that are outputs already
    names = [result.input_value(0).get_node().get_friendly_name() for result in model.get_results()]
    compiled = core.compile_model(model, "CPU", FLOAT32)
    found: dict[str, float] = {}
    for given in batches:
        results = compiled(given)
        for place, name in enumerate(names):
            value = results[compiled.output(place)]
            found[name] = max(found.get(name, 0.0), float(np.abs(value).max()) if value.size else 0.0)
    return found


def describe(path: Path, about: dict[str, str]) -> None:
    """Writes metadata into a file."""
    import openvino

    model = openvino.Core().read_model(str(path))
    for name, value in about.items():
        model.set_rt_info(value, ["mobileclip-keras", name])
    beside = path.with_name(f"{path.stem}.new.xml")
    openvino.save_model(model, str(beside), compress_to_fp16=False)
    del model  # it has the old file's weights in use
    for suffix in (".xml", ".bin"):
        beside.with_suffix(suffix).replace(path.with_suffix(suffix))


def open_tower(path: Path, batch: int | None, way: str = "default") -> Run:
    """Runs a file on the processor.

    Args:
        path: the .xml file.
        batch: is that of the file.
        way: "float32" for the hints that keep float32 throughout; "default" for what the device prefers, which is half
            precision on processors that have it, and products of integers where weights are integers.
    """
    import openvino

    compiled = openvino.Core().compile_model(str(path), "CPU", FLOAT32 if way == "float32" else {})
    names = {output: output.get_any_name() for output in compiled.outputs}

    def run(given: Arrays) -> Arrays:
        results = compiled(given)
        return {name: np.array(results[output]) for output, name in names.items()}

    return run


def operations(path: Path) -> Iterator[Operation]:
    """Every operation of a file, in the order of computation."""
    import openvino

    model: Any = openvino.Core().read_model(str(path))
    for node in model.get_ordered_ops():
        inputs = tuple(_tensor(each.get_source_output()) for each in node.inputs())
        outputs = tuple(_tensor(each) for each in node.outputs())
        if node.get_type_name() not in ("Constant", "Parameter", "Result"):
            yield Operation(node.get_type_name(), node.get_friendly_name(), inputs, outputs)


def _tensor(output: Any) -> TensorInfo:
    shape = tuple(-1 if each.is_dynamic else each.get_length() for each in output.get_partial_shape())
    names = {"f32": "FLOAT32", "f64": "FLOAT64", "i64": "INT64", "i32": "INT32"}
    kind = output.get_element_type().get_type_name()
    return TensorInfo(-1, shape, names.get(kind, kind.upper()))
