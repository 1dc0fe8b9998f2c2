"""The files of a page: its own, those of its runtime, the tokenizer's tables."""

import json
import shutil
from importlib import resources
from pathlib import Path
from typing import Any

from ....verify.criteria import MAX_RATIO, ROUNDED
from ....verify.data.inputs import PHOTOS
from ..contents.golden import FOLDER as GOLDEN_FOLDER
from ..contents.tokenizer_files import FOLDER as TOKENIZER_FOLDER
from .cleaning_tables import cleaning_tables
from .runtime_files import PACKAGE, VERSION, copy_runtime

ASSETS = "page"
TABLES = "cleaning.json"
PHOTO_LABELS = ("an astronaut", "a cat", "a cup of coffee", "a rocket", "a raccoon", "a galaxy")


def write_page(folder: Path, runtime: Path) -> None:
    """Writes the page's own files and its runtime beside the towers.

    Args:
        folder: of the bundle.
        runtime: what `runtime_files` gives.
    """
    with resources.as_file(resources.files(__package__).joinpath(ASSETS)) as assets:
        shutil.copytree(assets, folder, dirs_exist_ok=True)
    copy_runtime(runtime, folder)


def write_tables(folder: Path) -> None:
    """Writes the tables of the page's tokenizer beside the bundle's."""
    text = json.dumps(cleaning_tables(), ensure_ascii=True)
    (folder / TOKENIZER_FOLDER / TABLES).write_text(text + "\n", encoding="ascii")


def describe_page(folder: Path, recipe: str, why_not: str | None) -> dict[str, Any]:
    """What bundle.json says of the page.

    Args:
        folder: of the bundle.
        recipe: how its weights are kept.
        why_not: why it is not proven in a browser; None where it is.
    """
    towers = [folder / f"{tower}.onnx" for tower in ("image", "text")]
    return {
        "open": "index.html, from any web server",
        "runtime": {PACKAGE: VERSION},
        "largest_ratio": MAX_RATIO * (ROUNDED["float16"] if recipe == "fp16" else 1),
        "model_bytes": sum(path.stat().st_size for path in towers),
        "proven_in_a_browser": why_not is None,
        **({} if why_not is None else {"why_not": f"Not proven in a browser here: {why_not}."}),
        "page": _starts_with(),
    }


def _starts_with() -> dict[str, Any]:
    """The labels and pictures that the page shows first."""
    examples = [{"file": f"{GOLDEN_FOLDER}/{path.name}", "name": path.stem} for path in sorted(PHOTOS.glob("*.jpg"))]
    return {"mode": "file", "labels": list(PHOTO_LABELS), "template": "a photo of {}", "examples": examples}
