"""Saving a model as a folder that `from_pretrained` and `keras.saving.load_model` open."""

import os
import shutil
import tempfile
from pathlib import Path

import keras

from ..errors import MobileClipError
from ..inputs.preprocessing import ImagePreprocessor
from ..inputs.tokenizer import Tokenizer
from ..models.copying import copy_model
from ..models.model import MobileClipModel
from ..registry import VARIANTS
from .load import FolderError, form_folders


class SaveError(MobileClipError):
    """A model cannot be saved where it was to be; the message says why, and nothing has changed there."""


def save_folder(
    model: MobileClipModel,
    folder: str | Path,
    *,
    overwrite: bool = False,
    preprocessor: ImagePreprocessor | None = None,
) -> None:
    """`MobileClipModel.save_pretrained`, which see."""
    target = Path(os.path.abspath(folder))
    _check(target, overwrite)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as beside:
            staged = Path(beside) / "new"
            staged.mkdir()
            _write(model, staged, preprocessor)
            if target.exists():
                target.rename(Path(beside) / "old")
            try:
                staged.rename(target)
            except BaseException:
                if (Path(beside) / "old").exists():
                    (Path(beside) / "old").rename(target)
                raise
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


def _write(model: MobileClipModel, folder: Path, preprocessor: ImagePreprocessor | None) -> None:
    # A compiled model would be saved with optimizer, losses and metrics, which only its own code can load.
    keras.saving.save_model(copy_model(model) if model.compiled else model, folder, zipped=False)
    shutil.rmtree(folder / "assets", ignore_errors=True)  # made for layers with files of their own; none has
    if preprocessor is None and model.image_encoder is not None and model.variant in VARIANTS:
        preprocessor = ImagePreprocessor.from_variant(model.variant)
        preprocessor.image_size = model.image_encoder.image_size
    if preprocessor is not None:
        preprocessor.save_pretrained(folder)
    if model.text_encoder is not None:
        Tokenizer(model.text_encoder.context_length).save_pretrained(folder)
