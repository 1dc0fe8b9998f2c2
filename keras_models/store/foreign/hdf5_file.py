"""HDF5 files that somebody else made: plain numbers that lie in the file itself, and nothing else.

HDF5 can also point to other files of the machine, by links, by external storage and by virtual datasets, and can unpack
a few bytes into any amount of memory. Keras' own writer uses none of that.
"""

import math
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ...errors import MobileClipError
from .foreign_files import check_regular

GROUP, DATASET = h5py.h5o.TYPE_GROUP, h5py.h5o.TYPE_DATASET
SHUFFLE, DEFLATE, FLETCHER32 = h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_FLETCHER32
PACKINGS = [
    shuffle + deflate + checksum
    for shuffle in ([], [SHUFFLE])
    for deflate in ([], [DEFLATE])
    for checksum in ([], [FLETCHER32])
]
"""The filters, in this order, whose unpacked size can be told beforehand."""
CHECKSUM = 4
"""Bytes that the filter fletcher32 adds to a chunk."""
BLOCK = 1 << 20
"""Bytes that are unpacked at a time."""
MOST_LEVELS = 64
"""Groups inside each other."""
LARGEST_ITEM = 8
"""Bytes of a number."""


class WeightsFileError(MobileClipError):
    """A file of weights holds something other than plain numbers, or numbers that no model has."""


def open_hdf5(path: Path, folder: Path | None = None) -> h5py.File:
    """An HDF5 file, opened for reading.

    Args:
        path: the file.
        folder: that it must lie in, as for `foreign_files.check_regular`.

    Raises:
        ForeignFileError: where it is no regular file of the folder.
        OSError: where it is missing or no HDF5.
    """
    check_regular(path, folder)
    return h5py.File(path, "r")


def child(group: Any, key: bytes) -> Any:
    """A group or a dataset in a group, by h5py's low-level API.

    Raises:
        WeightsFileError: where the name is a link to another place or another file.
        KeyError: where the group has no such name.
    """
    if group.links.get_info(key).type != h5py.h5l.TYPE_HARD:
        raise WeightsFileError(f"{_name(group)}/{key.decode(errors='replace')} is a link, which weights files lack.")
    return h5py.h5o.open(group, key)


def check_dataset(dataset: Any) -> None:
    """Refuses everything but numbers that lie in the file as they are, or packed and of exactly their own size.

    Raises:
        WeightsFileError: naming the dataset.
    """
    reason = _reason(dataset)
    if reason:
        raise WeightsFileError(f"{_name(dataset)} {reason}.")


def check_everything(file: h5py.File, largest: int) -> None:
    """Refuses a file that holds anything but groups and plain numbers, for readers that follow whatever they find.

    Args:
        file: opened.
        largest: numbers that one dataset may hold.

    Raises:
        WeightsFileError: naming what is refused.
    """
    seen: set[int] = set()
    todo = [(file.id, 0)]
    while todo:
        group, depth = todo.pop()
        if depth > MOST_LEVELS:
            raise WeightsFileError(f"{_name(group)} lies in more than {MOST_LEVELS} groups.")
        for key in group:
            found = child(group, key)
            address = h5py.h5o.get_info(found).addr
            if address in seen:  # hard links may lead in a circle
                continue
            seen.add(address)
            if isinstance(found, h5py.h5g.GroupID):
                todo.append((found, depth + 1))
            elif isinstance(found, h5py.h5d.DatasetID):
                check_dataset(found)
                if math.prod(found.shape) > largest:
                    raise WeightsFileError(f"{_name(found)} of shape {found.shape} is larger than any weight.")
            else:
                raise WeightsFileError(f"{_name(found)} is neither a group nor an array.")


