"""Parts as Parquet files, each of which appears whole."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...store.foreign.foreign_files import check_regular
from ...store.writing.atomic import file_written_whole
from ..embedding_readers import PARQUET_LIMIT, pyarrow
from .items import ID_SIZE
from .parts import ROWS_AT_ONCE, Part, Rows, check_schema, damaged, joined, table_of, vectors_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PATTERN = "part-*.parquet"


@dataclass(frozen=True)
class ParquetPart:
    """One file, as `Part` describes it."""

    path: Path
    width: int
    dtype: str

    @cached_property
    def state(self) -> str:
        return f"{self.path.name} {self.path.stat().st_size}"

    @cached_property
    def rows(self) -> int:
        with self._opened() as file:
            return int(file.metadata.num_rows)

    def columns(self, *names: str, rows_at_once: int = ROWS_AT_ONCE) -> Iterator[Any]:
        with self._opened() as file:
            yield from file.iter_batches(batch_size=rows_at_once, columns=list(names), use_threads=False)

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        _, parquet = pyarrow()
        limits = {"thrift_string_size_limit": PARQUET_LIMIT, "thrift_container_size_limit": PARQUET_LIMIT}
        try:
            check_regular(self.path)
            with parquet.ParquetFile(self.path, page_checksum_verification=True, **limits) as file:
                check_schema(file.schema_arrow, self.width, self.dtype)
                yield file
        except Exception as error:  # pyarrow raises nearly every kind on damaged files
            raise damaged(self.path, error) from error


@dataclass(frozen=True)
class ParquetLayout:
    """Files `part-*.parquet` in the folder of a store, as `Layout` describes it."""

    folder: Path
    width: int
    dtype: str

    def begin(self) -> None:
        pass  # what a killed run left was removed with the folder's other leavings

    def write(self, rows: Rows) -> None:
        _, parquet = pyarrow()
        # The name follows from the ids, so that the same rows, written twice, are there once.
        digest = hashlib.blake2b(b"".join(rows.ids), digest_size=ID_SIZE).hexdigest()
        path = self.folder / f"part-{digest}.parquet"
        with file_written_whole(path, force=True) as beside, open(beside, "wb") as file:
            parquet.write_table(
                table_of(rows, self.dtype),
                file,
                compression="none",  # features do not compress
                use_dictionary=["kind"],
                write_page_checksum=True,
            )
            file.flush()
            os.fsync(file.fileno())

    def parts(self) -> list[Part]:
        return [ParquetPart(path, self.width, self.dtype) for path in sorted(self.folder.glob(PATTERN))]

    def keep(self, part: Part, wanted: "NDArray[np.bool_]") -> None:
        if wanted.any():
            self.write(_chosen(part, wanted))
        part.path.unlink()


def _chosen(part: Part, wanted: "NDArray[np.bool_]") -> Rows:
    found, start = [], 0
    for batch in part.columns("id", "kind", "name", "features"):
        some = batch.filter(wanted[start : start + len(batch)])
        start += len(batch)
        ids, kinds, names = (some.column(some.schema.names.index(each)).to_pylist() for each in ("id", "kind", "name"))
        found.append(Rows(ids, kinds, names, vectors_of(some)))
    return joined(found)
