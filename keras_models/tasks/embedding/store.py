"""A store: a folder with the vectors of a collection, in parts, and a record of what made them."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from filelock import FileLock, Timeout

from ...store.foreign.json_fields import anything, fields, problems, text, whole
from ...store.foreign.json_file import JsonError, read_json
from ...store.writing.atomic import file_written_whole
from ...store.writing.output_errors import output_errors
from ...store.writing.staging import recover
from ...store.writing.targets import absolute
from ..embedding_readers import LARGEST_WIDTH, LONGEST_MODEL
from .errors import StoreError
from .finding import STORE_FILE
from .fingerprint import Fingerprint
from .layouts import DEFAULT, LAYOUTS, check_installed, new_layout
from .ledger import read_unreadable
from .parts import DTYPES, Layout, Part

if TYPE_CHECKING:
    from collections.abc import Sequence

FORMAT = 2
"""1 is a store of Parquet parts, which says nothing of a layout."""
PROGRAM = "mobileclip-keras embeddings"
UNREADABLE_FILE = "unreadable.jsonl"
LOCK_FILE = ".lock"


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
        place = absolute(Path(folder))
        check_place(place)
        with output_errors(place):
            place.mkdir(parents=True, exist_ok=True)
        with _locked(place):
            recover(place)
            if not (place / STORE_FILE).exists():
                with _removed_on_error(place):
                    _write_record(cls(place, model, width, dtype or DTYPES[0], fingerprint, new_layout(place)))
            store = cls.open(place)
            store.fingerprint.check(fingerprint, str(folder))
            if dtype not in (None, store.dtype):
                raise StoreError(
                    f"{folder} holds {store.dtype}, not {dtype}. Leave the dtype out, or give another --out."
                )
            if store.width != width:
                raise StoreError(f"{folder} holds vectors of {store.width} numbers, not {width}.")
            store.layout.begin()
            yield store

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


@contextmanager
def _removed_on_error(place: Path) -> Iterator[None]:
    """A new store that cannot be begun, as on a full disk, leaves no folder."""
    try:
        yield
    except BaseException:
        with suppress(OSError):
            (place / LOCK_FILE).unlink()
            place.rmdir()
        raise


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


@contextmanager
def _locked(place: Path) -> Iterator[None]:
    lock = FileLock(place / LOCK_FILE)
    try:
        with output_errors(place):
            lock.acquire(timeout=0)
    except Timeout as error:
        raise StoreError(
            f"Another process writes to {place} now. Wait until it has ended, or give another --out."
        ) from error
    try:
        yield
    finally:
        lock.release()