def check_finite(array: np.ndarray, dtype: str, name: str) -> None:
    """Refuses NaN, infinite numbers, and numbers that become infinite in the dtype that they are wanted in.

    Args:
        array: read from a file.
        dtype: of the variable that gets it.
        name: of the variable.

    Raises:
        WeightsFileError: naming the variable.
    """
    if not is_finite(array):
        raise WeightsFileError(f"{name} holds numbers that are NaN or infinite.")
    if dtype in ("float16", "bfloat16", "float32") and array.dtype.itemsize > (4 if dtype == "float32" else 2):
        import ml_dtypes

        with np.errstate(over="ignore"):
            narrow = array.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
        if not is_finite(narrow):
            raise WeightsFileError(f"{name} holds numbers too large for {dtype}.")


def is_finite(array: np.ndarray) -> bool:
    """Whether all numbers are finite."""
    if array.dtype.kind in "iub":
        return True
    if array.dtype.itemsize >= 4:
        with np.errstate(all="ignore"):
            if np.isfinite(array.sum()):  # takes a third of the time, and no memory
                return True
    return bool(np.isfinite(array).all())


def _reason(dataset: Any) -> str | None:
    """What is wrong with a dataset, in words."""
    dtype, shape = dataset.dtype, dataset.shape
    if not _is_numeric(dataset, dtype):
        return f"holds {dtype}, not numbers"
    if shape is None:
        return "has no shape"
    size = math.prod(shape) * dtype.itemsize
    # Only a plain block in this file has an offset.
    if dataset.get_offset() is not None:
        return None if dataset.get_storage_size() == size else "has not the size that its shape says"
    plan = dataset.get_create_plist()
    if plan.get_external_count():
        return "lies in another file"
    match plan.get_layout():
        case h5py.h5d.CHUNKED:
            return _reason_of_chunks(dataset, plan, dtype, size)
        case h5py.h5d.CONTIGUOUS | h5py.h5d.COMPACT:
            return None if dataset.get_storage_size() == size else "holds less than its shape says"
        case _:
            return "is put together from other datasets"


def _is_numeric(dataset: Any, dtype: np.dtype) -> bool:
    if dtype.kind in "fiub":
        return dtype.itemsize <= LARGEST_ITEM
    # HDF5 has no bfloat16. Keras stores it as bytes and says so in an attribute.
    return dtype.kind == "V" and dtype.itemsize == 2 and dtype.fields is None and h5py.h5a.exists(dataset, b"dtype")


def _reason_of_chunks(dataset: Any, plan: Any, dtype: np.dtype, size: int) -> str | None:
    chunk = math.prod(plan.get_chunk()) * dtype.itemsize
    if chunk > max(2 * size, BLOCK):
        return "has chunks larger than itself"
    filters = [plan.get_filter(index)[0] for index in range(plan.get_nfilters())]
    if filters not in PACKINGS:
        return f"is packed in a way that is not read here (HDF5's filters {filters})"
    count = dataset.get_num_chunks()
    if count != math.prod(-(-length // step) for length, step in zip(dataset.shape, plan.get_chunk(), strict=True)):
        return "lacks some of its chunks"

    def differs(info: Any) -> bool | None:
        """True for a wrong chunk, which ends the search; None goes on."""
        used = [each for bit, each in enumerate(filters) if not info.filter_mask >> bit & 1]
        return info.size > 2 * chunk + BLOCK or _unpacked(dataset, info, used, chunk) != chunk or None

    return "has a chunk of another size than its shape says" if dataset.chunk_iter(differs) else None


def _unpacked(dataset: Any, info: Any, used: list[int], chunk: int) -> int:
    """The size of a chunk once it is unpacked; of one that is too large, only that it is."""
    if DEFLATE not in used:
        return info.size - (CHECKSUM if FLETCHER32 in used else 0)
    packed = dataset.read_direct_chunk(info.chunk_offset)[1]
    unpack, total = zlib.decompressobj(), 0
    try:
        while not unpack.eof and total <= chunk:
            block = unpack.decompress(packed, BLOCK)
            if not block:
                break
            packed, total = unpack.unconsumed_tail, total + len(block)
    except zlib.error:
        return -1
    return total if unpack.eof else -1


def _name(item: Any) -> str:
    """Where an object lies in its file."""
    return (h5py.h5i.get_name(item) or b"?").decode(errors="replace")
