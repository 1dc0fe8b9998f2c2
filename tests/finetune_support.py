"""Pairs of images and texts in every layout that `finetune` reads."""

import csv
import io
import json
from pathlib import Path

from PIL import Image

COLOURS = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220), "white": (250, 250, 250)}


def square(number: int) -> tuple[bytes, str]:
    """A picture of a square and its caption. No two are the same."""
    name = [*COLOURS][number % len(COLOURS)]
    image = Image.new("RGB", (40, 40), (90, 90, 90))
    image.paste(COLOURS[name], (5 + number % 7, 5 + number % 11, 25, 25))
    image.putpixel((0, 0), (number % 256, number // 256, 0))
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue(), f"a {name} square, number {number}"


def write_images(folder: Path, count: int) -> list[tuple[str, str]]:
    """Files and captions."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for number in range(count):
        content, caption = square(number)
        (folder / f"{number}.png").write_bytes(content)
        found.append((f"{number}.png", caption))
    return found


def write_table(path: Path, count: int = 12, header: tuple[str, str] = ("image", "caption")) -> Path:
    """A table beside its images, in the format of its ending."""
    rows = write_images(path.parent, count)
    with open(path, "w", encoding="utf-8", newline="") as file:
        if path.suffix == ".jsonl":
            file.writelines(json.dumps(dict(zip(header, row, strict=True))) + "\n" for row in rows)
        else:
            csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",").writerows([header, *rows])
    return path


def write_classes(folder: Path, each: int = 3, classes: int = 4) -> Path:
    """A folder of class folders."""
    for number in range(each * classes):
        name = [*COLOURS][number % classes]
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / f"{number}.png").write_bytes(square(number)[0])
    return folder
