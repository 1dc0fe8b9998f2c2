"""What the tests of downloading and uploading share: a folder to upload, and programs of their own."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from mobileclip_keras.keras_models.errors import MobileClipError
from mobileclip_keras.keras_models.store.hub_errors import HubError

ROOT = Path(__file__).parents[1]
REPO = "user/model"
WEIGHTS = bytes(range(256)) * 2000
FILES = ("README.md", "config.json", "model.weights.h5", "tokenizer/vocab.json")


def write_folder(folder: Path) -> Path:
    """A folder with the files of FILES."""
    (folder / "tokenizer").mkdir(parents=True)
    (folder / "README.md").write_text("---\nlicense: apple-amlr\n---\n# A model\n")
    (folder / "config.json").write_text('{"variant": "s2"}')
    (folder / "tokenizer" / "vocab.json").write_text("{}")
    (folder / "model.weights.h5").write_bytes(WEIGHTS)
    return folder


def message(error: pytest.ExceptionInfo[HubError]) -> str:
    text = str(error.value)
    assert "\n" not in text and "Traceback" not in text
    assert isinstance(error.value, MobileClipError)
    return text


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def run(script: str, *arguments: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
