"""Reading safetensors files, whole or sharded. Neither needs PyTorch."""

import json
import mmap
from pathlib import Path

import numpy as np

from .tensor_file import CheckpointError, TensorFile, first_line

INDEX_SUFFIX = ".safetensors.index.json"

_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
}


def open_safetensors(path: Path) -> TensorFile:
    """The tensors of one file.

    Raises:
        CheckpointError: where it is damaged or cut short.
    """
    import ml_dtypes  # noqa: F401 (gives NumPy the type that bfloat16 tensors come as)
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy"):  # raises for anything wrong in the header
            pass
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is not a whole safetensors file ({first_line(error)}). Download it again."
        ) from error
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        # A private mapping: what is written to an array does not reach the file.
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    header.pop("__metadata__", None)
    shapes = {name: tuple(entry["shape"]) for name, entry in header.items()}
    dtypes = {name: _DTYPES.get(entry["dtype"], entry["dtype"]) for name, entry in header.items()}

    last: tuple[int, int] | None = None

    def read(name: str) -> np.ndarray:
        nonlocal last
        if last is not None:
            _give_back(mapped, *last)
        start, end = (8 + length + offset for offset in header[name]["data_offsets"])
        last = start, end
        array = np.frombuffer(memoryview(mapped)[start:end], dtypes[name]).reshape(shapes[name])
        return array.astype(np.float32) if dtypes[name] in ("float16", "bfloat16") else array

    return TensorFile(shapes, dtypes, read)


def _give_back(mapped: mmap.mmap, start: int, end: int) -> None:
    """Frees the memory of a part of a mapped file. If that part is used again, it is read from the file again.

    What was read of a mapped file counts as memory in use, and a whole checkpoint takes as much as its model.
    """
    first, after = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE, end // mmap.PAGESIZE * mmap.PAGESIZE
    if first < after and hasattr(mapped, "madvise"):  # not on Windows
        mapped.madvise(mmap.MADV_DONTNEED, first, after - first)


def open_sharded(index: Path) -> TensorFile:
    """The tensors of all files that an index names.

    Raises:
        CheckpointError: where the index or a shard is missing or damaged, or they do not belong together.
    """
    named = _weight_map(index)
    opened = []
    for path in shards(index):
        if not path.is_file():
            raise CheckpointError(f"{index.name} names the shard {path.name}, which is not beside it.")
        opened.append(open_safetensors(path))
    owner = {name: shard for shard in opened for name in shard.shapes}
    if len(owner) != sum(len(shard.shapes) for shard in opened):
        raise CheckpointError(f"Two shards of {index.name} hold a tensor of the same name.")
    if set(named) != set(owner):
        different = ", ".join(sorted(set(named) ^ set(owner))[:3])
        raise CheckpointError(f"{index.name} and its shards do not name the same tensors: {different} ...")
    return TensorFile(
        {name: shard.shapes[name] for name, shard in owner.items()},
        {name: shard.dtypes[name] for name, shard in owner.items()},
        lambda name: owner[name].read(name),
        [f"sharded over {len(opened)} files"],
    )


def shards(index: Path) -> list[Path]:
    """The files that an index names, whether they are there or not."""
    return [index.parent / name for name in sorted(set(_weight_map(index).values()))]


def _weight_map(index: Path) -> dict[str, str]:
    """Which shard holds each tensor."""
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = {Path(name).name == name for name in weight_map.values()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{index} is not the index of a sharded safetensors checkpoint.") from error
    if names != {True}:
        raise CheckpointError(f"{index} names a shard outside its folder, or none at all.")
    return weight_map


def index_in(folder: Path) -> Path:
    """The index of the sharded checkpoint in a folder."""
    found = sorted(folder.glob(f"*{INDEX_SUFFIX}"))
    if len(found) == 1:
        return found[0]
    raise CheckpointError(f"{folder} is a folder. Give a checkpoint file, or a folder with one *{INDEX_SUFFIX}.")
