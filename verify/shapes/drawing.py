"""Scenes as pictures: as a program draws them, as a hand draws them, as a camera sees them."""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from .outlines import outline
from .scene import COLOURS, MIDDLE, PATTERNS, TEXTURES, Scene

RGB = {
    "red": (220, 30, 35),
    "orange": (250, 140, 20),
    "yellow": (250, 225, 40),
    "green": (40, 160, 60),
    "blue": (35, 75, 215),
    "purple": (125, 45, 160),
    "pink": (250, 140, 185),
    "brown": (120, 72, 35),
    "black": (18, 18, 20),
    "white": (248, 248, 246),
    "gray": (130, 130, 132),
}
RADII = {0: (0.16, 0.19), 1: (0.22, 0.28), 2: (0.33, 0.43)}
"""From the middle of a shape to its farthest point, by its size, as parts of the picture's side."""
_SCALE = 2
"""Pictures are drawn this much larger than they are wanted."""

Colour = tuple[int, int, int]


def draw(scene: Scene, rng: np.random.Generator, size: int = 64, plain: bool = False) -> Image.Image:
    """Draws a scene.

    Args:
        scene: what to show.
        rng: where chance comes from: exact places, proportions, tints, how steady the hand is.
        size: height and width of the picture, in pixels.
        plain: whether to leave out what a camera adds: blur, uneven light, noise and a border.

    Returns:
        An RGB picture.
    """
    side = size * _SCALE
    picture = _background(scene, rng, side)
    if scene.count:
        wobble = 0.0 if rng.random() < 0.5 else rng.uniform(0.01, 0.025)
        colour = tint(scene.colour, rng)
        for x, y, radius in _places(scene, rng):
            points = (outline(scene.shape, rng, wobble) * radius + (x, y)) * side
            _draw_shape(picture, points, TEXTURES[scene.texture], colour, radius * side, rng)
    picture = picture.reduce(_SCALE)
    return picture if plain else _as_seen(picture, rng)


def tint(colour: int, rng: np.random.Generator) -> Colour:
    """A colour as people may see it: a little lighter, darker or less pure."""
    base = np.array(RGB[COLOURS[colour]], np.float64)
    mixed = base * rng.uniform(0.9, 1.08) + rng.normal(0, 6, 3)
    red, green, blue = np.clip(mixed, 0, 255).astype(int).tolist()
    return red, green, blue


def _places(scene: Scene, rng: np.random.Generator) -> list[tuple[float, float, float]]:
    """Middle and radius of each shape, as parts of the picture's side."""
    if scene.count == 1:
        radius = rng.uniform(*RADII[scene.size])
        if scene.position == MIDDLE:
            x, y = 0.5 + rng.uniform(-0.06, 0.06, 2)
            return [(x, y, radius)]
        row, column = divmod(scene.position, 3)
        x, y = (_along(place, radius, rng) for place in (column, row))
        return [(x, y, radius)]
    return _scattered(scene.count, rng, 0.16 if TEXTURES[scene.texture] in ("filled", "outlined") else 0.17)


def _along(third: int, radius: float, rng: np.random.Generator) -> float:
    """A middle in the first, second or last third of a side, so that the shape stays inside."""
    edge = radius + 0.02
    first = rng.uniform(edge, max(edge, 0.24))
    second = 0.5 + rng.uniform(-0.06, 0.06)
    last = 1 - rng.uniform(edge, max(edge, 0.24))
    return (first, second, last)[third]


def _scattered(count: int, rng: np.random.Generator, smallest: float) -> list[tuple[float, float, float]]:
    """Places that do not overlap, tried with smaller shapes where larger ones do not fit."""
    radius = rng.uniform(smallest, 0.23 if count < 4 else 0.2)
    while True:
        places: list[tuple[float, float, float]] = []
        for _ in range(40):
            own = radius * rng.uniform(0.88, 1.0)
            x, y = rng.uniform(own + 0.01, 0.99 - own, 2)
            if all(np.hypot(x - other[0], y - other[1]) > own + other[2] for other in places):
                places.append((x, y, own))
            if len(places) == count:
                return places
        radius *= 0.93


