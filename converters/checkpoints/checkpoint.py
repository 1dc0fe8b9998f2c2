"""Opening a PyTorch checkpoint: names, shapes and dtypes at once, arrays one at a time."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .safetensors_file import INDEX_SUFFIX, index_in, open_safetensors, open_sharded, shards
from .tensor_file import CheckpointError, TensorFile, first_line
from .torch_file import open_torch

# Data-parallel training and torch.compile put these before every name.
PREFIXES = ("module.", "_orig_mod.")


@dataclass
class Checkpoint:
    """A checkpoint file that has been opened.

    Attributes:
        path: the file; the index of a sharded one.
        shapes: of each tensor, by its name without wrappers' prefixes.
        dtypes: of each tensor, as in the file ("float32", "bfloat16", "int64", ...).
        notes: what is odd about the file, in words.
        files: every file that holds its tensors.
    """

    path: Path
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]
    notes: list[str]
    _read: Callable[[str], np.ndarray] | None
    files: tuple[Path, ...] = ()

    def read(self, name: str) -> np.ndarray:
        """One tensor; half-precision floats as float32, which holds each of their values exactly.

        Raises:
            CheckpointError: where the file ends too early, or holds numbers that NumPy has no type for.
        """
        if self._read is None:
            raise ValueError(f"{self.path} has been closed.")
        try:
            return self._read(name).reshape(self.shapes[name])
        except MemoryError:
            raise
        except Exception as error:  # PyTorch and safetensors raise nearly every kind
            raise CheckpointError(f"{self.path}: {name} cannot be read: {first_line(error)}.") from error

    def close(self) -> None:
        """Lets go of the file and of the memory mapped to it."""
        self._read = None

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(file.stat().st_size for file in self.files)


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Opens a checkpoint without reading its arrays.

    The content of a file says what it is, not its name.

    Args:
        path: a safetensors file, the `.safetensors.index.json` of a sharded one (or its folder), or a file of
            torch.save. PyTorch is imported only for files of torch.save, and never runs code from the file.

    Raises:
        CheckpointError: where the file is missing, empty, truncated, malicious or of another kind.
        MissingPackageError: where PyTorch is needed and missing.
    """
    path = Path(path)
    try:
        if path.is_dir():
            path = index_in(path)
        if not path.exists():
            raise CheckpointError(f"There is no file {path}.")
        if path.name.endswith(INDEX_SUFFIX):
            return _unwrapped(path, tuple(shards(path)), open_sharded(path))
        return _unwrapped(path, (path,), _open_file(path))
    except PermissionError as error:
        raise CheckpointError(f"{path} may not be read by this user.") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from error


def _open_file(path: Path) -> TensorFile:
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file.")
    with open(path, "rb") as file:
        start = file.read(100)
    if not start:
        raise CheckpointError(f"{path} is empty.")
    if start.startswith(b"version https://git-lfs.github.com"):
        raise CheckpointError(f"{path} is a Git LFS pointer, not the file itself. Fetch it with git lfs pull.")
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise CheckpointError(f"{path} is a web page: the server answered with it in place of the file.")
    # A safetensors file begins with the length of its header, eight bytes, and the header, which is JSON.
    if start[8:9] == b"{":
        return open_safetensors(path)
    by_torch = start.startswith((b"PK", b"\x80"))
    return open_safetensors(path) if path.suffix == ".safetensors" and not by_torch else open_torch(path)


def _unwrapped(path: Path, files: tuple[Path, ...], tensors: TensorFile) -> Checkpoint:
    """The tensors of a file, with what wrappers did to names and shapes undone."""
    notes = list(tensors.notes)
    names = {name: name for name in tensors.shapes}  # the name in the file, by the name without prefixes
    while prefix := next((p for p in PREFIXES if names and all(name.startswith(p) for name in names)), None):
        notes.append(f'every name begins with "{prefix}"')
        names = {name.removeprefix(prefix): original for name, original in names.items()}
    shapes = {name: tensors.shapes[original] for name, original in names.items()}
    dtypes = {name: tensors.dtypes[original] for name, original in names.items()}
    if shapes.get("logit_scale") == (1,):
        notes.append("logit_scale is a vector of one number, taken as a scalar")
        shapes["logit_scale"] = ()
    return Checkpoint(path, shapes, dtypes, notes, lambda name: tensors.read(names[name]), files)


def sha256(files: Iterable[Path], progress: Callable[[int], None] = lambda _: None) -> str:
    """The SHA-256 of files in hexadecimal, as if they were one file.

    Args:
        files: of a `Checkpoint`.
        progress: called with the number of bytes just read.
    """
    digest = hashlib.sha256()
    for file in files:
        with open(file, "rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
                progress(len(block))
    return digest.hexdigest()
