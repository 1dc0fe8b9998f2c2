"""What a picture shows, in whole numbers, and which combinations training never sees."""

from dataclasses import dataclass, replace

import numpy as np

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "gray")
SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "moon")
COUNTS = ("no", "one", "two", "three", "four", "five")
TEXTURES = ("filled", "striped", "dotted", "outlined")
POSITIONS = (
    *("top left", "top", "top right"),
    *("left", "middle", "right"),
    *("bottom left", "bottom", "bottom right"),
)
SIZES = ("small", "medium", "large")
PATTERNS = ("plain", "striped", "dotted", "checkered")

NONE = -1
"""The value of a field that a picture does not have: a single shape has a position, several have none."""
_ALIKE = ({"red", "brown"}, {"red", "orange"}, {"orange", "yellow"}, {"gray", "brown"}, {"gray", "purple"})
"""Colours that are hard to tell apart when one lies on the other."""
MIDDLE = POSITIONS.index("middle")
LARGE = SIZES.index("large")
FILLED = TEXTURES.index("filled")


@dataclass(frozen=True)
class Scene:
    """What a picture shows. Each field is an index into the tuple that its comment names, or NONE."""

    count: int  # COUNTS
    colour: int  # COLOURS
    shape: int  # SHAPES
    texture: int  # TEXTURES
    position: int  # POSITIONS
    size: int  # SIZES
    pattern: int  # PATTERNS, of the background
    background: int  # COLOURS, of the background
    second: int = NONE  # COLOURS, the other one of a background with a pattern


FIELDS = tuple(Scene.__dataclass_fields__)
CHOICES = {
    "count": len(COUNTS),
    "colour": len(COLOURS),
    "shape": len(SHAPES),
    "texture": len(TEXTURES),
    "position": len(POSITIONS),
    "size": len(SIZES),
    "pattern": len(PATTERNS),
    "background": len(COLOURS),
}
"""How many values the fields have that a picture shows by themselves."""


def is_held_out(colour: int, shape: int) -> bool:
    """Whether training never shows this colour and this shape together.

    Of each shape two colours are held out: 14 of 77 pairs.
    """
    return (colour + 3 * shape) % 11 in (0, 5)


def random_scene(rng: np.random.Generator, held_out: bool = False, shapes: int | None = None) -> Scene:
    """A scene drawn by chance.

    Args:
        rng: where chance comes from.
        held_out: whether its colour and shape are a pair that training never sees, or one that it sees.
        shapes: how many there are; None for any number. 0 leaves the background alone.
    """
    count = int(rng.choice(6, p=(0.06, 0.46, 0.12, 0.12, 0.12, 0.12))) if shapes is None else shapes
    pattern, background, second = _background(rng)
    if count == 0:
        return Scene(0, NONE, NONE, NONE, NONE, NONE, pattern, background, second)
    while True:
        colour, shape = int(rng.integers(len(COLOURS))), int(rng.integers(len(SHAPES)))
        if is_held_out(colour, shape) == held_out and stands_out(colour, background, second):
            break
    texture = int(rng.choice(len(TEXTURES), p=(0.46, 0.15, 0.15, 0.24)))
    if not goes_with(texture, pattern):
        texture = FILLED
    position = size = NONE
    if count == 1:
        size = int(rng.integers(_smallest(texture), len(SIZES)))
        position = MIDDLE if size == LARGE else int(rng.integers(len(POSITIONS)))
    return Scene(count, colour, shape, texture, position, size, pattern, background, second)


def _background(rng: np.random.Generator) -> tuple[int, int, int]:
    """Pattern, colour and second colour. Paper and canvases are white, so white comes often."""
    pattern = int(rng.choice(len(PATTERNS), p=(0.88, 0.04, 0.04, 0.04)))
    white = COLOURS.index("white")
    background = white if rng.random() < 0.25 else int(rng.integers(len(COLOURS)))
    if pattern == 0:
        return pattern, background, NONE
    second = int(rng.integers(len(COLOURS) - 1))
    second += second >= background
    if PATTERNS[pattern] != "dotted":  # nobody can tell which of two colours of stripes is the second one
        background, second = sorted((background, second))
    return pattern, background, second


def neighbour(scene: Scene, rng: np.random.Generator) -> Scene:
    """A scene that differs in one thing, and is no held-out combination.

    Batches of neighbours teach more than batches of strangers: only that one thing tells their captions apart.
    """
    for _ in range(20):
        other = random_scene(rng, shapes=None if scene.count == 0 else int(rng.integers(1, 6)))
        if scene.count == 0 or other.count == 0:
            return other
        field = str(rng.choice(("count", "colour", "shape", "texture", "position", "background")))
        changed = _changed(scene, other, field)
        if changed is not None and changed != scene and _is_possible(changed):
            return changed
    return scene


def _changed(scene: Scene, other: Scene, field: str) -> Scene | None:
    if field == "background":
        return replace(scene, pattern=other.pattern, background=other.background, second=other.second)
    if field == "count":
        size = other.size if other.size == NONE else max(other.size, _smallest(scene.texture))
        return replace(scene, count=other.count, position=other.position, size=size)
    if field == "texture" and scene.size != NONE:
        return replace(scene, texture=other.texture, size=max(scene.size, _smallest(other.texture)))
    if field == "position":
        if scene.count != 1 or other.count != 1:
            return None
        return replace(scene, position=other.position, size=max(other.size, _smallest(scene.texture)))
    return replace(scene, **{field: getattr(other, field)})


def _is_possible(scene: Scene) -> bool:
    seen = not is_held_out(scene.colour, scene.shape)
    return seen and stands_out(scene.colour, scene.background, scene.second) and goes_with(scene.texture, scene.pattern)


def goes_with(texture: int, pattern: int) -> bool:
    """Whether a texture can be seen on a background of a pattern: on stripes, nobody tells striped shapes apart."""
    return texture == FILLED or PATTERNS[pattern] == "plain"


def stands_out(colour: int, *behind: int) -> bool:
    """Whether shapes of a colour can be seen on backgrounds of other colours, NONE among them for none."""
    name = COLOURS[colour]
    there = [COLOURS[other] for other in behind if other != NONE]
    return all(other != name and {name, other} not in _ALIKE for other in there)


def _smallest(texture: int) -> int:
    """The index of the smallest size at which a texture can be seen."""
    return 0 if TEXTURES[texture] in ("filled", "outlined") else 1
