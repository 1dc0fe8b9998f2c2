"""Loading converted weights: from a folder, from the Hub, or by the name of a variant."""

import json
from pathlib import Path
from typing import Any

import keras

from ..errors import MobileClipError
from ..kernels.memory import no_collection
from ..layers.initializers import to_be_overwritten
from ..models.copying import set_dtype
from ..models.model import MobileClipModel, check_towers
from ..registry import Variant
from .resolve import files_of, resolve_name
from .weights_file import CONFIG as CONFIG
from .weights_file import WEIGHTS as WEIGHTS
from .weights_file import load_weights

TRAIN_FOLDER = "train"


class FolderError(MobileClipError):
    """A folder does not hold a converted model, or not the one asked for; the message says what it lacks."""


def load_pretrained(
    name: str | Path,
    *,
    form: str | None = None,
    dtype: str | None = None,
    towers: str = "both",
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> MobileClipModel:
    """`MobileClipModel.from_pretrained`, which see."""
    check_towers(towers)
    access: dict[str, Any] = {"token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
    match resolve_name(name, revision):
        case Path() as folder:
            pass
        case Variant() as variant:
            from ...converters.conversion.cache import converted_copy

            folder = converted_copy(variant, **access)
        case repo:
            folder = _download(repo, form, revision=revision, **access)
    return load_folder(folder, form=form, dtype=dtype, towers=towers)


def _download(repo: str, form: str | None, **access: Any) -> Path:
    """A folder with the files of a repository that loading a form reads, and no others."""
    from ...converters.hub.upload import download_snapshot

    folder = files_of(repo, [CONFIG], **access)
    access["revision"] = folder.name  # the commit: what is fetched now fits what is there
    if form is not None and form not in form_folders(folder):
        # There may be no such file, which is no mistake.
        download_snapshot(repo, allow_patterns=[f"{TRAIN_FOLDER}/{CONFIG}"], **access)
    place = _place(folder, form)
    files_of(repo, [(place / WEIGHTS).relative_to(folder).as_posix()], **access)
    return folder


def form_folders(folder: Path) -> dict[str, Path]:
    """Where each form that a converted folder holds lies, the default one first."""
    found: dict[str, Path] = {}
    for place in (folder, folder / TRAIN_FOLDER):
        if (place / CONFIG).is_file():
            found.setdefault(_form(_read_config(place)), place)
    if not found:
        raise FolderError(f"{folder} holds no converted model: it has no {CONFIG}.")
    return found


def load_folder(
    folder: str | Path, *, form: str | None = None, dtype: str | None = None, towers: str = "both"
) -> MobileClipModel:
    """The model in a converted folder.

    Args:
        folder: what `convert` wrote.
        form: "inference" or "train"; None for the folder's default, which is inference where it holds both.
            The inference form of a folder that holds the train form alone is folded while loading.
        dtype: dtype policy ("float32", "mixed_float16", "bfloat16", "float64", ...); None for the one saved.
        towers: "both", "image" or "text"; of one tower, only its weights are read.

    Raises:
        FolderError: where the folder, the form or a file in it is missing or damaged.
        ValueError: for unknown `towers`.
    """
    check_towers(towers)
    place = _place(Path(folder), form)
    model = _load(place, dtype, towers)
    return model if form in (None, model.form) else model.reparameterize(form)


def _place(folder: Path, form: str | None) -> Path:
    """Where the weights lie that a form is made of."""
    places = form_folders(folder)
    if form is None or form in places:
        return places[form or next(iter(places))]
    if form == "inference":
        return next(iter(places.values()))
    held = " and ".join(repr(name) for name in places)
    raise FolderError(f"{folder} holds the form {held}, not {form!r}. Convert again with --form both.")


def _load(place: Path, dtype: str | None, towers: str) -> MobileClipModel:
    weights = place / WEIGHTS
    if not weights.is_file():
        raise FolderError(f"{place} has no {WEIGHTS}.")
    config = _read_config(place)
    parts = config["config"]
    for tower in ("image", "text"):
        if towers not in ("both", tower):
            parts[f"{tower}_encoder"] = None
        elif parts[f"{tower}_encoder"] is None and towers == tower:
            raise FolderError(f"{place} holds no {tower} tower.")
    if dtype is not None:
        set_dtype(parts, dtype)
    try:
        with no_collection():
            with to_be_overwritten():
                model = keras.saving.deserialize_keras_object(config)
            load_weights(model, weights)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FolderError(f"{place} cannot be loaded, it may be damaged: {error}") from error
    return model


def _read_config(place: Path) -> dict[str, Any]:
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
