"""A classifier in a JSON file: its words, its calibration, and the fingerprint of the model that both belong to."""

import json
from pathlib import Path
from typing import Any

from ..errors import MobileClipError
from ..store.foreign.json_fields import anything, fields, listed, problems, text, whole
from ..store.foreign.json_file import Limits, read_json
from ..store.writing.atomic import file_written_whole
from ..store.writing.targets import check_file_target
from .calibration import MOST_LABELS, CalibrationError
from .embedding.fingerprint import Fingerprint

FORMAT = 1
_LIMITS = Limits(size=64 << 20, items=5 * MOST_LABELS)
_FIELDS = fields(
    {
        "format": whole(FORMAT, FORMAT),
        "labels": listed(text(), most=MOST_LABELS, least=1),
        "templates": listed(text(), most=1000, least=1),
        "background": listed(text(), most=MOST_LABELS),
        "calibration": anything,  # Calibration.from_record looks at it
        "fingerprint": anything,
    }
)


def write_classifier(path: Path, content: dict[str, Any], fingerprint: Fingerprint, force: bool) -> None:
    """Writes the file whole or not at all.

    Raises:
        OutputError: where it cannot be written; nothing is left behind.
    """
    check_file_target(path, (".json",), force)
    record = {"format": FORMAT, **content, "fingerprint": fingerprint.as_record()}
    with file_written_whole(path, force) as beside:
        beside.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_classifier(path: Path) -> dict[str, Any]:
    """What `write_classifier` wrote.

    Raises:
        CalibrationError: where the file is missing or holds anything else.
    """
    try:
        record = read_json(path, _LIMITS)
    except OSError as error:
        raise CalibrationError(f"{path} cannot be read: {error.strerror or error}.") from error
    except MobileClipError as error:
        raise CalibrationError(str(error)) from error
    wrong = problems(record, _FIELDS)
    if wrong:
        raise CalibrationError(f"{path} holds no classifier: {'; '.join(wrong)}.")
    return dict(record)