def _background(scene: Scene, rng: np.random.Generator, side: int) -> Image.Image:
    picture = Image.new("RGB", (side, side), tint(scene.background, rng))
    if PATTERNS[scene.pattern] != "plain":
        mask = _pattern(PATTERNS[scene.pattern], side, side * rng.uniform(0.12, 0.3), rng)
        picture.paste(tint(scene.second, rng), mask=mask)
    return picture


def _draw_shape(
    picture: Image.Image, points: np.ndarray, texture: str, colour: Colour, radius: float, rng: np.random.Generator
) -> None:
    corners = [tuple(point) for point in points.tolist()]
    if texture == "outlined":
        width = max(2, round(radius * rng.uniform(0.12, 0.28)))
        ImageDraw.Draw(picture).line([*corners, corners[0], corners[1]], colour, width, joint="curve")
        return
    side = picture.width
    mask = Image.new("L", (side, side))
    ImageDraw.Draw(mask).polygon(corners, fill=255)
    if texture == "filled":
        picture.paste(colour, mask=mask)
        return
    # The gaps of a texture let the background through. A thin line holds them together.
    holes = _pattern(texture, side, max(9.0, radius * rng.uniform(0.45, 0.7)), rng)
    picture.paste(colour, mask=Image.composite(holes, Image.new("L", (side, side)), mask))
    width = max(2, round(radius * 0.06))
    ImageDraw.Draw(picture).line([*corners, corners[0]], colour, width)


def _pattern(name: str, side: int, period: float, rng: np.random.Generator) -> Image.Image:
    """A mask of a pattern over a whole picture; 255 where its colour is."""
    shift_x, shift_y = rng.uniform(0, period, 2)
    y, x = np.mgrid[0:side, 0:side].astype(np.float32)
    x, y = (x + shift_x) / period, (y + shift_y) / period
    if name == "striped":
        angle = rng.choice((0, 0.25, 0.5, 0.75)) * np.pi + rng.normal(0, 0.08)
        on = (x * np.cos(angle) + y * np.sin(angle)) % 1 < 0.5
    elif name == "dotted":
        on = np.hypot(x % 1 - 0.5, y % 1 - 0.5) < 0.32
    else:
        on = (np.floor(2 * x) + np.floor(2 * y)) % 2 == 0
    return Image.fromarray(np.where(on, np.uint8(255), np.uint8(0)))


def _as_seen(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Adds what comes between a drawing and the model: other sizes, borders, soft focus, uneven light, noise."""
    size = picture.width
    if rng.random() < 0.15:
        picture = _bordered(picture, rng)
    if rng.random() < 0.25:
        other = round(size * rng.uniform(0.75, 0.95))
        picture = picture.resize((other, other), Image.Resampling.BILINEAR).resize(
            (size, size), Image.Resampling.BILINEAR
        )
    if rng.random() < 0.15:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.7)))
    if rng.random() < 0.4:
        picture = _lit(picture, rng)
    return picture


def _bordered(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    size, width = picture.width, round(picture.width * rng.uniform(0.02, 0.09))
    framed = Image.new("RGB", (size, size), tint(int(rng.integers(len(COLOURS))), rng))
    inner = size - 2 * width
    framed.paste(picture.resize((inner, inner), Image.Resampling.BILINEAR), (width, width))
    return framed


def _lit(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    pixels = np.asarray(picture, np.float32)
    ramp = np.linspace(-0.5, 0.5, len(pixels), dtype=np.float32)
    slope_x, slope_y = rng.uniform(-0.16, 0.16, 2)
    light = rng.uniform(0.9, 1.04) + ramp[:, None] * slope_y + ramp[None] * slope_x
    noise = rng.standard_normal(pixels.shape, np.float32) * rng.uniform(0, 6)
    return Image.fromarray(np.clip(pixels * light[..., None] + noise, 0, 255).astype(np.uint8))
