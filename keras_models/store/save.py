"""Saving a model as a folder that `from_pretrained` and `keras.saving.load_model` open."""

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import keras

from ..errors import MobileClipError
from .folder import FolderError, form_folders
from .weights_file import save_model
from .writing.atomic import folder_placed_whole
from .writing.staging import recover
from .writing.targets import absolute, foreign_in, reason_to_leave


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
    target = absolute(Path(folder))
    try:
        for place in (target.parent, target):
            recover(place)
        _check(target, overwrite, target, thorough=False)
        with folder_placed_whole(target, partial(_check, target, overwrite)) as staged:
            save_model(make_model(), staged)
            for part in beside:
                part.save_pretrained(staged)
    except OSError as error:
        raise SaveError(f"{target} could not be written: {error.strerror or error}.") from error


def _check(target: Path, overwrite: bool, place: Path, thorough: bool) -> None:
    """Refuses to replace anything but a model that this package wrote.

    Args:
        target: the folder to write.
        overwrite: whether to replace a model.
        place: where what was at `target` lies now.
        thorough: whether to read each file that has the right size and time.
    """
    if not os.path.lexists(place):
        return
    is_empty = place.is_dir() and not any(place.iterdir())
    if not (overwrite or is_empty):
        raise SaveError(f"{target} exists already. Choose another folder, or replace it: overwrite=True.")
    reason = reason_to_leave(place)
    if reason is None and not is_empty:
        try:
            form_folders(place)
        except FolderError as error:
            raise SaveError(f"{target} holds something other than a model, and is left alone.") from error
        reason = foreign_in(place, thorough=thorough)
    if reason is not None:
        raise SaveError(f"{target} {reason}, and is left alone.")
