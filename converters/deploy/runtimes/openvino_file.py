"""Towers as OpenVINO files (.xml and .bin): written and run by openvino."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .operation import Operation, TensorInfo
from .registry import Arrays, Run


def write(saved: Path, out: Path, batches: tuple[int, ...]) -> None:
    """Converts a SavedModel, in float32. Inputs and outputs keep their names."""
    import openvino

    model = openvino.convert_model(str(saved))
    openvino.save_model(model, str(out), compress_to_fp16=False)


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
        way: "float32" for the hint that keeps float32 throughout; "default" for what the device prefers, which is half
            precision on processors that have it.
    """
    import openvino

    hint = {"INFERENCE_PRECISION_HINT": "f32"} if way == "float32" else {}
    compiled = openvino.Core().compile_model(str(path), "CPU", hint)
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
