"""The pictures of docs/web.md: python benchmarks/web_pictures.py PAGE --out docs/images

PAGE is a folder that `export --to web` wrote. Chromium shows it on a desktop, on a phone, and in the dark.
"""

import argparse
import io
from pathlib import Path
from typing import Any

from PIL import Image

from mobileclip_keras.converters.deploy.web.browser import opened_page
from mobileclip_keras.converters.deploy.web.serving import served

DESKTOP = {"width": 1000, "height": 720}
SHOTS: dict[str, tuple[str, dict[str, Any]]] = {
    "web_desktop": ("file", {"viewport": DESKTOP}),
    "web_phone": ("draw", {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}),
    "web_dark": ("search", {"viewport": DESKTOP, "color_scheme": "dark"}),
}
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
        with served(options.page) as address, opened_page(**context) as page:
            page.goto(address)
            page.wait_for_selector("#app:not([hidden])")
            page.check(f"input[name=mode][value={mode}]", force=True)
            if mode == "search":
                page.set_input_files("#several", sorted((options.page / "golden").glob("*.jpg")))
                page.fill("#query:enabled", "a rocket")
            page.wait_for_timeout(SETTLED)
            picture = Image.open(io.BytesIO(page.screenshot()))
            picture.quantize(COLOURS).save(options.out / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
