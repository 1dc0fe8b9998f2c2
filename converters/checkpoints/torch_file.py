"""Reading files of torch.save, running nothing that they hold."""

import ctypes
import mmap
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...keras_models.errors import MissingPackageError
from .tensor_file import CheckpointError, TensorFile, first_line

TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
NESTED_KEYS = ("state_dict", "model_state_dict", "model", "module")
MOST_NESTED = 4


def open_torch(path: Path) -> TensorFile:
    """The tensors of a file, mapped into memory where its format allows.

    Raises:
        CheckpointError: where it is damaged, malicious, or holds something else than named tensors.
        MissingPackageError: where PyTorch is missing.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingPackageError(
            f'Reading {path.name} needs PyTorch: pip install "mobileclip-keras[convert]". '
            "A .safetensors file of the same weights does not."
        ) from error
    notes: list[str] = []
    # The old format cannot be mapped. Nor can a file of this suffix: torch.load would take it for a safetensors file.
    can_map = zipfile.is_zipfile(path) and path.suffix != ".safetensors"
    tensors = _unwrap(torch, _load(torch, path, can_map), path, notes)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    dtypes = {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in tensors.items()}

    mapped = _mapped(path) if can_map else []
    last: Any = None

    def read(name: str) -> np.ndarray:
        nonlocal last
        if last is not None:
            _give_back(last, mapped)
        last = tensors[name]
        tensor = last.detach().contiguous()
        half = tensor.is_floating_point() and tensor.element_size() < 4
        return (tensor.float() if half else tensor).numpy()

    return TensorFile(shapes, dtypes, read, notes)


def _mapped(path: Path) -> list[range]:
    """The address ranges that a file is mapped to. None where the system does not say."""
    maps = Path("/proc/self/maps")
    lines = maps.read_text().splitlines() if maps.exists() else []
    ending = f" {path.resolve()}"
    places = [line.split()[0].split("-") for line in lines if line.endswith(ending)]
    return [range(int(start, 16), int(end, 16)) for start, end in places]


def _give_back(tensor: Any, mapped: list[range]) -> None:
    """Frees the memory of a mapped tensor. If the tensor is used again, it is read from the file again.

    What was read of a mapped file counts as memory in use, and a whole checkpoint takes as much as its model.
    """
    start = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    end = (tensor.data_ptr() + tensor.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if any(place.start <= start < end <= place.stop for place in mapped):  # elsewhere, the values would be lost
        ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED)


def _load(torch: Any, path: Path, can_map: bool) -> Any:
    """torch.load that runs nothing from the file."""
    is_zip = zipfile.is_zipfile(path)
    try:
        if is_zip:
            _check_archive(path)
        with open(path, "rb") as file:
            source = path if can_map else file
            return torch.load(source, map_location="cpu", weights_only=True, mmap=can_map)
    except (CheckpointError, OSError):
        raise
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        if named:
            raise CheckpointError(
                f"{path} is refused: to load it, Python code that it names would have to run ({named[1]}). "
                "Save the model's state_dict() alone: checkpoints of MobileCLIP hold tensors only."
            ) from error
        raise CheckpointError(f"{path} is not a PyTorch checkpoint, or is damaged.") from error
    except Exception as error:  # torch.load raises nearly every kind of error on damaged files
        if not is_zip and _begins(path) == b"PK":
            raise CheckpointError(f"{path} is cut short. Download it again.") from error
        raise CheckpointError(f"{path} is not a PyTorch checkpoint, or is damaged ({first_line(error)}).") from error


def _check_archive(path: Path) -> None:
    """Refuses zip archives of other kinds, for which torch.load's errors are hard to understand."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any(name.endswith("/constants.pkl") for name in names):
        raise CheckpointError(f"{path} is a TorchScript program. Save its state_dict() with torch.save instead.")
    if not any(name.endswith("/data.pkl") for name in names):
        holds = names[0] if names else "nothing"
        raise CheckpointError(f"{path} is a zip archive, but not of torch.save (it holds {holds}).")


def _unwrap(torch: Any, loaded: Any, path: Path, notes: list[str]) -> dict[str, Any]:
    """The tensors of what torch.load returned, below "state_dict" and the like."""
    for _ in range(MOST_NESTED):  # a bound, because a pickle can hold itself
        if not isinstance(loaded, Mapping):
            raise CheckpointError(f"{path} holds a {type(loaded).__name__}, not named tensors.")
        nested = next((key for key in NESTED_KEYS if isinstance(loaded.get(key), Mapping)), None)
        if nested is None:
            break
        others = [str(key) for key in loaded if key != nested]
        notes.append(f'weights under "{nested}"' + (f", beside {', '.join(others[:6])}" if others else ""))
        loaded = loaded[nested]
    tensors = {
        name: value for name, value in loaded.items() if isinstance(name, str) and isinstance(value, torch.Tensor)
    }
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors.")
    others = [str(name) for name in loaded if name not in tensors]
    if others:
        notes.append(f"entries that are no tensors, passed over: {', '.join(others[:6])}")
    return tensors


def _begins(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(2)
