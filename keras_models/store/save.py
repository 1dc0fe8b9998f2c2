"""Saving a model as a folder that `from_pretrained` and `keras.saving.load_model` open."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import keras

from ..errors import MobileClipError
from .atomic import placed_whole
from .folder import FolderError, form_folders
from .weights_file import save_model


class SaveError(MobileClipError):
    """A model cannot be saved where it was to be; the message says why, and nothing has changed there."""


class SavesItself(Protocol):
    """What goes beside a model's weights: the settings of preprocessing, the tokenizer."""

    def save_pretrained(self, folder: Path) -> None:
        """Writes its files into a folder that is there."""
        ...


def save_folder(
    make_model: Callable[[], keras.Model], folder: str | Path, beside: Sequence[SavesItself], *, overwrite: bool = False
) -> None:
    """Writes a model and what goes with it into a folder, which appears whole or not at all.

    Args:
        make_model: gives the model, which must not be compiled. Called once the folder is known to be free.
        folder: to be written.
        beside: what else writes its files into the folder.
        overwrite: whether to replace a model that is there.

    Raises:
        SaveError: where the folder exists or cannot be written.
    """
    target = Path(os.path.abspath(folder))
    _check(target, overwrite)
    try:
        with placed_whole(target) as staged:
            save_model(make_model(), staged)
            for part in beside:
                part.save_pretrained(staged)
    except OSError as error:
        raise SaveError(f"{target} could not be written: {error.strerror or error}.") from error


def _check(target: Path, overwrite: bool) -> None:
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not overwrite:
        raise SaveError(f"{target} exists already. Choose another folder, or replace it: overwrite=True.")
    try:
        form_folders(target)
    except FolderError as error:
        raise SaveError(f"{target} holds something other than a model, and is left alone.") from error
