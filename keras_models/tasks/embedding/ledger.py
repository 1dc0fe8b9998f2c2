"""Which inputs are done, and which could not be read: on disk, however many they are."""

import json
import os
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ...store.writing.atomic import file_written_whole
from ...store.writing.output_errors import OutputError
from .items import Item


class Ledger:
    """A private database of SQLite, which lies in a temporary file and goes with the process.

    Memory stays the same for any number of inputs. Nothing has to survive: the parts of a store say what is done.
    """

    def __init__(self) -> None:
        self._database = sqlite3.connect("")
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("PRAGMA synchronous = OFF")
        self._database.execute("CREATE TABLE seen (id BLOB PRIMARY KEY) WITHOUT ROWID")
        self._database.execute("CREATE TABLE unreadable (name TEXT, reason TEXT, id BLOB)")
        self.unreadable = 0
        """How many inputs of this run could not be read."""

    def add_all(self, ids: Iterable[bytes]) -> None:
        """Notes that these inputs are done."""
        with _room():
            self._database.executemany("INSERT OR IGNORE INTO seen VALUES (?)", ((each,) for each in ids))

    def add(self, identity: bytes) -> bool:
        """Notes an input. Returns whether it is new."""
        with _room():
            return self._database.execute("INSERT OR IGNORE INTO seen VALUES (?)", (identity,)).rowcount == 1

    def __contains__(self, identity: bytes) -> bool:
        found = self._database.execute("SELECT 1 FROM seen WHERE id = ?", (identity,))
        return found.fetchone() is not None

    def fail(self, item: Item, reason: str) -> None:
        """Notes why an input could not be read."""
        with _room():
            self._database.execute("INSERT INTO unreadable VALUES (?, ?, ?)", (item.name, reason, item.id))
        self.unreadable += 1

    def write_unreadable(self, path: Path) -> None:
        """Writes the list of what could not be read, one JSON object a line, or removes it where it is empty.

        What an earlier run noted stays, but for inputs that this run has looked at.
        """
        kept = [each for each in read_unreadable(path) if bytes.fromhex(each["id"]) not in self]
        if not kept and not self.unreadable:
            path.unlink(missing_ok=True)
            return
        with file_written_whole(path, force=True) as beside, open(beside, "w", encoding="utf-8") as file:
            for each in kept:
                file.write(json.dumps(each, ensure_ascii=False) + "\n")
            for name, reason, identity in self._database.execute("SELECT name, reason, id FROM unreadable"):
                record = {"name": name, "reason": reason, "id": identity.hex()}
                file.write(json.dumps(record, ensure_ascii=False) + "\n")

    def close(self) -> None:
        """Forgets everything."""
        self._database.close()


@contextmanager
def _room() -> Iterator[None]:
    """SQLite says "database or disk is full", and not of which disk."""
    try:
        yield
    except sqlite3.Error as error:
        where = os.environ.get("SQLITE_TMPDIR") or tempfile.gettempdir()
        raise OutputError(
            f"The list of what is done cannot be kept in {where}: {error}. TMPDIR names another."
        ) from error


def read_unreadable(path: Path) -> list[dict[str, Any]]:
    """The list that `Ledger.write_unreadable` wrote; empty where there is none. A line that is damaged is left out."""
    found = []
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                with suppress(ValueError, KeyError, TypeError):
                    each = json.loads(line)
                    bytes.fromhex(each["id"])
                    found.append({key: str(each[key]) for key in ("name", "reason", "id")})
    except FileNotFoundError:
        pass
    return found
