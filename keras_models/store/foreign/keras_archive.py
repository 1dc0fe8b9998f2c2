"""Models in .keras files, which are zip archives of the files of a folder."""

import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from ..file_names import CONFIG, WEIGHTS
from ..folder import FolderError
from ..load import load_folder
from .foreign_files import check_regular

if TYPE_CHECKING:
    from ...models.model import MobileClipModel

ROOM = 64 << 20
"""Bytes that an archive may unpack to beyond its own size. Keras does not pack."""


def load_archive(path: Path) -> "MobileClipModel":
    """The model in a .keras file, with everything checked that is checked of a folder.

    Raises:
        FolderError: where it is missing or damaged, or holds something else than a MobileClipModel.
        ForeignFileError: where it is no regular file.
    """
    try:
        check_regular(path)
        with zipfile.ZipFile(path) as archive, tempfile.TemporaryDirectory() as folder:
            if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size + ROOM:
                raise FolderError(f"{path} is packed, and says that it unpacks to far more than its size.")
            for name in (CONFIG, WEIGHTS):
                with archive.open(name) as source, open(Path(folder) / name, "wb") as target:
                    shutil.copyfileobj(source, target)
            try:
                return load_folder(folder)
            except FolderError as error:
                raise FolderError(str(error).replace(folder, str(path))) from error
    # zipfile says RuntimeError of an encrypted file, NotImplementedError of a packing that it does not know.
    except (OSError, KeyError, ValueError, NotImplementedError, RuntimeError, zipfile.BadZipFile) as error:
        raise FolderError(f"{path} cannot be loaded: {error}") from error
