"""The pictures of docs/web.md: python benchmarks/web_pictures.py PAGE --out docs/images

PAGE is what `export shapes --to web` wrote: the tiny model of shapes. Chromium shows it on a desktop, on a phone, and
in the dark, where it searches drawings.
"""

import argparse
import io
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

from mobileclip_keras.converters.deploy.web.browser import opened_page
from mobileclip_keras.converters.deploy.web.serving import served
from mobileclip_keras.verify.shapes.samples import LABELS, example_pictures

DESKTOP = {"width": 1000, "height": 720}
SHOTS: dict[str, tuple[str, dict[str, Any]]] = {
    "web_desktop": ("draw", {"viewport": DESKTOP}),
    "web_phone": ("draw", {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}),
    "web_dark": ("search", {"viewport": DESKTOP, "color_scheme": "dark"}),
}
QUERY = "a large pink heart"
COLOURS = 128
SETTLED = 2000
"""Milliseconds until bars stand still."""


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name, (mode, context) in SHOTS.items():
        with (
            tempfile.TemporaryDirectory() as folder,
            served(options.page) as address,
            opened_page(**context) as page,
        ):
            drawings = write_drawings(Path(folder))
            page.goto(address)
            page.wait_for_selector("#app:not([hidden])")
            page.check(f"input[name=mode][value={mode}]", force=True)
            if mode == "search":
                page.set_input_files("#several", drawings)
                page.fill("#query:enabled", QUERY)
            page.wait_for_timeout(SETTLED)
            picture = Image.open(io.BytesIO(page.screenshot()))
            picture.quantize(COLOURS).save(options.out / f"{name}.png", optimize=True)


def write_drawings(folder: Path) -> list[Path]:
    """What the tiny model knows, as files."""
    paths = [folder / f"{label}.png" for label in LABELS]
    for path, picture in zip(paths, example_pictures(), strict=True):
        picture.save(path)
    return paths


if __name__ == "__main__":
    main()
