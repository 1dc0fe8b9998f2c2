"""Reading files of features that somebody else may have made. Sizes are checked before memory is taken."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.lib import format as npy

from ..errors import MissingPackageError
from ..store.foreign.json_fields import fields, problems, text
from ..store.foreign.json_file import Limits, parse_json

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROOM = 512 << 20
"""Bytes of memory that a file may need beyond its own size."""
STRING = 100
"""Bytes that Python takes for a short string in a tuple, roughly."""
LARGEST_WIDTH = 65_536
"""Numbers of one feature."""
LONGEST_MODEL = 4096
"""Characters of a model's name, which may be a path."""
HEADER = 10_000
"""Characters of an array's header, as NumPy itself allows."""
ARRAYS = ("model", "names", "features", "texts", "text_features")
PARQUET_LIMIT = 16 << 20
"""Bytes of the strings in a Parquet file's description, and how many things it describes."""


class Stored(NamedTuple):
    """What a file holds, in the order of the fields of `Embeddings`."""

    model: str
    names: tuple[str, ...]
    features: "NDArray[np.float32]"
    texts: tuple[str, ...]
    text_features: "NDArray[np.float32]"


def read_npz(path: Path) -> Stored:
    """The arrays of an .npz file.

    Raises:
        ValueError: where an array is missing, of another kind, or larger than the file can hold.
        OSError, zipfile.BadZipFile, KeyError, EOFError: where it is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        plans = {name: _plan(archive, name) for name in ARRAYS}
    if plans["model"].shape or plans["model"].dtype.itemsize > 4 * LONGEST_MODEL:
        raise ValueError("its model is not a name")
    needed = sum(plan.size for plan in plans.values())
    for words, vectors in (("names", "features"), ("texts", "text_features")):
        width = _check_pair(plans[words].shape, plans[vectors].shape, words)
        rows, letters = plans[words].shape[0], plans[words].dtype.itemsize
        needed += rows * (4 * width + STRING + letters)
    _check_room(path, needed)
    with np.load(path, allow_pickle=False, max_header_size=HEADER) as file:
        names, texts = (tuple(file[key].tolist()) for key in ("names", "texts"))
        features, text_features = (np.asarray(file[key], np.float32) for key in ("features", "text_features"))
        return Stored(str(file["model"]), names, features, texts, text_features)


class _Plan(NamedTuple):
    shape: tuple[int, ...]
    dtype: np.dtype
    size: int


def _plan(archive: zipfile.ZipFile, name: str) -> _Plan:
    """What an array's header says, once it agrees with what the archive says."""
    entry = archive.getinfo(f"{name}.npy")
    with archive.open(entry) as file:
        version = npy.read_magic(file)
        read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
        if read is None:
            raise ValueError(f"its {name} are stored as version {version} of NumPy's format")
        shape, _, dtype = read(file, max_header_size=HEADER)
    kinds = "f" if name in ("features", "text_features") else "U"
    if dtype.kind != kinds or dtype.hasobject:
        raise ValueError(f"its {name} are of type {dtype}")
    size = int(np.prod([1, *shape], dtype=object)) * dtype.itemsize
    if not 0 <= size <= entry.file_size <= size + 2 * HEADER:
        raise ValueError(f"its {name} of shape {shape} do not fill {entry.file_size} bytes")
    return _Plan(shape, dtype, size)


def _check_pair(names: tuple[int, ...], features: tuple[int, ...], kind: str) -> int:
    """The length of a feature, once there is one for each name."""
    if len(names) != 1 or len(features) != 2 or names[0] != features[0]:
        count = names[0] if len(names) == 1 else f"an array {names} of"
        raise ValueError(f"it has {count} {kind} for features of shape {features}")
    if not 1 <= features[1] <= LARGEST_WIDTH:
        raise ValueError(f"its features are of {features[1]} numbers")
    return features[1]


def _check_room(path: Path, needed: int) -> None:
    size = path.stat().st_size
    if needed > 3 * size + ROOM:
        raise ValueError(f"it says that it holds {needed:,} bytes, in a file of {size:,}")


def read_parquet(path: Path) -> Stored:
    """The rows of a .parquet file.

    Raises:
        ValueError, KeyError, TypeError, OSError: as for `read_npz`; also pyarrow's own, which are ValueErrors.
        MissingPackageError: without pyarrow.
    """
    arrow, parquet = pyarrow()
    columns = ["kind", "name", "features"]
    with parquet.ParquetFile(
        path,
        # A word that stands in a million rows is read once, not a million times.
        read_dictionary=["kind", "name"],
        thrift_string_size_limit=PARQUET_LIMIT,
        thrift_container_size_limit=PARQUET_LIMIT,
    ) as file:
        schema, metadata = file.schema_arrow, file.metadata
        model = _model(schema.metadata or {})
        width = _width(arrow, schema)
        for name in ("kind", "name"):
            kind = schema.field(name).type
            if not arrow.types.is_string(getattr(kind, "value_type", kind)):
                raise ValueError(f"its column {name!r} holds {kind}")
        groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
        if metadata.num_rows < 0 or metadata.num_rows != sum(group.num_rows for group in groups):
            raise ValueError("its parts have other rows than it has")
        # Not column by column: pyarrow ends the process where what is said of a column is damaged.
        sizes = [group.total_byte_size for group in groups]
        if min(sizes, default=0) < 0:
            raise ValueError("it says that it holds less than nothing")
        _check_room(path, metadata.num_rows * (8 * width + STRING) + sum(sizes))
        table = file.read(columns=columns, use_threads=False)
    features = np.asarray(table.column("features").combine_chunks().flatten(), np.float32).reshape(-1, width)
    image = np.array(_words(table.column("kind"))) == "image"
    names = np.array(_words(table.column("name")), dtype=object)
    if len(names) != len(features):
        raise ValueError(f"it has {len(names)} names for {len(features)} features")
    return Stored(model, tuple(names[image]), features[image], tuple(names[~image]), features[~image])


def _model(metadata: Mapping[bytes, bytes]) -> str:
    found = parse_json(metadata[b"mobileclip_keras"], "its description", Limits(size=1 << 16))
    wrong = problems(found, fields({"model": text(LONGEST_MODEL)}))
    if wrong:
        raise ValueError("; ".join(wrong))
    return str(found["model"])


def _width(arrow: Any, schema: Any) -> int:
    kind = schema.field("features").type
    if not (arrow.types.is_fixed_size_list(kind) and arrow.types.is_floating(kind.value_type)):
        raise ValueError(f"its features are of type {kind}")
    if not 1 <= kind.list_size <= LARGEST_WIDTH:
        raise ValueError(f"its features are of {kind.list_size} numbers")
    return int(kind.list_size)


def _words(column: Any) -> list[Any]:
    """The strings of a column; equal ones are one object."""
    found: list[Any] = []
    for chunk in column.chunks:
        if hasattr(chunk, "dictionary"):
            words = chunk.dictionary.to_pylist()
            found += [None if index is None else words[index] for index in chunk.indices.to_pylist()]
        else:
            found += chunk.to_pylist()
    return found


def pyarrow() -> tuple[Any, Any]:
    """pyarrow and its module for Parquet.

    Raises:
        MissingPackageError: where it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingPackageError(
            'Stores and Parquet files need pyarrow: pip install "mobileclip-keras[parquet]". An .npz file does not.'
        ) from error
    return pyarrow, pyarrow.parquet
