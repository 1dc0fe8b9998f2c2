"""Which files of a converted folder are published, and what was in them when it was verified."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...keras_models.shown import shown_name
from ...keras_models.store.file_names import CONFIG, CONVERSION_FILE, METADATA, WEIGHTS
from ...keras_models.store.folder import form_folders, read_config
from ...keras_models.store.writing.own_files import sha256
from .model_card import LICENSE_FILE, PICTURE_FILE
from .record_fields import VERIFICATION_FILE
from .records import file_digest

PREPROCESSING_FILE = "preprocessor_config.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
_FORM_FILES = (CONFIG, METADATA, WEIGHTS)


def published_files(folder: Path) -> list[str]:
    """The paths in a converted folder that are published as they are: all but the model card, which is made anew.

    Raises:
        FolderError: where the folder holds no model.
    """
    places = form_folders(folder)
    forms = [(place / name).relative_to(folder).as_posix() for place in places.values() for name in _FORM_FILES]
    config = read_config(next(iter(places.values())), folder)["config"]
    return [
        *forms,
        *(LICENSE_FILE, CONVERSION_FILE, VERIFICATION_FILE, PICTURE_FILE),
        *((PREPROCESSING_FILE,) if config["image_encoder"] else ()),
        *(TOKENIZER_FILES if config["text_encoder"] else ()),
    ]


def file_hashes(folder: Path, digest: Callable[[Path], str] = sha256) -> dict[str, str]:
    """The SHA-256 of each file that is there and will be published, but of the record that holds these hashes."""
    paths = [path for path in published_files(folder) if path != VERIFICATION_FILE]
    return {path: file_digest(folder / path, folder, digest) for path in paths if (folder / path).exists()}


def find_changes(found: dict[str, str], record: dict[str, Any], missing: list[str]) -> list[str]:
    """How a folder differs from what was verified, in words.

    Args:
        found: the hashes of its files.
        record: that of the verification.
        missing: files that a folder like this has, and this one lacks. They are known already.
    """
    noted: dict[str, str] = record["files_sha256"]
    return [
        *(f"{path} has changed since it was verified" for path in found if noted.get(path, found[path]) != found[path]),
        *(f"{VERIFICATION_FILE} does not say what {path} was" for path in found if path not in noted),
        *(
            f"{VERIFICATION_FILE} names {shown_name(path)}, which is no file of this folder"
            for path in noted
            if path not in found and path not in missing
        ),
    ]
