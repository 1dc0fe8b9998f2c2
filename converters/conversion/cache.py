"""Converted copies of the published checkpoints, each made once, when it is first asked for by name."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from ...keras_models.errors import MissingPackageError
from ...keras_models.registry import HubFile, Variant
from ...keras_models.store.atomic import OutputError, os_reason
from ...keras_models.store.download import download_file
from ...keras_models.store.file_names import CONFIG

HOME_VARIABLE = "MOBILECLIP_KERAS_HOME"


def cache_folder() -> Path:
    """Where converted copies are kept: $MOBILECLIP_KERAS_HOME, else mobileclip_keras in the user's cache."""
    if home := os.environ.get(HOME_VARIABLE):
        return Path(home).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "mobileclip_keras"


def converted_copy(
    variant: Variant,
    *,
    token: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Path:
    """The folder of a converted variant. The first call downloads and converts it.

    Every name and shape of the checkpoint is checked. The result is not compared with PyTorch, which need not be
    installed; the command `convert` compares. The copy holds both forms, and the checkpoint stays in the cache of
    the Hub's client. If two processes ask for the same variant, the second waits for the first.

    Args:
        variant: a published variant.
        token: for the Hub.
        cache_dir: for converted copies and downloads alike; None for `cache_folder()` and the
            Hub client's own.
        local_files_only: whether only a checkpoint that has been downloaded already is converted.

    Raises:
        MissingPackageError: where the checkpoint is published as a .pt file alone, and PyTorch is missing.
        MobileClipError: where it cannot be downloaded, read or written. Nothing half-made is left behind.
    """
    cache = Path(cache_dir) if cache_dir is not None else cache_folder()
    copy = cache / f"{variant.name}-keras"
    if not _is_there(copy):
        with _alone(cache, copy):
            if not _is_there(copy):
                _make(variant, copy, token, cache_dir, local_files_only)
    return copy


def best_source(variant: Variant) -> HubFile:
    """The file to convert a variant from: a .safetensors where one is published, as it needs no PyTorch."""
    return next((file for file in variant.sources if file.is_safetensors), variant.published)


def _is_there(copy: Path) -> bool:
    return (copy / CONFIG).is_file()  # folders appear whole


def _make(
    variant: Variant, copy: Path, token: str | None, cache_dir: str | Path | None, local_files_only: bool
) -> None:
    from .convert import convert

    source = best_source(variant)
    if not source.is_safetensors and find_spec("torch") is None:
        raise MissingPackageError(
            f"{variant.title} is published as {source.file} alone, which PyTorch must read, once: "
            'pip install "mobileclip-keras[convert]". Or load a folder that was converted elsewhere.'
        )
    checkpoint = download_file(
        source.repo, source.file, token=token, cache_dir=cache_dir, local_files_only=local_files_only
    )
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
