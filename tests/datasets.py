"""Small data sets in CLIP_benchmark's layout, with generated pictures."""

import io
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mobileclip_keras.verify.shapes.scene import COLOURS, SHAPES

CLASSES = ("red bus", "green tree", "blue sea", "grey road", "white cloud", "black cat")
TEMPLATES = ("a photo of a {c}.", 'the "{c}"')
MODES = {"jpg": "JPEG", "jpeg": "JPEG", "png": "PNG", "webp": "WEBP"}

Target = int | Sequence[int] | tuple[str, ...]
Row = tuple[bytes, Target]


def picture(seed: int, suffix: str = "png") -> bytes:
    """A picture file with some structure, of a size of its own."""
    from PIL import Image

    random = np.random.default_rng(seed)
    height, width = random.integers(20, 80, size=2)
    coarse = random.integers(0, 255, (4, 4, 3), np.uint8)
    image = Image.fromarray(coarse).resize((int(width), int(height)), Image.Resampling.BICUBIC)
    stream = io.BytesIO()
    image.save(stream, MODES[suffix])
    return stream.getvalue()


def rows(count: int, kind: str = "classification") -> list[Row]:
    """Pictures with made-up targets; every class has some."""
    random = np.random.default_rng(1)
    found: list[Row] = []
    for number in range(count):
        target: Target = number % len(CLASSES)
        if kind == "multilabel":
            target = [int(x) for x in random.integers(0, 2, len(CLASSES))]
        elif kind == "retrieval":
            words = (SHAPES[(3 * (number // len(COLOURS)) + index) % len(SHAPES)] for index in range(1 + number % 3))
            target = tuple(f"a {COLOURS[number % len(COLOURS)]} {word}" for word in words)
        found.append((picture(number), target))
    return found


def members(number: int, row: Row, suffix: str = "png") -> Iterable[tuple[str, bytes]]:
    image, target = row
    yield f"s{number:07d}.{suffix}", image
    if isinstance(target, int):
        yield f"s{number:07d}.cls", str(target).encode()
    elif all(isinstance(each, str) for each in target):
        yield f"s{number:07d}.txt", "\n".join(map(str, target)).encode()
    else:
        stream = io.BytesIO()
        np.save(stream, np.array(target))
        yield f"s{number:07d}.npy", stream.getvalue()


def write_tar(path: Path, files: Iterable[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def write_webdataset(
    folder: Path, found: Sequence[Row], kind: str = "classification", shard: int = 5, suffix: str = "png"
) -> Path:
    """A data set with the split "test"."""
    split = folder / "test"
    split.mkdir(parents=True)
    if kind != "classification":
        (folder / "dataset_type.txt").write_text(f"{kind}\n")
    if kind != "retrieval":
        (folder / "classnames.txt").write_text("\n".join(CLASSES) + "\n")
        (folder / "zeroshot_classification_templates.txt").write_text("\n".join(TEMPLATES) + "\n")
    starts = range(0, len(found), shard)
    for index, start in enumerate(starts):
        write_tar(
            split / f"{index}.tar",
            [
                each
                for number, row in enumerate(found[start : start + shard], start)
                for each in members(number, row, suffix)
            ],
        )
    (split / "nshards.txt").write_text(f"{len(starts)}\n")
    return folder


def change_bytes(path: Path, at: int, to: bytes) -> None:
    content: Any = bytearray(path.read_bytes())
    content[at : at + len(to)] = to
    path.write_bytes(content)
