"""What the name given to `from_pretrained` stands for: a folder, a published variant, or a repository on the Hub."""

import re
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, Self

from ..errors import MobileClipError
from ..registry import UnknownVariantError, Variant, find_variant, get_variant
from .download import download_files
from .writing.staging import recover

_REPO_ID = re.compile(r"[\w.-]+/[\w.-]+")


def resolve_name(name: str | Path, revision: str | None = None) -> Path | Variant | str:
    """A folder that is there, else a variant however it is spelled, else the id of a repository on the Hub.

    Args:
        name: a folder ("converted/s2"); a variant ("s2", "apple/MobileCLIP-S2"); or a repository
            ("user/mobileclip-s2-keras", "hf://user/name").
        revision: what the user gave. Only a repository has revisions.

    Raises:
        UnknownVariantError: where the name is none of the three; it lists the variants, nearest first.
        MobileClipError: where the name is a file's, or its parent folder is there and does not hold it.
        ValueError: where a revision is given for a folder or a variant.
    """
    found = _find(name)
    if revision is not None and not isinstance(found, str):
        raise ValueError(f"{str(name)!r} is no repository on the Hub, so it has no revision {revision!r}.")
    return found


def _find(name: str | Path) -> Path | Variant | str:
    path = Path(name)
    if not path.exists():
        recover(path.absolute().parent)  # a process that was killed may have moved it away
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


def converted_folder(
    variant: Variant,
    *,
    token: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    thorough: bool = False,
) -> Path:
    """The folder of a converted variant, which is downloaded and converted the first time.

    Arguments and errors are those of `converters.conversion.cache.converted_copy`.
    """
    # The one door from the models up to the converters: a variant's name stands for a copy that they make. It opens
    # when it is used, because the converters import the models.
    from ...converters.conversion.cache import converted_copy

    return converted_copy(
        variant, token=token, cache_dir=cache_dir, local_files_only=local_files_only, thorough=thorough
    )


class FromPretrained(ABC):
    """Base of what goes with a model: the settings of preprocessing, the tokenizer.

    A converted folder holds it in small files. For a variant it is known without any file.
    """

    _files: ClassVar[tuple[str, ...]]
    """Names of the files."""

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
        """Loads it from a converted folder or a repository on the Hub, or makes that of a variant.

        Arguments are those of `MobileClipModel.from_pretrained`. For a variant ("s2") nothing is downloaded.

        Raises:
            MobileClipError: where the folder or the repository lacks the files or holds other ones, or where `name`
                stands for nothing.
            ValueError: where a `revision` is given for a folder or a variant.
        """
        match resolve_name(name, revision):
            case Path() as folder:
                return cls._from_folder(folder)
            case Variant() as variant:
                return cls._from_variant(variant)
            case repo:
                folder = download_files(
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
