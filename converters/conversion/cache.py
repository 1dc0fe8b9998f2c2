"""Converted copies of the published checkpoints, each made once, when it is first asked for by name."""

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

from ...keras_models.errors import MissingPackageError, MobileClipError
from ...keras_models.registry import HubFile, OwnFile, Variant
from ...keras_models.store.download import download_file, is_damaged
from ...keras_models.store.writing.output_errors import OutputError, os_reason
from ...keras_models.store.writing.own_files import listed
from ..checkpoints.source import resolved
from .damage import find_damage

HOME_VARIABLE = "MOBILECLIP_KERAS_HOME"


def cache_folder() -> Path:
    """Where converted copies are kept: $MOBILECLIP_KERAS_HOME, else mobileclip_keras in the user's cache."""
    if home := os.environ.get(HOME_VARIABLE):
        return Path(home).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "mobileclip_keras"


class DamagedCopyError(MobileClipError):
    """A converted copy, or what it is made from, is damaged; the message says what to delete."""


def converted_copy(
    variant: Variant,
    *,
    token: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    thorough: bool = False,
) -> Path:
    """The folder of a converted variant. The first call downloads and converts it; of a variant whose weights are in
    this package, nothing is downloaded.

    Every name and shape of the checkpoint is checked. The result is not compared with PyTorch, which need not be
    installed; the command `convert` compares. The copy holds both forms, and the checkpoint stays in the cache of
    the Hub's client. If two processes ask for the same variant, the second waits for the first.

    A copy that is damaged is made again. The damaged one is kept beside it, and a warning says where.

    Args:
        variant: a published variant.
        token: for the Hub.
        cache_dir: for converted copies and downloads alike; None for `cache_folder()` and the
            Hub client's own.
        local_files_only: whether only a checkpoint that has been downloaded already is converted.
        thorough: whether to read every file of a copy to see whether it is damaged, not only those that were written
            since.

    Raises:
        MissingPackageError: where the checkpoint is published as a .pt file alone, and PyTorch is missing.
        DamagedCopyError: where the copy is damaged and cannot be made again.
        MobileClipError: where it cannot be downloaded, read or written. Nothing half-made is left behind.
    """
    cache = Path(cache_dir) if cache_dir is not None else cache_folder()
    copy = cache / f"{variant.name}-keras"

    def make() -> None:
        _make(variant, copy, token, cache_dir, local_files_only)

    if _is_missing(copy) or find_damage(copy, thorough=thorough):
        with _alone(cache, copy):
            if _is_missing(copy):
                make()
            elif damage := find_damage(copy, thorough=thorough):
                _make_again(copy, damage, make)
    return copy


def _is_missing(copy: Path) -> bool:
    """Whether there is nothing of that name, or an empty folder, which a new one replaces."""
    with suppress(OSError):
        copy.rmdir()
    return not os.path.lexists(copy)


def _make_again(copy: Path, damage: list[str], make: Callable[[], None]) -> None:
    """Moves a damaged copy aside and makes it again. Somebody may have changed it on purpose, so nothing is removed."""
    why = f"{copy} is damaged: {listed(damage)}."
    aside = next(path for path in _names_aside(copy) if not os.path.lexists(path))
    try:
        copy.rename(aside)
        try:
            make()
        except BaseException:
            if not os.path.lexists(copy):
                aside.rename(copy)
            raise
    except (MobileClipError, OSError) as error:
        reason = error if isinstance(error, MobileClipError) else f"{os_reason(error) or error}."
        raise DamagedCopyError(
            f"{why} It could not be made again: {reason} Delete {copy}, and it is made when it is asked for."
        ) from error
    warnings.warn(f"{why} It was made again. Delete {aside}, which holds what was there.", stacklevel=2)


def _names_aside(copy: Path) -> Iterator[Path]:
    yield copy.with_name(f"{copy.name}.damaged")
    yield from (copy.with_name(f"{copy.name}.damaged-{number}") for number in count(2))


def best_source(variant: Variant) -> HubFile | OwnFile:
    """The file to convert a variant from: a .safetensors where one is published, as it needs no PyTorch."""
    return next((file for file in variant.sources if file.is_safetensors), variant.published)


def _make(
    variant: Variant, copy: Path, token: str | None, cache_dir: str | Path | None, local_files_only: bool
) -> None:
    from .convert import convert

    source = best_source(variant)
    if isinstance(source, OwnFile):
        with resolved(None, variant.name) as checkpoint:
            convert(checkpoint, copy, variant=variant.name, verify=False)
        return
    if not source.is_safetensors and find_spec("torch") is None:
        raise MissingPackageError(
            f"{variant.title} is published as {source.file} alone, which PyTorch must read, once: "
            'pip install "mobileclip-keras[convert]". Or load a folder that was converted elsewhere.'
        )
    access: dict[str, Any] = {"token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
    checkpoint = download_file(source.repo, source.file, **access)
    if is_damaged(checkpoint):
        try:
            checkpoint = download_file(source.repo, source.file, again=True, **access)
        except MobileClipError as error:
            raise DamagedCopyError(
                f"{checkpoint.resolve()} is damaged, and was not downloaded again: {error} Delete it."
            ) from error
    convert(checkpoint, copy, variant=variant.name, verify=False)


@contextmanager
def _alone(cache: Path, copy: Path) -> Iterator[None]:
    """Keeps other processes from making the same copy at the same time."""
    from filelock import FileLock

    lock = FileLock(cache / f".{copy.name}.lock")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        reason = os_reason(error) or error
        raise OutputError(
            f"{cache} cannot be written: {reason}. Set {HOME_VARIABLE} or cache_dir= to another folder."
        ) from error
    try:
        yield
    finally:
        lock.release()
