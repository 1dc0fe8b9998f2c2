"""Which forms a converted folder holds, and where."""

from pathlib import Path
from typing import Any

from ..errors import MobileClipError
from .file_names import CONFIG, TRAIN_FOLDER
from .foreign.config_fields import CLASS_FIELDS, CONFIG_FIELDS
from .foreign.json_fields import problems
from .foreign.json_file import Limits, read_json

# The config of another image backbone describes each of its layers.
CONFIG_LIMITS = Limits(size=16 << 20, depth=48, items=1_000_000)


class FolderError(MobileClipError):
    """A folder does not hold a converted model, or not the one asked for; the message says what it lacks."""


def form_folders(folder: Path) -> dict[str, Path]:
    """The place of each form in a converted folder, the default form first.

    Raises:
        FolderError: where the folder holds no model, or its description is damaged.
    """
    found: dict[str, Path] = {}
    for place in (folder, folder / TRAIN_FOLDER):
        if (place / CONFIG).exists():
            found.setdefault(_form(read_config(place, folder)), place)
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


def read_config(place: Path, folder: Path | None = None) -> dict[str, Any]:
    """Keras' description of the model in one place of a folder.

    Args:
        place: the folder itself or its train form's.
        folder: that was named; None for `place`. Links out of it are not followed.

    Raises:
        FolderError: where it is missing, damaged or of something else.
    """
    path = place / CONFIG
    try:
        config = read_json(path, CONFIG_LIMITS, folder or place)
    except OSError as error:
        raise FolderError(f"{path} does not describe a MobileClipModel: {error.strerror or error}.") from error
    except MobileClipError as error:
        raise FolderError(f"{path} does not describe a MobileClipModel: {error}") from error
    # A model of another class has none of the fields, and one reason says it all.
    wrong = problems(config, CLASS_FIELDS) or problems(config, CONFIG_FIELDS)
    if not wrong and not _towers(config):
        wrong = ["it has neither an image nor a text tower"]
    if wrong:
        raise FolderError(f"{path} does not describe a MobileClipModel: {'; '.join(wrong)}.")
    return config


def _towers(config: dict[str, Any]) -> list[dict[str, Any]]:
    return [tower for name in ("image_encoder", "text_encoder") if (tower := config["config"][name])]


def _form(config: dict[str, Any]) -> str:
    return _towers(config)[0]["config"]["form"]
