"""The files of a page: its own, those of its runtime, the tokenizer's tables."""

import json
import shutil
from importlib import resources
from pathlib import Path
from typing import Any

from ....keras_models.registry import Variant
from ....verify.criteria import MAX_RATIO, ROUNDED
from ....verify.data.inputs import PHOTOS
from ....verify.shapes.samples import LABELS, example_pictures
from ..contents.golden import FOLDER as GOLDEN_FOLDER
from ..contents.tokenizer_files import FOLDER as TOKENIZER_FOLDER
from ..request import TOWERS
from ..runtimes.registry import RUNTIMES
from .cleaning_tables import cleaning_tables
from .runtime_files import PACKAGE, VERSION, copy_runtime

ASSETS = "page"
TABLES = "cleaning.json"
PHOTO_LABELS = ("an astronaut", "a cat", "a cup of coffee", "a rocket", "a raccoon", "a galaxy")
SHAPE_LABELS = ("a red circle", *LABELS)
"""The first is what the page's canvas shows at first."""
PICTURES = "pictures"
"""The folder of the shapes that a page of the tiny model shows."""


def write_page(folder: Path, runtime: Path) -> None:
    """Writes the page's own files and its runtime beside the towers.

    Args:
        folder: of the bundle.
        runtime: what `runtime_files` gives.
    """
    with resources.as_file(resources.files(__package__).joinpath(ASSETS)) as assets:
        shutil.copytree(assets, folder, dirs_exist_ok=True)
    copy_runtime(runtime, folder)


def write_pictures(folder: Path, variant: Variant) -> None:
    """Writes the pictures that the page shows first, where they are others than the bundle's golden ones."""
    if variant.is_ours:
        (folder / PICTURES).mkdir()
        for name, picture in zip(LABELS, example_pictures(), strict=True):
            picture.save(folder / _picture_of(name))


def write_tables(folder: Path) -> None:
    """Writes the tables of the page's tokenizer beside the bundle's."""
    text = json.dumps(cleaning_tables(), ensure_ascii=True)
    (folder / TOKENIZER_FOLDER / TABLES).write_text(text + "\n", encoding="ascii")


def describe_page(folder: Path, variant: Variant, recipe: str, why_not: str | None) -> dict[str, Any]:
    """What bundle.json says of the page.

    Args:
        folder: of the bundle.
        variant: that the model is.
        recipe: how its weights are kept.
        why_not: why it is not proven in a browser; None where it is.
    """
    towers = [folder / f"{tower}{RUNTIMES['web'].suffix}" for tower in TOWERS]
    return {
        "open": "index.html, from any web server",
        "runtime": {PACKAGE: VERSION},
        "largest_ratio": MAX_RATIO * (ROUNDED["float16"] if recipe == "fp16" else 1),
        "model_bytes": sum(path.stat().st_size for path in towers),
        "proven_in_a_browser": why_not is None,
        **({} if why_not is None else {"why_not": f"Not proven in a browser here: {why_not}."}),
        "page": _starts_with(variant),
    }


def _starts_with(variant: Variant) -> dict[str, Any]:
    """The labels and pictures that the page shows first: photographs, or shapes for the model of shapes."""
    if variant.is_ours:
        examples = [{"file": _picture_of(name), "name": name} for name in LABELS]
        return {"mode": "draw", "labels": list(SHAPE_LABELS), "template": "{}", "examples": examples}
    examples = [{"file": f"{GOLDEN_FOLDER}/{path.name}", "name": path.stem} for path in sorted(PHOTOS.glob("*.jpg"))]
    return {"mode": "file", "labels": list(PHOTO_LABELS), "template": "a photo of {}", "examples": examples}


def _picture_of(name: str) -> str:
    return f"{PICTURES}/{name.replace(' ', '-')}.png"
