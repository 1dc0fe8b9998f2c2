"""The runtimes that towers are exported to: what each needs, and the file that knows it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ....keras_models.errors import MissingPackageError
from ....keras_models.formulation import TENSORFLOW, Formulation

Arrays = dict[str, np.ndarray]
Run = Callable[[Arrays], Arrays]
"""A tower's file, opened: from its inputs by name to its outputs by name."""


@dataclass(frozen=True)
class Runtime:
    """How one runtime's files are made and run.

    Attributes:
        title: its name as people write it.
        extra: the extra of this package that installs what it needs.
        makes: packages, by their import names, that writing a file needs.
        runs: packages that running a file needs.
        suffix: of a tower's file; "" for a folder.
        recipes: those that it has.
        module: the file beside this one that writes and runs its files.
        int4: the kinds of weights that its files hold in 4 bits. Depthwise kernels have too few numbers for a scale.
            LiteRT's convolutions have no program for 4 bits: it would make floats of them at every call.
        int8: those that they hold in 8 bits.
        integers: the kinds of weights whose layers may compute in integers: their inputs are rounded at every call.
        ways: the settings that a file is proven under, "" for the default alone.
        fixed_shapes: whether its files have one shape for each batch.
        formulation: what it is fast at.
        weights_apart: whether its converter gets the weights apart from the program.
    """

    title: str
    extra: str
    makes: tuple[str, ...]
    runs: tuple[str, ...]
    suffix: str
    recipes: tuple[str, ...]
    module: str
    int4: tuple[str, ...] = ()
    int8: tuple[str, ...] = ("convolution", "depthwise", "dense", "embedding")
    integers: tuple[str, ...] = ()
    ways: tuple[str, ...] = ("",)
    fixed_shapes: bool = False
    formulation: Formulation = TENSORFLOW
    weights_apart: bool = False

    def in_floats(self) -> "Runtime":
        """The same for files whose layers all compute with floats: from 8 bits at least, where 4 mean integers."""
        return replace(self, integers=(), int4=tuple(kind for kind in self.int4 if kind not in self.integers))

    @property
    def code(self) -> Any:
        """The module: `write(saved, out)`, `open_tower(path, batch, way)` and `operations(path)`."""
        return import_module(f".{self.module}", __package__)

    def check_packages(self, making: bool) -> None:
        """Checks, before any work, that what is needed is installed.

        Raises:
            MissingPackageError: naming what is not, and how to get it.
        """
        missing = [name for name in (*self.makes, *self.runs) if (making or name in self.runs) and not find_spec(name)]
        if missing:
            raise MissingPackageError(
                f"{self.title} needs {', '.join(DISTRIBUTIONS[name] for name in missing)}, not installed here. "
                f'Install with: pip install "mobileclip-keras[{self.extra}]"'
            )

    def versions(self) -> dict[str, str]:
        """The versions of what writes and runs its files."""
        found = {}
        for name in ("keras", "numpy", *(DISTRIBUTIONS[each] for each in (*self.makes, *self.runs))):
            try:
                found[name] = version(name)
            except PackageNotFoundError:
                continue
        return found


BROWSER = "browser"
"""The way of running a page's files in a browser, which may not be there."""
DISTRIBUTIONS = {
    "tensorflow": "tensorflow",
    "ai_edge_litert": "ai-edge-litert",
    "ai_edge_quantizer": "ai-edge-quantizer",
    "onnx": "onnx",
    "onnxruntime": "onnxruntime",
    "tf2onnx": "tf2onnx",
    "openvino": "openvino",
}
"""The packages' names where they are installed from, by their import names."""

_LARGE_KINDS = ("convolution", "dense", "embedding")
_OPENVINO = Formulation(dense_as_convolution=True, norm_of_distances=True, scaled="packed")
_ONNX = replace(_OPENVINO, scaled="scores", one_without_batch=True)
_FLOATS = ("float32", "fp16")
_INTEGERS = ("int8-weights", "int8", "int4-weights", "auto")

RUNTIMES = {
    "litert": Runtime(
        "LiteRT", "litert", ("tensorflow", "ai_edge_quantizer"), ("ai_edge_litert",), ".tflite",
        (*_FLOATS, *_INTEGERS), "litert", int4=("dense", "embedding"), integers=("dense",),
        formulation=Formulation(most_taps=25), fixed_shapes=True,
    ),
    "onnx": Runtime(
        "ONNX", "onnx", ("tensorflow", "tf2onnx", "onnx"), ("onnxruntime",), ".onnx",
        (*_FLOATS, "int8-weights", "int4-weights", "auto"), "onnx_file", int4=_LARGE_KINDS,
        formulation=_ONNX, weights_apart=True,
    ),
    "openvino": Runtime(
        "OpenVINO", "openvino", ("tensorflow",), ("openvino",), ".xml",
        (*_FLOATS, "int8-weights", "auto"), "openvino_file", ways=("float32", "default"),
        formulation=_OPENVINO,
    ),
    "web": Runtime(
        "Web browsers", "web", ("tensorflow", "ai_edge_quantizer"), ("ai_edge_litert",), ".tflite", _FLOATS, "litert",
        ways=("", BROWSER), formulation=Formulation(most_taps=25), fixed_shapes=True,
    ),
    "saved-model": Runtime(
        "A SavedModel", "tensorflow", (), ("tensorflow",), "", ("float32",), "saved_model"
    ),
}  # fmt: skip


def open_tower(runtime: str, path: Path, batch: int | None, way: str = "") -> Run:
    """A tower's file, ready to run.

    Args:
        runtime: a key of RUNTIMES.
        path: the file or folder.
        batch: how many rows a call gives; None for any number.
        way: one of the runtime's ways.
    """
    return RUNTIMES[runtime].code.open_tower(path, batch, way)
