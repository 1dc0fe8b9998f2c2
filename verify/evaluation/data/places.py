"""Where the files of a data set lie: in a folder, or in a repository on the Hub, from which each comes when needed."""

import re
from abc import ABC, abstractmethod
from pathlib import Path

from ....keras_models.store.download import download_file
from ....keras_models.store.foreign.foreign_files import ForeignFileError, read_limited
from ....keras_models.store.hub_errors import NoSuchFileError
from .dataset import DataError
from .words import LARGEST_TEXT

_ON_HUB = re.compile(
    r"(?:https://huggingface\.co/datasets/|hf://datasets/|hf://)?"
    r"(?P<id>[\w.-]+/[\w.-]+?)(?:@(?P<at>[\w./-]+)|/tree/(?P<tree>[\w./-]+))?/?"
)


class Place(ABC):
    """Files by their names."""

    name: str
    """For messages and records."""
    revision: str | None = None
    """The commit of a repository, once a file came from it."""

    @abstractmethod
    def path(self, name: str) -> Path | None:
        """A file on the disk; None where there is none of that name."""

    def text(self, name: str) -> bytes | None:
        """What a small file holds; None where there is none of that name."""
        path = self.path(name)
        try:
            return None if path is None else read_limited(path, LARGEST_TEXT)
        except ForeignFileError as error:
            raise DataError(str(error)) from error


class Folder(Place):
    """A folder on the disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = str(folder)

    def path(self, name: str) -> Path | None:
        found = self.folder / name
        return found if found.exists() else None


class Repository(Place):
    """A data set on the Hub. Files stay in the cache of the Hub's client, all of one commit."""

    def __init__(self, repo: str, revision: str | None) -> None:
        self.name = repo
        self._asked = revision

    def path(self, name: str) -> Path | None:
        try:
            found = download_file(self.name, name, revision=self.revision or self._asked, repo_type="dataset")
        except NoSuchFileError as error:
            if self._is_known_to_lack(name, error):
                return None
            raise
        self.revision = found.parents[name.count("/")].name
        return found

    def _is_known_to_lack(self, name: str, error: NoSuchFileError) -> bool:
        """Whether the Hub says so, or said so when it could be asked. A file may be missing from the cache alone."""
        from huggingface_hub import _CACHED_NO_EXIST, try_to_load_from_cache
        from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

        if not isinstance(error.__cause__, LocalEntryNotFoundError | OfflineModeIsEnabled):
            return True
        revision = self.revision or self._asked
        return try_to_load_from_cache(self.name, name, revision=revision, repo_type="dataset") is _CACHED_NO_EXIST


def find_place(data: str) -> Place:
    """What `--data` names: a folder that is there, else a repository on the Hub.

    Args:
        data: a folder; "user/name", "hf://datasets/user/name", with @ and a revision or without; or the address of a
            data set's page.

    Raises:
        DataError: where it is neither.
    """
    if not data.strip():
        raise DataError("--data is empty. Give a folder, or a repository on the Hub.")
    folder = Path(data)
    if folder.is_dir():
        return Folder(folder)
    if folder.exists():
        raise DataError(f"{data} is a file. A data set is a folder, or a repository on the Hub.")
    named = _ON_HUB.fullmatch(data)
    if named is None or (folder.parent != Path() and folder.parent.is_dir()):
        raise DataError(f"There is no folder {data}, and it is no name of a data set on the Hub (user/name).")
    return Repository(named["id"], named["at"] or named["tree"])
