"""Files that somebody else made: only regular files that lie in the folder that was named, and never more of one than
a limit."""

import stat
from pathlib import Path

from ...errors import MobileClipError


class ForeignFileError(MobileClipError):
    """A file is not what it should be, or does not lie where it should; nothing of it was read."""


def check_regular(path: Path, folder: Path | None = None) -> None:
    """Refuses what is no regular file: a pipe would never end, a device is none of a model's business.

    Args:
        path: a file, or a link to one.
        folder: where the file must lie in the end, wherever links lead. The Hub's cache is the one exception: there,
            the files of a snapshot are links to the blobs of the same repository. None for a file that the user named,
            who may link it from anywhere.

    Raises:
        ForeignFileError: naming the file.
        OSError: where it is missing or may not be read.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise ForeignFileError(f"{path} is not a regular file, and is not read.")
    if folder is None:
        return
    real = path.resolve()
    if not (real.is_relative_to(folder.resolve()) or real.parent == _blobs_beside(folder)):
        raise ForeignFileError(f"{path} is a link to {real}, outside the folder {folder}, and is not read.")


def _blobs_beside(folder: Path) -> Path | None:
    """Where the Hub's cache keeps the files of a snapshot: <repository>/snapshots/<commit>/ and <repository>/blobs/."""
    for place in (folder.absolute(), *folder.absolute().parents):
        if place.parent.name == "snapshots":
            return place.parent.parent.resolve() / "blobs"
    return None


def read_limited(path: Path, most: int, folder: Path | None = None) -> bytes:
    """The whole of a file that is to be small.

    Args:
        path: the file.
        most: bytes that it may have.
        folder: as for `check_regular`.

    Raises:
        ForeignFileError: where it is no regular file of the folder, or larger.
        OSError: where it is missing or may not be read.
    """
    check_regular(path, folder)
    with open(path, "rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ForeignFileError(f"{path} is larger than {most:,} bytes, and is not read.")
    return content
