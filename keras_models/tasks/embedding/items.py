"""One input of a collection: a picture or a text, and what tells it from all others."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass

ID_SIZE = 16
"""Bytes of an id. Of a billion inputs, two have the same by chance once in 10^20 collections."""


@dataclass(frozen=True, slots=True)
class Item:
    """A picture or a text that is to be embedded, or the reason why there is none."""

    id: bytes
    """Tells this input from all others, in every run: a hash of where it lies."""
    kind: str
    """"image" or "text"."""
    name: str
    """What people know it by: a path, "shard.tar#cat.jpg", or the text itself."""
    load: Callable[[], str | bytes] | None = None
    """Gives a picture's path or bytes, or the text. To be called before the next item is taken."""
    reason: str = ""
    """Why it cannot be read, where that is known already."""


def make_id(kind: str, *parts: str) -> bytes:
    """A hash of the place of an input. Paths among the parts are absolute."""
    text = "\0".join((kind, *parts))
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=ID_SIZE).digest()


def image_file(path: str) -> Item:
    """A picture in a file of its own. The same file has the same id, by whatever path it is named."""
    return Item(make_id("file", os.path.abspath(path)), "image", printable(path), lambda: path)


def unreadable(path: str, where: str, reason: str) -> Item:
    """What cannot be read of a file: all of it, or a part."""
    return Item(make_id("unreadable", os.path.abspath(path), where), "image", printable(path) + where, None, reason)


def printable(path: str) -> str:
    """A path as text that can always be stored and shown: bytes that are not UTF-8 are replaced."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
