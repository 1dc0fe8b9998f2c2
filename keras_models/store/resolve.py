"""What `name` means in every `from_pretrained`: a folder, a published variant, or a repository on the Hub."""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Self

from ..errors import MobileClipError
from ..registry import UnknownVariantError, Variant, find_variant, get_variant

_REPO_ID = re.compile(r"[\w.-]+/[\w.-]+")


def resolve_name(name: str | Path, revision: str | None = None) -> Path | Variant | str:
    """A folder that is there, else a variant however it is spelled, else the id of a repository on the Hub.

    Args:
        name: "converted/s2"; "s2", "apple/MobileCLIP-S2"; "user/mobileclip-s2-keras", "hf://user/name".
        revision: given by the user; it goes with a repository only.

    Raises:
        UnknownVariantError: where the name is none of the three; it lists the variants, nearest first.
        MobileClipError: where the name is a file's, or that of nothing in a folder that is there.
        ValueError: for the revision of something that has none.
    """
    found = _find(name)
    if revision is not None and not isinstance(found, str):
        raise ValueError(f"{str(name)!r} is no repository on the Hub, so it has no revision {revision!r}.")
    return found


def _find(name: str | Path) -> Path | Variant | str:
    path = Path(name)
    if path.is_dir():
        return path
    if path.is_file():
        raise MobileClipError(f"{path} is a file, not a converted folder. Convert it: convert --src {path}")
    repo = str(name).removeprefix("hf://")
    variant = find_variant(repo)
    if variant is not None:
        return variant
    if _REPO_ID.fullmatch(repo):
        if repo == str(name) and path.parent.is_dir():
            raise MobileClipError(f"There is no {path.name} in the folder {path.parent}. On the Hub it is hf://{repo}.")
        return repo
    try:
        return get_variant(repo)
    except UnknownVariantError as error:
        raise UnknownVariantError(f"There is no folder {str(name)!r}, and: {error}") from None


def files_of(
    repo: str,
    files: Sequence[str],
    *,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Path:
    """The folder that holds these files of a repository, all of one commit, downloaded where need be.

    Raises:
        MobileClipError: saying what the Hub, the way to it or the disk lacks.
    """
    from ...converters.hub.upload import download_file

    folder: Path | None = None
    for file in files:
        path = download_file(
            repo,
            file,
            revision=revision if folder is None else folder.name,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
        )
        folder = folder or path.parents[file.count("/")]
    assert folder is not None
    return folder


class FromPretrained(ABC):
    """What goes with a model and is read from small files beside its weights, or known of a variant."""

    _files: ClassVar[tuple[str, ...]]

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        revision: str | None = None,
        token: str | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
    ) -> Self:
        """That of a converted folder, of a repository on the Hub, or of a variant.

        Arguments are those of `MobileClipModel.from_pretrained`. For a variant ("s2") nothing is downloaded.

        Raises:
            MobileClipError: the folder or repository does not hold the files, or holds those of another kind;
                or `name` is nothing of the kind.
            ValueError: a `revision` of something other than a repository.
        """
        match resolve_name(name, revision):
            case Path() as folder:
                return cls._from_folder(folder)
            case Variant() as variant:
                return cls._from_variant(variant)
            case repo:
                folder = files_of(
                    repo,
                    cls._files,
                    revision=revision,
                    token=token,
                    cache_dir=cache_dir,
                    local_files_only=local_files_only,
                )
                return cls._from_folder(folder)

    @classmethod
    @abstractmethod
    def _from_folder(cls, folder: Path) -> Self: ...

    @classmethod
    @abstractmethod
    def _from_variant(cls, variant: Variant) -> Self: ...
