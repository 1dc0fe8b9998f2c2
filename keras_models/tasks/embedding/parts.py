"""The parts of a store: some thousand rows each, which appear whole and are never changed. Where they lie is a layout's
business: files of Parquet, or a data set of Lance."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from ..embedding_readers import pyarrow
from .errors import StoreError
from .items import ID_SIZE

if TYPE_CHECKING:
    from numpy.typing import NDArray

DTYPES = ("float32", "float16")
ROWS_AT_ONCE = 65_536
"""That are read at once."""


class Rows(NamedTuple):
    """Some rows of a store."""

    ids: Sequence[bytes]
    kinds: Sequence[str]
    """"image" or "text"."""
    names: Sequence[str]
    features: "NDArray[np.floating]"
    """(rows, embed_dim), of length 1."""


class Part(Protocol):
    """Some rows of a store, as they were when the part was looked for."""

    @property
    def path(self) -> Path:
        """The file that holds them."""

    @property
    def state(self) -> str:
        """A text that another content of the part would change."""

    @property
    def rows(self) -> int:
        """How many they are."""

    def columns(self, *names: str, rows_at_once: int = ROWS_AT_ONCE) -> Iterator[Any]:
        """Batches of some columns, as pyarrow has them, in order.

        Raises:
            StoreError: where the part is damaged, or no part of this store.
        """


class Layout(Protocol):
    """How the parts of one store lie on the disk. Workers on other machines get copies of it."""

    def begin(self) -> None:
        """Makes the store ready to be written to, and removes what a run left that was killed in the middle of a part.

        To be called by the one process that may write.

        Raises:
            StoreError: where what is there cannot be read.
            OutputError: where it cannot be written.
        """

    def write(self, rows: Rows) -> None:
        """Adds a part, in one step.

        Raises:
            OutputError: where it cannot be written; nothing that can be seen is left behind.
        """

    def parts(self) -> list[Part]:
        """What there is now. What is written later changes nothing in it.

        Raises:
            StoreError: where the store is damaged.
        """

    def keep(self, part: Part, wanted: "NDArray[np.bool_]") -> None:
        """Removes the rows of a part that are not wanted.

        Args:
            part: one of `parts`.
            wanted: for each of its rows.
        """


def schema(width: int, dtype: str) -> Any:
    """The columns of a part, as pyarrow describes them."""
    arrow, _ = pyarrow()
    number = {"float32": arrow.float32(), "float16": arrow.float16()}[dtype]
    columns = {"id": arrow.binary(ID_SIZE), "kind": arrow.string(), "name": arrow.string()}
    return arrow.schema([*columns.items(), ("features", arrow.list_(arrow.field("element", number), width))])


def table_of(rows: Rows, dtype: str) -> Any:
    """Rows as a table of pyarrow."""
    arrow, _ = pyarrow()
    features = np.ascontiguousarray(rows.features, dtype)
    columns = [
        arrow.array(rows.ids, arrow.binary(ID_SIZE)),
        arrow.array(rows.kinds, arrow.string()),
        arrow.array(rows.names, arrow.string()),
        arrow.FixedSizeListArray.from_arrays(arrow.array(features.ravel()), features.shape[1]),
    ]
    return arrow.Table.from_arrays(columns, schema=schema(features.shape[1], dtype))


def check_schema(found: Any, width: int, dtype: str) -> None:
    """Refuses what does not have the columns of a part.

    Raises:
        ValueError: saying what it has.
    """
    wanted = schema(width, dtype)
    if found.names != wanted.names or [field.type for field in found][:3] != [field.type for field in wanted][:3]:
        raise ValueError(f"its columns are {', '.join(found.names[:20])}")
    kind = found.field("features").type
    # By its text, as formats name the numbers of a list differently.
    if str(kind.value_type) != str(wanted.field("features").type.value_type) or kind.list_size != width:
        raise ValueError(f"its vectors are {kind}")


def vectors_of(batch: Any) -> "NDArray[np.floating]":
    """The column "features" of a batch, (rows, embed_dim).

    Raises:
        StoreError: where it holds what is no vector.
    """
    column = batch.column(batch.schema.names.index("features"))
    if column.null_count or column.values.null_count:
        raise StoreError("A part of the store holds rows without vectors.")
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)


def joined(batches: list[Rows]) -> Rows:
    """Batches, one behind the other."""
    ids = [each for batch in batches for each in batch.ids]
    kinds = [each for batch in batches for each in batch.kinds]
    names = [each for batch in batches for each in batch.names]
    return Rows(ids, kinds, names, np.concatenate([batch.features for batch in batches]))


def damaged(path: Path, error: Exception) -> StoreError:
    """What to say of a part that cannot be read."""
    return StoreError(
        f"{path} is damaged, or no part of this store: {error}. Move it away and run `embed` again: what it held is "
        "embedded again, and nothing else."
    )
