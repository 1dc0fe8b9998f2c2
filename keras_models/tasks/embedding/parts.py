"""The parts of a store: Parquet files that appear whole, each with some thousand rows, and are never changed."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ...store.foreign.foreign_files import check_regular
from ...store.writing.atomic import file_written_whole
from ..embedding_readers import PARQUET_LIMIT, pyarrow
from .errors import StoreError
from .items import ID_SIZE

if TYPE_CHECKING:
    from numpy.typing import NDArray

PATTERN = "part-*.parquet"
DTYPES = ("float32", "float16")


class Rows(NamedTuple):
    """Some rows of a store."""

    ids: Sequence[bytes]
    kinds: Sequence[str]
    """"image" or "text"."""
    names: Sequence[str]
    features: "NDArray[np.floating]"
    """(rows, embed_dim), of length 1."""


def write_part(folder: Path, rows: Rows, dtype: str) -> Path:
    """Writes a part. Its name follows from its ids, so that the same rows, written twice, are there once.

    Raises:
        OutputError: where it cannot be written; nothing is left behind.
    """
    arrow, parquet = pyarrow()
    digest = hashlib.blake2b(b"".join(rows.ids), digest_size=ID_SIZE).hexdigest()
    path = folder / f"part-{digest}.parquet"
    features = np.ascontiguousarray(rows.features, dtype)
    columns = [
        arrow.array(rows.ids, arrow.binary(ID_SIZE)),
        arrow.array(rows.kinds, arrow.string()),
        arrow.array(rows.names, arrow.string()),
        arrow.FixedSizeListArray.from_arrays(arrow.array(features.ravel()), features.shape[1]),
    ]
    table = arrow.Table.from_arrays(columns, schema=schema(features.shape[1], dtype))
    with file_written_whole(path, force=True) as beside, open(beside, "wb") as file:
        # Features do not compress.
        parquet.write_table(table, file, compression="none", use_dictionary=["kind"])
        file.flush()
        os.fsync(file.fileno())
    return path


def schema(width: int, dtype: str) -> Any:
    """The columns of a part, as pyarrow describes them."""
    arrow, _ = pyarrow()
    number = {"float32": arrow.float32(), "float16": arrow.float16()}[dtype]
    columns = {"id": arrow.binary(ID_SIZE), "kind": arrow.string(), "name": arrow.string()}
    return arrow.schema([*columns.items(), ("features", arrow.list_(arrow.field("element", number), width))])


class Part:
    """One part, opened for reading.

    Args:
        path: the file.
        width: numbers of a vector.
        dtype: of the vectors.

    Raises:
        StoreError: where it is damaged, or no part of this store.
    """

    def __init__(self, path: Path, width: int, dtype: str) -> None:
        _, parquet = pyarrow()
        self.path = path
        try:
            check_regular(path)
            limits = {"thrift_string_size_limit": PARQUET_LIMIT, "thrift_container_size_limit": PARQUET_LIMIT}
            self._file = parquet.ParquetFile(path, **limits)
            found = self._file.schema_arrow
            wanted = schema(width, dtype)
            if found.names != wanted.names or [field.type for field in found][:3] != [f.type for f in wanted][:3]:
                raise ValueError(f"its columns are {', '.join(found.names[:20])}")
            kind = found.field("features").type
            if str(kind.value_type) != str(wanted.field("features").type.value_type) or kind.list_size != width:
                raise ValueError(f"its vectors are {kind}")
        except Exception as error:  # pyarrow raises nearly every kind on damaged files
            raise _damaged(path, error) from error
        self.rows = int(self._file.metadata.num_rows)

    def columns(self, *names: str, rows_at_once: int = 65_536) -> Iterator[Any]:
        """Batches of some columns, as pyarrow has them, in order.

        Raises:
            StoreError: where the part is damaged.
        """
        try:
            yield from self._file.iter_batches(batch_size=rows_at_once, columns=list(names), use_threads=False)
        except Exception as error:
            raise _damaged(self.path, error) from error

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def vectors_of(batch: Any) -> "NDArray[np.floating]":
    """The column "features" of a batch, (rows, embed_dim).

    Raises:
        StoreError: where it holds what is no vector.
    """
    column = batch.column(batch.schema.names.index("features"))
    if column.null_count or column.values.null_count:
        raise StoreError("A part of the store holds rows without vectors.")
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)


def _damaged(path: Path, error: Exception) -> StoreError:
    return StoreError(
        f"{path} is damaged, or no part of this store: {error}. Move it away and run `embed` again: what it held is "
        "embedded again, and nothing else."
    )
