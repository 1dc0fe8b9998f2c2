"""Reading safetensors files, which needs no PyTorch."""

import mmap
from pathlib import Path

import numpy as np

from ....keras_models.errors import MobileClipError
from ....keras_models.store.foreign.json_file import Limits, parse_json
from .tensor_file import CheckpointError, TensorFile, first_line

# The largest checkpoint of MobileCLIP has a header of 0.2 MB. Training tools write long notes into it.
HEADER_LIMITS = Limits(size=16 << 20, depth=8, items=1_000_000, text=16 << 20)

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

    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if HEADER_LIMITS.size < length <= path.stat().st_size:
        raise CheckpointError(f"{path} has a header of {length:,} bytes; {HEADER_LIMITS.size:,} are allowed.")
    try:
        with safe_open(path, framework="numpy"):  # raises for anything wrong in the header
            pass
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is not a whole safetensors file ({first_line(error)}). Download it again."
        ) from error
    with open(path, "rb") as file:
        file.seek(8)
        try:
            header = parse_json(file.read(length), f"The header of {path}", HEADER_LIMITS)
        except MobileClipError as error:
            raise CheckpointError(str(error)) from error
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
