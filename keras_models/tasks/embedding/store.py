"""A store: a folder with the vectors of a collection, in parts, and a record of what made them."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ...store.foreign.json_fields import anything, fields, problems, text, whole
from ...store.foreign.json_file import JsonError, read_json
from ...store.writing.atomic import file_written_whole
from ...store.writing.staging import recover
from ...store.writing.targets import absolute
from ..embedding_readers import LARGEST_WIDTH, LONGEST_MODEL
from .errors import StoreError
from .finding import STORE_FILE
from .fingerprint import Fingerprint
from .layouts import DEFAULT, LAYOUTS, check_installed, new_layout
from .ledger import read_unreadable
from .parts import DTYPES, Layout, Part
from .reserving import LOCK_FILE, reserved

if TYPE_CHECKING:
    from collections.abc import Sequence

FORMAT = 2
"""1 is a store of Parquet parts, which says nothing of a layout."""
PROGRAM = "mobileclip-keras embeddings"
UNREADABLE_FILE = "unreadable.jsonl"


@dataclass(frozen=True)
class Store:
    """A folder of vectors.

    Its parts hold rows of "id" (16 bytes), "kind" ("image" or "text"), "name" and "features" (a fixed-size list): files
    `part-*.parquet`, or a Lance data set in the same folder. `store.json` says what made them. `unreadable.jsonl` lists
    what could not be read. `search/` holds copies of the vectors that are quick to search; it may be removed at any
    time.
    """

    folder: Path
    model: str
    """The model that the vectors come from, as `MobileClipModel.from_pretrained` takes it."""
    width: int
    """Numbers of a vector."""
    dtype: str
    """Of the vectors in the parts: "float32" or "float16"."""
    fingerprint: Fingerprint
    layout_name: str = DEFAULT
    """How its parts lie on the disk: "parquet" or "lance"."""

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """A store that is there.

        Raises:
            StoreError: where the folder is none.
        """
        path = Path(folder) / STORE_FILE
        if not path.parent.exists():
            raise StoreError(f"{folder} does not exist.")
        if not path.exists():
            raise StoreError(f"{folder} is no store of embeddings: it has no {STORE_FILE}.")
        try:
            record = read_json(path, folder=path.parent)
        except (OSError, JsonError) as error:
            raise StoreError(f"{path} cannot be read: {error}") from error
        wrong = problems(record, _FIELDS)
        if wrong:
            raise StoreError(f"{path} is no record of embeddings that can be used: {'; '.join(wrong)}.")
        made = Fingerprint.from_record(record["fingerprint"])
        layout = record.get("layout", DEFAULT)
        return cls(Path(folder), record["model"], record["embed_dim"], record["dtype"], made, layout)

    @classmethod
    @contextmanager
    def for_writing(
        cls, folder: str | Path, model: str, width: int, fingerprint: Fingerprint, dtype: str | None = None
    ) -> "Iterator[Self]":
        """A store to write to, a new one or one that is there, which nobody else writes to meanwhile.

        Args:
            folder: that holds the store, or is missing or empty. A new one whose name ends in ".lance" becomes a Lance
                data set.
            model: as `Store.model`.
            width: numbers of a vector.
            fingerprint: of what makes the vectors.
            dtype: of the stored vectors, "float32" or "float16"; None for what the store has; of a new one, float32.

        Raises:
            MissingPackageError: without pyarrow, or pylance for a Lance store.
            StoreError: where another process writes to it, where the folder holds something else, or where vectors of
                another dtype are there.
            FingerprintError: where vectors are there that something else made.
            OutputError: where it cannot be written.
        """
        check_place(absolute(Path(folder)))
        with reserved(folder) as place:
            recover(place)
            if not (place / STORE_FILE).exists():
                _write_record(cls(place, model, width, dtype or DTYPES[0], fingerprint, new_layout(place)))
            store = cls.open(place)
            store.fingerprint.check(fingerprint, str(folder))
            store.check_dtype(dtype)
            if store.width != width:
                raise StoreError(f"{folder} holds vectors of {store.width} numbers, not {width}.")
            store.layout.begin()
            yield store

    def check_dtype(self, dtype: str | None) -> None:
        """Refuses another dtype than that of the stored vectors; None is any.

        Raises:
            StoreError: saying which they have.
        """
        if dtype not in (None, self.dtype):
            raise StoreError(
                f"{self.folder} holds {self.dtype}, not {dtype}. Leave the dtype out, or give another --out."
            )

    @cached_property
    def layout(self) -> Layout:
        """How its parts lie on the disk."""
        return LAYOUTS[self.layout_name](self.folder, self.width, self.dtype)

    def parts(self) -> list[Part]:
        """The parts that there are now, in an order that stays. What is written later changes nothing in them.

        Raises:
            StoreError: where the store is damaged.
        """
        return self.layout.parts()

    def ids(self) -> Iterator[bytes]:
        """The id of every row."""
        for part in self.parts():
            for batch in part.columns("id"):
                yield from batch.column(0).to_pylist()

    def __len__(self) -> int:
        return sum(part.rows for part in self.parts())

    @property
    def unreadable_path(self) -> Path:
        """The list of what could not be read."""
        return self.folder / UNREADABLE_FILE

    def unreadable(self) -> "Sequence[dict[str, Any]]":
        """What could not be read: the name, the reason and the id of each."""
        return read_unreadable(self.unreadable_path)


_FIELDS = fields(
    {
        "program": text(among=(PROGRAM,)),
        "format": whole(1, FORMAT),
        "model": text(LONGEST_MODEL),
        "embed_dim": whole(1, LARGEST_WIDTH),
        "dtype": text(among=DTYPES),
        "fingerprint": anything,  # Fingerprint.from_record looks at it
    },
    {"layout": text(among=tuple(LAYOUTS))},
)


def is_store(path: str | Path) -> bool:
    """Whether a path leads to a store."""
    return (Path(path) / STORE_FILE).exists()


def check_place(place: Path) -> None:
    """Refuses, before any work, a place where there is something else than a store.

    Raises:
        StoreError: saying what is there.
        MissingPackageError: where a store there could not be written.
    """
    check_installed(Store.open(place).layout_name if is_store(place) else new_layout(place))
    if not os.path.lexists(place):
        return
    if not place.is_dir():
        raise StoreError(f"{place} is a file. A store is a folder; files end in .npz or .parquet.")
    recover(place)
    if not is_store(place) and any(path.name != LOCK_FILE for path in place.iterdir()):
        raise StoreError(f"{place} holds other files and is no store. Give a new folder.")


def check_before_loading(place: Path, dtype: str | None) -> None:
    """Refuses a place, and a store there, by what is known before a model is loaded.

    Args:
        place: of the store.
        dtype: as `Store.for_writing`.

    Raises:
        StoreError, MissingPackageError: as `check_place`, and for a store of another dtype.
        FingerprintError: where another version of this package made what is there.
    """
    check_place(place)
    if is_store(place):
        store = Store.open(place)
        store.check_dtype(dtype)
        store.fingerprint.check(Fingerprint.of_version(), str(place))


def _write_record(store: Store) -> None:
    is_parquet = store.layout_name == DEFAULT
    record = {
        "program": PROGRAM,
        "format": 1 if is_parquet else FORMAT,
        "model": store.model,
        "embed_dim": store.width,
        "dtype": store.dtype,
        "fingerprint": store.fingerprint.as_record(),
        **({} if is_parquet else {"layout": store.layout_name}),
    }
    with file_written_whole(store.folder / STORE_FILE, force=False) as beside:
        beside.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
