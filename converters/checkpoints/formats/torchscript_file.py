"""Reading the parameters of a TorchScript archive (torch.jit.save) without running the program in it.

Such an archive is a zip file. `data.pkl` is a pickle of the modules: objects that hold parameters, buffers and other
modules under their names. The numbers lie beside it, one file for each storage. torch.jit.load would build the program
and may run parts of it, so the pickle is read here, with nothing but inert classes.
"""

import io
import math
import pickle
import pickletools
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .tensor_file import CheckpointError, TensorFile

LARGEST_PICKLE = 64 * 2**20
DEEPEST = 64

# Name of the storage's class, its dtype, and the dtype of NumPy.
_STORAGES = {
    "DoubleStorage": ("float64", "<f8"),
    "FloatStorage": ("float32", "<f4"),
    "HalfStorage": ("float16", "<f2"),
    "BFloat16Storage": ("bfloat16", "<u2"),
    "LongStorage": ("int64", "<i8"),
    "IntStorage": ("int32", "<i4"),
    "ShortStorage": ("int16", "<i2"),
    "CharStorage": ("int8", "i1"),
    "ByteStorage": ("uint8", "u1"),
    "BoolStorage": ("bool", "?"),
}


@dataclass(frozen=True)
class _Tensor:
    """Where the numbers of a tensor lie."""

    storage: str
    key: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Module:
    """Stands for a module of the program, or for any other object: it keeps what it is given under names."""

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        self.content = state if isinstance(state, dict) else {}


class _Unpickler(pickle.Unpickler):
    """Makes modules and tensors, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch._utils" and name.startswith("_rebuild_"):
            return _tensor
        return name if module == "torch" and name in _STORAGES else _Module

    def persistent_load(self, pid: Any) -> Any:
        _, storage, key, *_ = pid
        return str(storage), str(key)


def _tensor(storage: Any, offset: int = 0, shape: Any = (), strides: Any = (), *_: Any) -> _Tensor:
    of, key = storage
    return _Tensor(of, key, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))


def is_torchscript(path: Path) -> bool:
    """Whether a zip file is a TorchScript archive."""
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def open_torchscript(path: Path) -> TensorFile:
    """The parameters and buffers of the modules in an archive, by the names that `state_dict()` gives them.

    Raises:
        CheckpointError: where the archive is damaged, or holds no parameters under names, as a frozen one does.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            start = next(name for name in archive.namelist() if name.endswith("/constants.pkl")).removesuffix(
                "constants.pkl"
            )
            root = _unpickled(archive, f"{start}data.pkl")
            tensors = dict(_named(root, "", 0))
            entries = {info.filename: info for info in archive.infolist()}
            wrong = next((name for name, tensor in tensors.items() if not _is_there(tensor, start, entries)), None)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # pickles and zip files raise nearly every kind of error where they are damaged
        raise CheckpointError(f"{path} is a TorchScript program whose parameters cannot be read.") from error
    if wrong is not None:
        raise CheckpointError(f"{path} is a TorchScript program whose tensor {wrong} cannot be read.")
    if not tensors:
        raise CheckpointError(
            f"{path} is a TorchScript program without parameters under names, as torch.jit.freeze makes them. "
            "Save its state_dict() before that with torch.save."
        )

    def read(name: str) -> np.ndarray:
        with zipfile.ZipFile(path) as archive:
            return _array(tensors[name], archive.read(f"{start}data/{tensors[name].key}"))

    return TensorFile(
        {name: tensor.shape for name, tensor in tensors.items()},
        {name: _STORAGES[tensor.storage][0] for name, tensor in tensors.items()},
        read,
        ["a TorchScript program, of which only the parameters are read"],
    )


def _unpickled(archive: zipfile.ZipFile, name: str) -> Any:
    info = archive.getinfo(name)
    if info.file_size > LARGEST_PICKLE:
        raise ValueError("the pickle is too large")
    content = archive.read(name)
    # Python's unpickler makes room for any index that is named. No pickle needs one beyond its own length.
    for code, argument, _ in pickletools.genops(content):
        if "PUT" in code.name and isinstance(argument, int) and argument > len(content):
            raise ValueError("the pickle names an absurd index")
    return _Unpickler(io.BytesIO(content)).load()


def _named(module: Any, prefix: str, depth: int) -> Iterator[tuple[str, _Tensor]]:
    """The tensors below a module, by name."""
    if not isinstance(module, _Module) or depth > DEEPEST:
        return
    for name, value in getattr(module, "content", {}).items():
        if isinstance(value, _Tensor):
            yield f"{prefix}{name}", value
        else:
            yield from _named(value, f"{prefix}{name}.", depth + 1)


def _is_there(tensor: _Tensor, start: str, entries: dict[str, zipfile.ZipInfo]) -> bool:
    """Whether the file of a tensor's storage is there, not compressed, and holds the whole tensor."""
    info = entries.get(f"{start}data/{tensor.key}")
    if info is None or info.compress_type != zipfile.ZIP_STORED or len(tensor.shape) != len(tensor.strides):
        return False
    if min((*tensor.shape, *tensor.strides, tensor.offset), default=0) < 0:
        return False
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))
    needed = tensor.offset + last + 1 if math.prod(tensor.shape) else 0
    # A stride of 0 repeats numbers, so that a small file would become a large array.
    held = info.file_size // np.dtype(_STORAGES[tensor.storage][1]).itemsize
    return needed <= held and math.prod(tensor.shape) <= held


def _array(tensor: _Tensor, content: bytes) -> np.ndarray:
    dtype, of_numpy = _STORAGES[tensor.storage]
    flat = np.frombuffer(content, of_numpy)[tensor.offset :]
    strides = [stride * flat.itemsize for stride in tensor.strides]
    array = np.ascontiguousarray(np.lib.stride_tricks.as_strided(flat, tensor.shape, strides, writeable=False))
    array = array.reshape(tensor.shape)
    if dtype == "bfloat16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32) if dtype == "float16" else array
