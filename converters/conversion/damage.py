"""Whether a converted copy is as it was written: a disk that was full, a machine that went off, a hand that slipped."""

import os
from pathlib import Path

from ...keras_models.store.file_names import CONFIG, FILES_RECORD, WEIGHTS
from ...keras_models.store.folder import FolderError, form_folders
from ...keras_models.store.writing.own_files import Noted, own_record, read_record
from ..hub.model_card import CARD_FILE, LICENSE_FILE, PICTURE_FILE
from ..hub.records import VERIFICATION_FILE

# What nothing is loaded from. People write in a model card.
_NOT_LOADED = (CARD_FILE, LICENSE_FILE, PICTURE_FILE, VERIFICATION_FILE)


def find_damage(folder: Path, *, thorough: bool = False) -> list[str]:
    """What is wrong with a folder that `convert` wrote, in words; empty where it is whole.

    Sizes are always compared. A file is read where it was written since, and all are where `thorough` is set; that
    takes about a second for each GB.
    """
    if not folder.is_dir():
        return ["it is not a folder"]
    record = read_record(folder)
    if record is None:
        if os.path.lexists(folder / FILES_RECORD):
            return [f"{FILES_RECORD} is damaged"]
        return _without_record(folder, thorough)
    problems = (_problem(folder / path, noted, thorough) for path, noted in record.items() if path not in _NOT_LOADED)
    return [problem for problem in problems if problem]


def _problem(path: Path, noted: Noted, thorough: bool) -> str | None:
    if noted.is_right(path, trust_time=not thorough):
        return None
    if not os.path.lexists(path):
        return f"{path.name} is missing"
    if noted.size is not None and path.is_file() and path.stat().st_size != noted.size:
        return f"{path.name} has {path.stat().st_size} bytes and should have {noted.size}"
    return f"{path.name} does not hold what was written"


def _without_record(folder: Path, thorough: bool) -> list[str]:
    """The damage to a folder of an older version, which recorded the hashes of the weights at most."""
    try:
        places = form_folders(folder).values()
    except FolderError:
        return [f"{CONFIG} is missing or damaged"]
    missing = [f"{WEIGHTS} is missing" for place in places if not (place / WEIGHTS).is_file()]
    record = own_record(folder) or {}
    hashed = {path: noted for path, noted in record.items() if noted.hashes}
    if not (missing or hashed) and thorough:
        return ["nothing tells whether its files are whole"]
    problems = (_problem(folder / path, noted, thorough) for path, noted in hashed.items())
    return missing or [problem for problem in problems if problem]
