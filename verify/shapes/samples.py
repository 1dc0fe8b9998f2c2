"""A few pictures that the tiny model knows, with labels: for the demo, for pages, for a first look."""

from pathlib import Path

import numpy as np
from PIL import Image

from .drawing import draw
from .scene import COLOURS, COUNTS, NONE, PATTERNS, POSITIONS, SHAPES, SIZES, TEXTURES, Scene

LABELS = (
    "three red circles",
    "a blue square on a yellow background",
    "a small green star in the top right corner",
    "a large pink heart",
    "two striped purple triangles",
    "a black cross on the left",
    "an orange moon on a black background",
    "five brown crosses",
    "blue and white stripes",
)


def _scene(
    count: str,
    colour: str,
    shape: str,
    texture: str = "filled",
    position: str | None = None,
    size: str | None = None,
    background: str = "white",
) -> Scene:
    return Scene(
        count=COUNTS.index(count),
        colour=COLOURS.index(colour),
        shape=SHAPES.index(shape),
        texture=TEXTURES.index(texture),
        position=NONE if position is None else POSITIONS.index(position),
        size=NONE if size is None else SIZES.index(size),
        pattern=PATTERNS.index("plain"),
        background=COLOURS.index(background),
    )


_BLUE_AND_WHITE = Scene(
    0, NONE, NONE, NONE, NONE, NONE, PATTERNS.index("striped"), COLOURS.index("blue"), COLOURS.index("white")
)
SCENES = (
    _scene("three", "red", "circle"),
    _scene("one", "blue", "square", position="middle", size="medium", background="yellow"),
    _scene("one", "green", "star", position="top right", size="small"),
    _scene("one", "pink", "heart", position="middle", size="large"),
    _scene("two", "purple", "triangle", texture="striped"),
    _scene("one", "black", "cross", position="left", size="medium"),
    _scene("one", "orange", "moon", position="middle", size="large", background="black"),
    _scene("five", "brown", "cross"),
    _BLUE_AND_WHITE,
)
"""What the pictures show, in the order of LABELS."""


def example_pictures(size: int = 256, seed: int = 3) -> list[Image.Image]:
    """A picture for each of LABELS, as a program draws it, larger than the model's images.

    Args:
        size: height and width in pixels.
        seed: where chance comes from.
    """
    return [draw(scene, np.random.default_rng([seed, i]), size, plain=True) for i, scene in enumerate(SCENES)]


def save_grid(pictures: list[Image.Image], path: Path, columns: int = 3) -> None:
    """Writes pictures of one size side by side, row by row."""
    gap, size = 8, pictures[0].width
    rows = -(-len(pictures) // columns)
    grid = Image.new("RGB", (columns * (size + gap) + gap, rows * (size + gap) + gap), "white")
    for number, picture in enumerate(pictures):
        row, column = divmod(number, columns)
        grid.paste(picture, (gap + column * (size + gap), gap + row * (size + gap)))
    grid.save(path)
