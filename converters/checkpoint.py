"""Opening a PyTorch checkpoint: names, shapes and dtypes at once, arrays one at a time."""

import hashlib
import json
import os
import pickle
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..keras_models.errors import MobileClipError, MissingPackageError

TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
NESTED_KEYS = ("state_dict", "model_state_dict", "model", "module")
PREFIXES = ("module.", "_orig_mod.")


class CheckpointError(MobileClipError):
    """A file cannot be read as a checkpoint; the message says why."""


@dataclass
class Checkpoint:
    """A checkpoint file that has been opened.

    Attributes:
        path: the file.
        shapes: of each tensor, by its name without wrappers' prefixes.
        dtypes: of each tensor, as in the file ("float32", "bfloat16", "int64", ...).
        notes: what is odd about the file, in words.
    """

    path: Path
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]
    notes: list[str]
    _read: Callable[[str], np.ndarray] | None
    _names: dict[str, str] = field(default_factory=dict)

    def read(self, name: str) -> np.ndarray:
        """One tensor; half-precision floats as float32, which holds each of their values exactly.

        Raises:
            CheckpointError: where the file ends too early.
        """
        if self._read is None:
            raise ValueError(f"{self.path} has been closed.")
        try:
            return self._read(self._names.get(name, name)).reshape(self.shapes[name])
        except (OSError, RuntimeError, ValueError) as error:
            raise CheckpointError(f"{self.path}: tensor {name} cannot be read: {_first_line(error)}") from error

    def close(self) -> None:
        """Lets go of the file and of the memory mapped to it."""
        self._read = None

    @property
    def size(self) -> int:
        """Bytes of all tensors at four bytes a number, which is what the published files take."""
        return 4 * sum(int(np.prod(shape)) for shape in self.shapes.values())


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Opens a checkpoint without reading its arrays.

    Args:
        path: a `.safetensors` file, the `.safetensors.index.json` of a sharded one (or its folder), or a file of
            torch.save. PyTorch is imported for the last kind only, and never runs code from the file.

    Raises:
        CheckpointError: where the file is missing, empty, truncated, malicious or of another kind.
        MissingPackageError: where PyTorch is needed and missing.
    """
    path = Path(path)
    if path.is_dir():
        path = _index_in(path)
    if not path.exists():
        raise CheckpointError(f"There is no file {path}.")
    try:
        if path.stat().st_size == 0:
            raise CheckpointError(f"{path} is empty.")
        if path.name.endswith(".index.json"):
            checkpoint = _open_sharded(path)
        elif path.suffix == ".safetensors" or _looks_like_safetensors(path):
            checkpoint = _open_safetensors(path)
        else:
            checkpoint = _open_torch(path)
    except PermissionError as error:
        raise CheckpointError(f"{path} may not be read by this user.") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    _strip_prefixes(checkpoint)
    _settle_logit_scale(checkpoint)
    return checkpoint


def sha256(path: Path, progress: Callable[[int], None] = lambda _: None) -> str:
    """The SHA-256 of a file, in hexadecimal; of a sharded checkpoint, that of its shards one after another.

    Args:
        path: what `open_checkpoint` took.
        progress: called with the number of bytes just read.
    """
    path = _index_in(path) if path.is_dir() else path
    digest = hashlib.sha256()
    files = _shards(path) if path.name.endswith(".index.json") else [path]
    for file in files:
        with open(file, "rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
                progress(len(block))
    return digest.hexdigest()


# --- safetensors -----------------------------------------------------------------------------------------------


def _looks_like_safetensors(path: Path) -> bool:
    """A safetensors file begins with the length of its JSON header, eight bytes, then "{"."""
    with open(path, "rb") as file:
        return file.read(9)[8:] == b"{"


def _open_safetensors(path: Path) -> Checkpoint:
    from safetensors import SafetensorError, safe_open

    try:
        file = safe_open(path, framework="numpy")
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is not a whole safetensors file ({_first_line(error)}). Download it again."
        ) from error
    shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
    dtypes = {name: _SAFETENSORS_DTYPES.get(part.get_dtype(), part.get_dtype()) for name, part in slices.items()}

    def read(name: str) -> np.ndarray:
        return _as_numpy_floats(file.get_tensor(name))

    return Checkpoint(path, shapes, dtypes, [], read)


_SAFETENSORS_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
}


def _index_in(folder: Path) -> Path:
    found = sorted(folder.glob("*.safetensors.index.json"))
    if len(found) == 1:
        return found[0]
    raise CheckpointError(f"{folder} is a folder. Give a checkpoint file, or a folder with one *.safetensors.index.json.")


def _shards(index: Path) -> list[Path]:
    try:
        weight_map = json.loads(index.read_text())["weight_map"]
        names = sorted(set(weight_map.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} is not the index of a sharded safetensors checkpoint.") from error
    for name in names:
        if os.path.basename(name) != name:
            raise CheckpointError(f"{index} names the shard {name!r}, which lies outside its folder.")
    return [index.parent / name for name in names]


def _open_sharded(index: Path) -> Checkpoint:
    opened = []
    for path in _shards(index):
        if not path.exists():
            raise CheckpointError(f"{index.name} names the shard {path.name}, which is not beside it.")
        opened.append(_open_safetensors(path))
    owner = {name: shard for shard in opened for name in shard.shapes}
    if len(owner) != sum(len(shard.shapes) for shard in opened):
        raise CheckpointError(f"Two shards of {index.name} hold a tensor of the same name.")
    named = set(json.loads(index.read_text())["weight_map"])
    if named != set(owner):
        different = ", ".join(sorted(named ^ set(owner))[:3])
        raise CheckpointError(f"{index.name} and its shards do not name the same tensors: {different} ...")
    return Checkpoint(
        index,
        {name: shard.shapes[name] for name, shard in owner.items()},
        {name: shard.dtypes[name] for name, shard in owner.items()},
        [f"sharded over {len(opened)} files"],
        lambda name: owner[name].read(name),
    )


# --- torch.save ------------------------------------------------------------------------------------------------


def _open_torch(path: Path) -> Checkpoint:
    try:
        import torch
    except ImportError as error:
        raise MissingPackageError(
            f'Reading {path.name} needs PyTorch: pip install "mobileclip-keras[convert]". '
            "A .safetensors file of the same weights does not."
        ) from error
    loaded = _torch_load(torch, path)
    notes: list[str] = []
    tensors = _unwrap(torch, loaded, path, notes)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    dtypes = {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in tensors.items()}

    def read(name: str) -> np.ndarray:
        tensor = tensors[name].detach().contiguous()
        return (tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor).numpy()

    return Checkpoint(path, shapes, dtypes, notes, read)


def _torch_load(torch: Any, path: Path) -> Any:
    """torch.load that runs nothing from the file, mapping it into memory where its format allows."""
    is_zip = zipfile.is_zipfile(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        if "weights_only" in str(error) or "Unsupported" in str(error) or "GLOBAL" in str(error):
            raise CheckpointError(
                f"{path} is refused: to load it, Python code named in the file would have to run "
                f"({_unsafe_global(error)}). Checkpoints of MobileCLIP hold tensors only."
            ) from error
        raise CheckpointError(f"{path} is not a PyTorch checkpoint, or is damaged ({_first_line(error)}).") from error
    except OSError:
        raise
    except Exception as error:  # torch.load raises nearly every kind of error on damaged files
        with open(path, "rb") as file:
            begins_as_zip = file.read(2) == b"PK"
        if begins_as_zip and not is_zip:
            raise CheckpointError(f"{path} is cut short: download it again.") from error
        raise CheckpointError(f"{path} is not a PyTorch checkpoint, or is damaged ({_first_line(error)}).") from error


def _unsafe_global(error: Exception) -> str:
    text = str(error)
    for marker in ("GLOBAL ", "Unsupported class ", "Unsupported global: GLOBAL "):
        if marker in text:
            return text.split(marker, 1)[1].split()[0]
    return _first_line(error)


def _unwrap(torch: Any, loaded: Any, path: Path, notes: list[str]) -> dict[str, Any]:
    """The tensors of what torch.load returned, below "state_dict" and the like."""
    while isinstance(loaded, Mapping):
        nested = [key for key in NESTED_KEYS if isinstance(loaded.get(key), Mapping)]
        if not nested:
            break
        others = [str(key) for key in loaded if key != nested[0]]
        notes.append(f'weights under "{nested[0]}"' + (f", beside {', '.join(others[:6])}" if others else ""))
        loaded = loaded[nested[0]]
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"{path} holds a {type(loaded).__name__}, not named tensors.")
    tensors = {str(name): value for name, value in loaded.items() if isinstance(value, torch.Tensor)}
    others = [str(name) for name in loaded if str(name) not in tensors]
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors.")
    if others:
        notes.append(f"entries that are no tensors, passed over: {', '.join(others[:6])}")
    return tensors


# --- wrappers --------------------------------------------------------------------------------------------------


def _strip_prefixes(checkpoint: Checkpoint) -> None:
    """Takes off the prefixes that data-parallel training and torch.compile put on every name."""
    for prefix in PREFIXES:
        while checkpoint.shapes and all(name.startswith(prefix) for name in checkpoint.shapes):
            checkpoint.notes.append(f'every name begins with "{prefix}"')
            original = checkpoint._names
            checkpoint._names = {
                name.removeprefix(prefix): original.get(name, name) for name in checkpoint.shapes
            }
            checkpoint.shapes = {name.removeprefix(prefix): v for name, v in checkpoint.shapes.items()}
            checkpoint.dtypes = {name.removeprefix(prefix): v for name, v in checkpoint.dtypes.items()}


def _settle_logit_scale(checkpoint: Checkpoint) -> None:
    """Published files hold a scalar; some copies hold a vector of one."""
    if checkpoint.shapes.get("logit_scale") == (1,):
        checkpoint.notes.append("logit_scale is a vector of one number, taken as a scalar")
        checkpoint.shapes["logit_scale"] = ()


def _as_numpy_floats(array: np.ndarray) -> np.ndarray:
    """Half precision as float32; bfloat16 comes as a type that NumPy itself does not have."""
    return array.astype(np.float32) if array.dtype.itemsize == 2 and array.dtype.kind in "fV" else array


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
