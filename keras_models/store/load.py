"""Loading converted weights: from a folder, from the Hub, or by the name of a variant."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras

from ..errors import MobileClipError
from ..kernels.memory import no_collection
from ..layers.initializers import to_be_overwritten
from ..registry import Variant
from .download import download_files, download_snapshot
from .file_names import CONFIG, TRAIN_FOLDER, WEIGHTS
from .folder import FolderError, form_folders, place_of, read_config
from .foreign.foreign_models import check_size
from .model_config import check_towers, keep_towers, set_dtype
from .resolve import converted_folder, resolve_name
from .weights_file import load_weights

if TYPE_CHECKING:
    from ..models.model import MobileClipModel


def load_pretrained(
    name: str | Path,
    *,
    form: str | None = None,
    dtype: str | None = None,
    towers: str | None = None,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> "MobileClipModel":
    """Does the work of `MobileClipModel.from_pretrained`, which describes the arguments and the errors."""
    check_towers(towers)
    access: dict[str, Any] = {"token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
    wanted: dict[str, Any] = {"form": form, "dtype": dtype, "towers": towers}
    match resolve_name(name, revision):
        case Path() as folder:
            return load_folder(folder, **wanted)
        case Variant() as variant:
            try:
                return load_folder(converted_folder(variant, **access), **wanted)
            except FolderError:
                # It may be damaged in a way that sizes and times do not show; then it is made again.
                return load_folder(converted_folder(variant, thorough=True, **access), **wanted)
        case repo:
            return load_folder(_download(repo, form, revision=revision, **access), **wanted)


def _download(repo: str, form: str | None, **access: Any) -> Path:
    """A folder with the files of a repository that loading a form reads, and no others."""
    folder = download_files(repo, [CONFIG], **access)
    # The folder is named after the commit. The other files must come from the same one.
    access["revision"] = folder.name
    if form is not None and form not in form_folders(folder):
        # A snapshot, because the repository may lack this file, and that is no error.
        download_snapshot(repo, allow_patterns=[f"{TRAIN_FOLDER}/{CONFIG}"], **access)
    place = place_of(folder, form)
    download_files(repo, [(place / WEIGHTS).relative_to(folder).as_posix()], **access)
    return folder


def load_folder(
    folder: str | Path, *, form: str | None = None, dtype: str | None = None, towers: str | None = None
) -> "MobileClipModel":
    """The model in a converted folder.

    Args:
        folder: what `convert` wrote.
        form: "inference" or "train"; None for the folder's default, which is inference where it holds both.
            Where the folder holds the train form alone, the inference form is folded from it.
        dtype: dtype policy ("float32", "mixed_float16", "bfloat16", "float64", ...); None for the one saved.
        towers: "both", "image" or "text"; of one tower, only its weights are read. None for what the folder holds.

    Raises:
        FolderError: where the folder, the form or a file in it is missing or damaged.
        ValueError: for unknown `towers`.
    """
    check_towers(towers)
    folder = Path(folder)
    model = _load(place_of(folder, form), folder, dtype, towers)
    return model if form in (None, model.form) else model.reparameterize(form)


def _load(place: Path, folder: Path, dtype: str | None, towers: str | None) -> "MobileClipModel":
    weights = place / WEIGHTS
    if not weights.exists():
        raise FolderError(f"{place} has no {WEIGHTS}.")
    config = read_config(place, folder)
    try:
        keep_towers(config["config"], towers)
    except LookupError as error:
        other = "text" if error.args[0] == "image" else "image"
        raise FolderError(
            f"{place} holds no {error.args[0]} tower, only the {other} tower. Load that with towers={other!r}."
        ) from error
    if dtype is not None:
        set_dtype(config["config"], dtype)
    try:
        check_size(config, weights)
        with no_collection():
            with to_be_overwritten():
                # Keras finds the class by its registered name, so this file need not import it.
                model = keras.saving.deserialize_keras_object(config)
            load_weights(model, weights, folder)
    except MobileClipError as error:
        raise FolderError(f"{place} cannot be loaded: {error}") from error
    except MemoryError as error:
        raise FolderError(f"{place} needs more memory than there is.") from error
    except Exception as error:  # Keras and h5py raise nearly every kind on damaged files
        raise FolderError(f"{place} cannot be loaded, it may be damaged: {error}") from error
    return model
