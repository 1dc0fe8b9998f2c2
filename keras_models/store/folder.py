"""Which forms a converted folder holds, and where."""

import json
from pathlib import Path
from typing import Any

from ..errors import MobileClipError
from .file_names import CONFIG, TRAIN_FOLDER


class FolderError(MobileClipError):
    """A folder does not hold a converted model, or not the one asked for; the message says what it lacks."""


def form_folders(folder: Path) -> dict[str, Path]:
    """The place of each form in a converted folder, the default form first.

    Raises:
        FolderError: where the folder holds no model, or its description is damaged.
    """
    found: dict[str, Path] = {}
    for place in (folder, folder / TRAIN_FOLDER):
        if (place / CONFIG).is_file():
            found.setdefault(_form(read_config(place)), place)
    if not found:
        raise FolderError(f"{folder} holds no converted model: it has no {CONFIG}.")
    return found


def place_of(folder: Path, form: str | None) -> Path:
    """The place of the weights that a form is made of. The inference form can be folded from the train form.

    Raises:
        FolderError: where the folder cannot give this form.
    """
    places = form_folders(folder)
    if form is None or form in places:
        return places[form or next(iter(places))]
    if form == "inference":
        return next(iter(places.values()))
    held = " and ".join(repr(name) for name in places)
    raise FolderError(f"{folder} holds the form {held}, not {form!r}. Convert again with --form both.")


def read_config(place: Path) -> dict[str, Any]:
    """Keras' description of the model in one place of a folder.

    Raises:
        FolderError: where it is missing, damaged or of something else.
    """
    try:
        config = json.loads((place / CONFIG).read_text())
        _form(config)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FolderError(f"{place / CONFIG} does not describe a MobileClipModel.") from error
    return config


def _form(config: dict[str, Any]) -> str:
    if config["class_name"] != "MobileClipModel":
        raise ValueError(config["class_name"])
    parts = config["config"]
    return (parts["image_encoder"] or parts["text_encoder"])["config"]["form"]
