"""Opening a PyTorch checkpoint: names, shapes and dtypes at once, arrays one at a time."""

import hashlib
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ...keras_models.shown import shown
from .canonical import canonical
from .extras import carries_nothing
from .formats.safetensors_file import open_safetensors
from .formats.sharded_file import INDEX_SUFFIXES, index_in, open_sharded, shards
from .formats.tensor_file import CheckpointError, TensorFile, first_line
from .formats.torch_file import open_torch
from .formats.torchscript_file import is_torchscript, open_torchscript
from .weight_sets import choose, sets_in

LONGEST_NAME = 1000
"""Characters of a tensor's name."""


@dataclass
class Checkpoint:
    """A checkpoint file that has been opened. Its tensors have the published names, however the file calls them.

    Attributes:
        path: the file; the index of a sharded one.
        shapes: of each tensor by name.
        dtypes: of each tensor, as in the file ("float32", "bfloat16", "int64", ...).
        notes: what is odd about the file, in words.
        files: every file that holds its tensors.
        named: the name in the file, by the published one, where they differ.
        weights: the name of the set of weights in a file that holds several; None in any other.
        left: the tensors that were left out because the caller said so.
        causal: whether a mask in the file says that the text tower is causal; None where there is none.
    """

    path: Path
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]
    notes: list[str]
    _read: Callable[[str], np.ndarray] | None
    files: tuple[Path, ...] = ()
    named: dict[str, str] = field(default_factory=dict)
    weights: str | None = None
    left: tuple[str, ...] = ()
    causal: bool | None = None

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
            called = self.named.get(name, name)
            raise CheckpointError(f"{self.path}: {called} cannot be read: {first_line(error)}.") from error

    def close(self) -> None:
        """Lets go of the file and of the memory mapped to it."""
        self._read = None

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(file.stat().st_size for file in self.files)


def open_checkpoint(path: str | Path, weights: str | None = None, ignore_extra: bool = False) -> Checkpoint:
    """Opens a checkpoint without reading its arrays.

    The content of a file says what it is, not its name. Its weights are found by the tables, under whatever names
    training code left them.

    Args:
        path: a safetensors file, a file of torch.save or of torch.jit.save, or the index of a sharded one (or its
            folder). PyTorch is imported only for files of torch.save, and nothing in a file is run.
        weights: the name of the set of weights, where the file holds several; None for those that training code
            calls the model's own.
        ignore_extra: whether tensors that stand beside the model, such as another head, are left out.

    Raises:
        CheckpointError: where the file is missing, empty, truncated, malicious or of another kind, or where it
            does not say which weights are meant.
        MissingPackageError: where PyTorch is needed and missing.
    """
    path = Path(path)
    try:
        if path.is_dir():
            path = index_in(path)
        if not path.exists():
            raise CheckpointError(f"There is no file {path}.")
        if path.name.endswith(INDEX_SUFFIXES):
            return checkpoint_of(path, tuple(shards(path)), [open_sharded(path, _open_file)], weights, ignore_extra)
        return checkpoint_of(path, (path,), _open_file(path), weights, ignore_extra)
    except PermissionError as error:
        raise CheckpointError(f"{path} may not be read by this user.") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from error


def _open_file(path: Path) -> list[TensorFile]:
    """The places of a file that hold tensors."""
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
        return [open_safetensors(path)]
    if zipfile.is_zipfile(path) and is_torchscript(path):
        return [open_torchscript(path)]
    by_torch = start.startswith((b"PK", b"\x80"))
    return [open_safetensors(path)] if path.suffix == ".safetensors" and not by_torch else open_torch(path)


def checkpoint_of(
    path: Path, files: tuple[Path, ...], places: list[TensorFile], weights: str | None, ignore_extra: bool
) -> Checkpoint:
    """The set of weights that is meant, under the published names."""
    sets = [one for place in places for one in sets_in(_shown(path, place), carries_nothing)]
    chosen, others = choose(sets, weights, path.name)
    beside = {
        name
        for one in sets
        if one.tensors is chosen.tensors and one is not chosen and one.is_whole
        for name in one.held
    }
    made = canonical(chosen, beside, ignore_extra)
    notes = [*chosen.tensors.notes, *made.notes]
    if others:
        notes.append(f"other weights in the file, left out: {', '.join(others)} (--weights NAME takes them)")
    return Checkpoint(
        path,
        made.shapes,
        made.dtypes,
        notes,
        made.read,
        files,
        made.named,
        chosen.name if others else None,
        made.left,
        made.causal,
    )


def _shown(path: Path, tensors: TensorFile) -> TensorFile:
    """The same tensors under names that can be shown. No known name has a character that cannot be seen."""
    if any(len(name) > LONGEST_NAME for name in tensors.shapes):
        raise CheckpointError(f"{path} has tensors with names of more than {LONGEST_NAME} characters.")
    names = {shown(name): name for name in tensors.shapes}
    if len(names) < len(tensors.shapes):
        raise CheckpointError(f"{path} has tensors whose names differ only in characters that cannot be seen.")
    return replace(
        tensors,
        shapes={name: tensors.shapes[original] for name, original in names.items()},
        dtypes={name: tensors.dtypes[original] for name, original in names.items()},
        read=lambda name: tensors.read(names[name]),
        place=shown(tensors.place),
    )


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
