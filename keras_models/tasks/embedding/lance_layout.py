"""Parts as fragments of a Lance data set, which lies in the folder of the store: `lance.dataset(STORE)` opens it.

Every part is one append, which Lance makes seen in one step. What a kill leaves of one is a file that no version of the
data set names.
"""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import MissingPackageError
from ...store.foreign.foreign_files import check_regular
from ...store.writing.output_errors import output_errors
from .errors import StoreError
from .parts import ROWS_AT_ONCE, Part, Rows, check_schema, damaged, schema, table_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

DATA, VERSIONS = "data", "_versions"
"""Lance's own folders."""
ABANDONED = 600.0
"""Seconds after which a file that no version names is one that a killed run left. A worker of a Ray cluster that lost
its head may still be writing a younger one."""
KEPT = timedelta(days=36_500)
"""Versions are the user's, and stay."""
AT_ONCE = 1000
"""Rows that one expression names."""


def package() -> Any:
    """Lance.

    Raises:
        MissingPackageError: where it is not installed.
    """
    try:
        import lance
    except ImportError as error:
        raise MissingPackageError('A Lance store needs pylance: pip install "mobileclip-keras[lance]".') from error
    return lance


@dataclass(frozen=True)
class LancePart:
    """One fragment of one version, as `Part` describes it."""

    path: Path
    fragment: Any

    @property
    def state(self) -> str:
        return f"{self.path.name} {self.rows}"

    @cached_property
    def rows(self) -> int:
        with _damage(self.path):
            return int(self.fragment.count_rows())

    def columns(self, *names: str, rows_at_once: int = ROWS_AT_ONCE) -> Iterator[Any]:
        return self._batches(list(names), batch_size=rows_at_once)

    def places(self) -> "NDArray[np.uint64]":
        """Lance's own number of each row."""
        found = [batch.column(batch.num_columns - 1).to_numpy() for batch in self._batches(["id"], with_row_id=True)]
        return np.concatenate(found)

    def _batches(self, names: list[str], **options: Any) -> Iterator[Any]:
        with _damage(self.path):
            check_regular(self.path)
            yield from self.fragment.to_batches(columns=names, batch_readahead=1, **options)


@dataclass(frozen=True)
class LanceLayout:
    """A Lance data set in the folder of a store, as `Layout` describes it."""

    folder: Path
    width: int
    dtype: str

    def begin(self) -> None:
        lance = package()
        with output_errors(self.folder):
            if not self._is_there():
                lance.write_dataset(schema(self.width, self.dtype).empty_table(), self.folder, mode="create")
                return
            self._forget_what_is_gone()
            self._remove_abandoned()

    def write(self, rows: Rows) -> None:
        lance = package()
        with output_errors(self.folder):
            made = lance.fragment.write_fragments(table_of(rows, self.dtype), self.folder, mode="append")
            try:
                operation = lance.LanceOperation.Append(made)
                lance.LanceDataset.commit(self.folder, operation, read_version=self._opened().version)
            except BaseException:
                named = self._named()  # by now it may be seen, all the same
                for path in {self._path(each) for each in made} - named:
                    path.unlink(missing_ok=True)
                raise

    def parts(self) -> list[Part]:
        if not self._is_there():  # killed before its first part
            return []
        return [LancePart(self._path(each.metadata), each) for each in self._opened().get_fragments()]

    def keep(self, part: Part, wanted: "NDArray[np.bool_]") -> None:
        assert isinstance(part, LancePart)
        unwanted = part.places()[~wanted].tolist()
        with output_errors(self.folder):
            for start in range(0, len(unwanted), AT_ONCE):
                numbers = ", ".join(map(str, unwanted[start : start + AT_ONCE]))
                self._opened().delete(f"_rowid IN ({numbers})")

    def _is_there(self) -> bool:
        return any((self.folder / VERSIONS).glob("*.manifest"))

    def _opened(self) -> Any:
        lance = package()
        try:
            dataset = lance.dataset(self.folder)
            check_schema(dataset.schema, self.width, self.dtype)
        except Exception as error:  # Lance raises ValueError, OSError and pyarrow's own
            raise StoreError(f"The Lance data set in {self.folder} cannot be opened: {_plain(error)}.") from error
        return dataset

    def _path(self, metadata: Any) -> Path:
        """The file of a fragment."""
        return self.folder / DATA / metadata.files[0].path

    def _named(self) -> set[Path]:
        """The files of the data set as it is now."""
        return {self._path(each.metadata) for each in self._opened().get_fragments()}

    def _forget_what_is_gone(self) -> None:
        """Takes parts out of the data set whose files somebody moved away, because they were damaged."""
        lance, dataset = package(), self._opened()
        gone = [each.fragment_id for each in dataset.get_fragments() if not self._path(each.metadata).exists()]
        if gone:
            operation = lance.LanceOperation.Delete([], gone, "true")
            lance.LanceDataset.commit(dataset, operation, read_version=dataset.version)

    def _remove_abandoned(self) -> None:
        named = self._named()
        others = [path for path in (self.folder / DATA).glob("*") if path not in named]
        youngest = max((path.stat().st_mtime for path in others), default=0.0)
        if others and time.time() - youngest > ABANDONED:
            self._opened().cleanup_old_versions(KEPT, delete_unverified=True, error_if_tagged_old_versions=False)


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # pyarrow's and Lance's
        raise damaged(path, ValueError(_plain(error))) from error


def _plain(error: Exception) -> str:
    """What an error says, without the lines of Lance's own program."""
    return re.sub(r",? /\S+\.rs:\d+:\d+", "", str(error)).strip()
