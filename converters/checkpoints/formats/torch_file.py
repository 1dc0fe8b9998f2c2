"""Reading files of torch.save, running nothing that they hold."""

import ctypes
import mmap
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ....keras_models.errors import MissingPackageError
from .places import Place, places_in
from .stand_ins import load_with_stand_ins, name_of_global
from .tensor_file import CheckpointError, TensorFile, first_line

TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
LARGEST_PICKLE = 8 << 20
"""Bytes of the part of an archive that is no numbers. With the state of an optimizer it is 1 MB."""
ROOM = 64 << 20
"""Bytes that an archive may unpack to beyond its own size. torch.save does not pack."""


def open_torch(path: Path) -> list[TensorFile]:
    """The tensors of each place in a file that holds some, mapped into memory where its format allows.

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
    # The old format cannot be mapped. Nor can a file of this suffix: torch.load would take it for a safetensors file.
    can_map = zipfile.is_zipfile(path) and path.suffix != ".safetensors"
    loaded, stood_in = _load(torch, path, can_map)
    places = places_in(loaded, torch.Tensor)
    if not places:
        if stood_in:
            raise _refused(path, stood_in[0])
        holds = "no tensors" if isinstance(loaded, Mapping) else f"a {type(loaded).__name__}, not named tensors"
        raise CheckpointError(f"{path} holds {holds}.")
    mapped = _mapped(path) if can_map else []
    try:
        return [_tensor_file(place, mapped) for place in places]
    except RuntimeError as error:  # of tensors that hold tensors of several shapes
        raise CheckpointError(f"{path} holds a tensor without a shape ({first_line(error)}).") from error


def _tensor_file(place: Place, mapped: list[range]) -> TensorFile:
    tensors = place.tensors
    shapes = {name: tuple(map(int, tensor.shape)) for name, tensor in tensors.items()}
    dtypes = {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in tensors.items()}
    last: Any = None

    def read(name: str) -> np.ndarray:
        nonlocal last
        if last is not None:
            _give_back(last, mapped)
        last = tensors[name]
        tensor = last.detach().contiguous()
        half = tensor.is_floating_point() and tensor.element_size() < 4
        return (tensor.float() if half else tensor).numpy()

    return TensorFile(shapes, dtypes, read, place.notes, place.name, place.numbers)


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


def _load(torch: Any, path: Path, can_map: bool) -> tuple[Any, list[str]]:
    """torch.load that runs nothing from the file; and the classes of objects that it did not make."""
    is_zip = zipfile.is_zipfile(path)
    try:
        if is_zip:
            _check_archive(path)
        with open(path, "rb") as file:
            source = path if can_map else file
            return load_with_stand_ins(
                torch, lambda: torch.load(source, map_location="cpu", weights_only=True, mmap=can_map), file
            )
    except (CheckpointError, OSError):
        raise
    except pickle.UnpicklingError as error:
        named = name_of_global(error)
        if named:
            raise _refused(path, named) from error
        raise CheckpointError(f"{path} is not a PyTorch checkpoint, or is damaged.") from error
    except Exception as error:  # torch.load raises nearly every kind of error on damaged files
        if not is_zip and _begins(path) == b"PK":
            raise CheckpointError(f"{path} is cut short. Download it again.") from error
        raise CheckpointError(f"{path} is not a PyTorch checkpoint, or is damaged ({first_line(error)}).") from error


def _refused(path: Path, code: str) -> CheckpointError:
    return CheckpointError(
        f"{path} is refused: to load it, Python code that it names would have to run ({code}). "
        "Save the model's state_dict() alone: checkpoints of MobileCLIP hold tensors only."
    )


def _check_archive(path: Path) -> None:
    """Refuses zip archives of other kinds, for which torch.load's errors are hard to understand."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    names = [entry.filename for entry in entries]
    if not any(name.endswith("/data.pkl") for name in names):
        holds = names[0] if names else "nothing"
        raise CheckpointError(f"{path} is a zip archive, but not of torch.save (it holds {holds}).")
    if sum(entry.file_size for entry in entries) > path.stat().st_size + ROOM:
        raise CheckpointError(f"{path} is packed, and says that it unpacks to far more than its size.")
    if any(entry.file_size > LARGEST_PICKLE for entry in entries if entry.filename.endswith("/data.pkl")):
        raise CheckpointError(f"{path} describes its tensors with more than {LARGEST_PICKLE:,} bytes.")


def _begins(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(2)
