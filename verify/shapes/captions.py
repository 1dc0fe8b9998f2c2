"""Scenes in words: many wordings, of which each says some of what there is to see."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from .scene import COLOURS, COUNTS, FIELDS, NONE, PATTERNS, POSITIONS, SHAPES, SIZES, TEXTURES, Scene

Choice = TypeVar("Choice")

SHAPE_WORDS = {
    "circle": (("circle", "circles"), ("disc", "discs"), ("ball", "balls"), ("round shape", "round shapes")),
    "square": (("square", "squares"), ("box", "boxes")),
    "triangle": (("triangle", "triangles"),),
    "star": (("star", "stars"),),
    "heart": (("heart", "hearts"),),
    "cross": (("cross", "crosses"), ("plus sign", "plus signs")),
    "moon": (("moon", "moons"), ("crescent", "crescents")),
}
ANY_SHAPE = (("shape", "shapes"), ("thing", "things"), ("figure", "figures"), ("object", "objects"))
COLOUR_WORDS = {
    "purple": ("purple", "violet"),
    "gray": ("gray", "grey"),
}
COUNT_WORDS = {
    "one": ("a", "one", "a single", "1"),
    "two": ("two", "2", "a pair of"),
    "three": ("three", "3"),
    "four": ("four", "4"),
    "five": ("five", "5"),
}
TEXTURE_WORDS = {
    "filled": ("filled", "solid"),
    "striped": ("striped", "stripy"),
    "dotted": ("dotted", "spotted", "polka dot"),
    "checkered": ("checkered", "checked", "chequered"),
    "outlined": ("outlined", "hollow", "empty"),
}
TEXTURE_ENDINGS = {"striped": "with stripes", "dotted": "with dots"}
POSITION_WORDS = {
    "top left": ("in the top left", "in the top left corner", "in the upper left corner", "at the top left"),
    "top": ("at the top", "at the top of the picture", "in the upper part", "above the middle"),
    "top right": ("in the top right", "in the top right corner", "in the upper right corner", "at the top right"),
    "left": ("on the left", "at the left", "on the left side", "to the left"),
    "middle": ("in the middle", "in the center", "in the centre", "at the center"),
    "right": ("on the right", "at the right", "on the right side", "to the right"),
    "bottom left": (
        "in the bottom left",
        "in the bottom left corner",
        "in the lower left corner",
        "at the bottom left",
    ),
    "bottom": ("at the bottom", "at the bottom of the picture", "in the lower part", "below the middle"),
    "bottom right": (
        *("in the bottom right", "in the bottom right corner"),
        *("in the lower right corner", "at the bottom right"),
    ),
}
SIZE_WORDS = {
    "small": ("small", "little", "tiny"),
    "medium": ("medium", "medium sized"),
    "large": ("large", "big", "huge"),
}
PATTERN_WORDS = {
    "striped": ("stripes", "lines", "a striped pattern", "a stripe pattern"),
    "dotted": ("dots", "polka dots", "spots", "a dotted pattern"),
    "checkered": ("a checkerboard", "a chessboard", "checks", "a checkered pattern"),
}
FRAMES = (
    *("{}", "{}", "{}", "{}"),
    *(
        "a photo of {}",
        "a picture of {}",
        "an image of {}",
        "a drawing of {}",
        "a sketch of {}",
        "an illustration of {}",
    ),
    *("this is {}", "there is {}", "it shows {}", "a painting of {}", "i see {}", "{}, drawn by hand"),
    *("the picture shows {}", "a photo of {}.", "clip art of {}", "a close-up of {}"),
    *("a photo of a {}.", "a photo of a {}."),  # as zero-shot prompts are made of any label
)
NOTHING = ("nothing", "an empty picture", "no shapes")
NOTHING_BUT = ("plain {}", "nothing but {}", "an empty {} picture", "just {}", "a {} background")
JOINTS = ("a", "an", "some", "there are", "on", "with", "in", "in front of", "that is", "that are", "and", "background")


@dataclass(frozen=True)
class Caption:
    """A sentence, and what it says: a scene in which every field that it leaves open is NONE."""

    text: str
    says: Scene


def describe(scene: Scene, rng: np.random.Generator) -> Caption:
    """A sentence that is true of a scene.

    Args:
        scene: what there is to see.
        rng: chooses the wording, and what the sentence leaves open.
    """
    words, said = _background_alone(scene, rng) if scene.count == 0 else _shapes(scene, rng)
    frame = str(rng.choice(FRAMES))
    if frame.startswith("there is") and scene.count > 1:
        frame = "there are {}"
    text = frame.format(words)
    return Caption(text, Scene(**{name: getattr(scene, name) if name in said else NONE for name in FIELDS}))


def _shapes(scene: Scene, rng: np.random.Generator) -> tuple[str, set[str]]:
    said = {name for name, share in _SHARES.items() if rng.random() < share and getattr(scene, name) != NONE}
    if scene.background == NONE or PATTERNS[scene.pattern] != "plain":
        said.discard("background")
    else:
        said.discard("pattern")
    if not said & {"colour", "shape", "count", "texture"}:
        said |= {"colour", "shape"}
    many = scene.count > 1
    if many and not said & {"count"} and rng.random() < 0.5:
        said.add("count")
    noun = _pick(SHAPE_WORDS[SHAPES[scene.shape]] if "shape" in said else ANY_SHAPE, rng)[many]
    before, after = [], []
    if "size" in said:
        before.append(_pick(SIZE_WORDS[SIZES[scene.size]], rng))
    if "texture" in said:
        texture = TEXTURES[scene.texture]
        if texture in TEXTURE_ENDINGS and rng.random() < 0.25:
            after.append(TEXTURE_ENDINGS[texture])
        else:
            before.append(_pick(TEXTURE_WORDS[texture], rng))
    if "colour" in said:
        colour = _colour(scene.colour, rng)
        kind = rng.random()
        if kind < 0.85:
            before.insert(len(before) if rng.random() < 0.8 else 0, colour)
        else:
            after.insert(0, f"in {colour}" if kind < 0.93 else f"that {'are' if many else 'is'} {colour}")
    if "position" in said:
        after.append(_pick(POSITION_WORDS[POSITIONS[scene.position]], rng))
    if said & {"pattern", "background"}:
        after.append(_behind(scene, rng))
    phrase = " ".join([*before, noun])
    return " ".join([_counted(scene, "count" in said, phrase, rng), *after]), said


_SHARES = {"count": 0.6, "colour": 0.8, "shape": 0.85, "texture": 0.45, "position": 0.4, "size": 0.2} | {
    "pattern": 0.3,
    "background": 0.35,
}
"""How often a caption says each thing. "count" of a single shape is said by "one", not by "a"."""


def _counted(scene: Scene, said: bool, phrase: str, rng: np.random.Generator) -> str:
    if not said:
        if scene.count > 1:
            return str(rng.choice((phrase, f"some {phrase}")))
        return phrase if rng.random() < 0.25 else _with_article(phrase)
    word = _pick(COUNT_WORDS[COUNTS[scene.count]], rng)
    return _with_article(phrase) if word == "a" else f"{word} {phrase}"


def _behind(scene: Scene, rng: np.random.Generator) -> str:
    pattern = PATTERNS[scene.pattern]
    if pattern != "plain":
        return f"on a {_pick(TEXTURE_WORDS[pattern], rng)} background"
    colour = _colour(scene.background, rng)
    return str(
        rng.choice(
            [
                f"on {_with_article(colour)} background",
                f"on {colour}",
                f"with {_with_article(colour)} background",
                f"in front of {_with_article(colour)} background",
            ],
            p=[0.5, 0.2, 0.2, 0.1],
        )
    )


def _background_alone(scene: Scene, rng: np.random.Generator) -> tuple[str, set[str]]:
    """Words for a picture without shapes."""
    said, pattern = {"count", "pattern"}, PATTERNS[scene.pattern]
    if pattern == "plain":
        if rng.random() < 0.2:
            return _pick(NOTHING, rng), said
        return _pick(NOTHING_BUT, rng).format(_colour(scene.background, rng)), said | {"background"}
    words = _pick(PATTERN_WORDS[pattern], rng)
    kind = rng.random()
    if kind < 0.5:
        return words, said
    article = "a " if words.startswith("a ") else ""
    bare = words.removeprefix("a ")
    first, second = _colour(scene.background, rng), _colour(scene.second, rng)
    if pattern == "dotted":
        if kind < 0.75:
            return f"{article}{second} {bare}", said | {"second"}
        return f"{article}{second} {bare} on {first}", said | {"background", "second"}
    if kind < 0.8:
        pair = (first, second) if rng.random() < 0.5 else (second, first)
        return f"{article}{' and '.join(pair)} {bare}", said | {"background", "second"}
    colour, field = (first, "background") if rng.random() < 0.5 else (second, "second")
    return f"{article}{colour} {bare}", said | {field}


def _colour(colour: int, rng: np.random.Generator) -> str:
    name = COLOURS[colour]
    return _pick(COLOUR_WORDS.get(name, (name,)), rng)


def _with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _pick(choices: Sequence[Choice], rng: np.random.Generator) -> Choice:
    """The first choice in half of the cases, else any."""
    return choices[0] if rng.random() < 0.5 else choices[int(rng.integers(len(choices)))]


def all_phrases() -> list[str]:
    """Phrases that together hold every word of every caption."""
    nouns = [form for forms in (*SHAPE_WORDS.values(), ANY_SHAPE) for pair in forms for form in pair]
    tables = (COUNT_WORDS, TEXTURE_WORDS, POSITION_WORDS, SIZE_WORDS, PATTERN_WORDS)
    listed = [word for table in tables for words in table.values() for word in words]
    colours = [word for name in COLOURS for word in COLOUR_WORDS.get(name, (name,))]
    frames = [frame.replace("{}", "a") for frame in (*FRAMES, *NOTHING, *NOTHING_BUT)]
    return [*nouns, *listed, *colours, *TEXTURE_ENDINGS.values(), *frames, *JOINTS]
