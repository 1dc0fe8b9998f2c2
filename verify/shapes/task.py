"""The zero-shot task: questions about pictures of combinations that training never showed.

What is it? All colours and shapes are offered. How many, where, of which texture, before what? The labels name the
picture's own colour and shape, and every number, place, texture or background.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from typing import Any

import numpy as np

from .captions import SHAPE_WORDS
from .drawing import draw
from .scene import COLOURS, COUNTS, NONE, PATTERNS, POSITIONS, SHAPES, SIZES, TEXTURES, Scene, random_scene, stands_out

SEED = 20_000_000
"""Of the task's pictures; training's lie below it."""
PICTURES = 400
"""In each part of the whole task."""


@dataclass(frozen=True)
class Part:
    """One question about pictures.

    Attributes:
        name: what is asked for: "object", "count", "position", "texture" or "background".
        images: uint8 (n, 64, 64, 3). Each shows a colour and a shape that training never showed together.
        labels: every possible answer to all pictures: all colours and shapes, those that training showed too.
        offered: bool (n, labels), which labels are offered for which picture.
        answers: int64 (n,), which label is right.
    """

    name: str
    images: np.ndarray
    labels: tuple[str, ...]
    offered: np.ndarray
    answers: np.ndarray


@dataclass(frozen=True)
class Accuracy:
    """How many answers are right.

    Attributes:
        right: by part.
        asked: by part.
    """

    right: dict[str, int]
    asked: dict[str, int]

    @property
    def overall(self) -> float:
        """The part of all answers that are right, 0 to 1."""
        return sum(self.right.values()) / sum(self.asked.values())

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % confidence interval of `overall`."""
        count, share, z = sum(self.asked.values()), self.overall, 1.959964
        middle = (share + z * z / (2 * count)) / (1 + z * z / count)
        half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
        return middle - half, middle + half

    def to_json(self) -> dict[str, Any]:
        """For a record: everything, as plain numbers."""
        shares = {name: round(self.right[name] / count, 4) for name, count in self.asked.items()}
        low, high = self.interval
        return {
            "overall": round(self.overall, 4),
            "interval_95": [round(low, 4), round(high, 4)],
            "pictures": sum(self.asked.values()),
            "parts": shares,
        }

    def __str__(self) -> str:
        low, high = self.interval
        parts = ", ".join(f"{name} {self.right[name] / count:.1%}" for name, count in self.asked.items())
        return f"{self.overall:.1%} ({low:.1%} to {high:.1%}): {parts}"


NAMES = ("object", "count", "position", "texture", "background")


def parts(pictures: int = PICTURES, names: Sequence[str] = NAMES, held_out: bool = True) -> tuple[Part, ...]:
    """The task. The same arguments give the same pictures; fewer are the first of more.

    Args:
        pictures: in each part.
        names: of the parts.
        held_out: whether pictures show the pairs that training never shows, or those that it shows.
    """
    return tuple(_part(name, pictures, held_out) for name in names)


def accuracy(
    encode_images: Callable[[np.ndarray], np.ndarray],
    encode_texts: Callable[[list[str]], np.ndarray],
    asked: Sequence[Part] | None = None,
) -> Accuracy:
    """How often the label whose features are nearest to a picture's, of those that are offered, is the right one.

    Args:
        encode_images: from uint8 (n, 64, 64, 3) to features (n, d), of any length.
        encode_texts: from n strings to features (n, d), of any length.
        asked: parts of the task; None for all of it.
    """
    right, counts = {}, {}
    for part in parts() if asked is None else asked:
        images = _unit(encode_images(part.images))
        texts = _unit(encode_texts(list(part.labels)))
        similar = np.where(part.offered, images @ texts.T, -np.inf)
        right[part.name] = int((similar.argmax(1) == part.answers).sum())
        counts[part.name] = len(part.answers)
    return Accuracy(right, counts)


@cache
def _part(name: str, pictures: int, held_out: bool) -> Part:
    labels, index = _LABELS[name]()
    images, offered, answers = [], [], []
    for number in range(pictures):
        rng = np.random.default_rng([SEED, NAMES.index(name), number])
        scene = _scene(name, held_out, rng)
        images.append(np.asarray(draw(scene, rng)))
        key = _key(name, scene)
        offered.append([name == "object" or key[:2] == other[:2] for other in index])
        answers.append(index[key])
    return Part(name, np.stack(images), labels, np.array(offered), np.array(answers))


def _scene(name: str, held_out: bool, rng: np.random.Generator) -> Scene:
    """A scene that has an answer to the question."""
    if name == "count":
        return random_scene(rng, held_out, shapes=int(rng.integers(1, 6)))
    scene = random_scene(rng, held_out, shapes=1)
    while name in ("texture", "background") and PATTERNS[scene.pattern] != "plain":
        scene = random_scene(rng, held_out, shapes=1)
    if name == "position":  # large shapes are in the middle
        texture_needs = 0 if TEXTURES[scene.texture] in ("filled", "outlined") else 1
        return replace(scene, position=int(rng.integers(len(POSITIONS))), size=max(int(rng.integers(2)), texture_needs))
    if name == "texture":
        texture = int(rng.integers(len(TEXTURES)))
        return replace(scene, texture=texture, size=max(scene.size, SIZES.index("medium")))
    return scene


_Labels = tuple[tuple[str, ...], dict[tuple[int, ...], int]]


def _key(name: str, scene: Scene) -> tuple[int, ...]:
    extra = () if name == "object" else (getattr(scene, name),)
    return (scene.colour, scene.shape, *extra)


def _listed(pairs: Iterator[tuple[tuple[int, ...], str]]) -> _Labels:
    keys, labels = zip(*pairs, strict=True)
    return labels, {key: index for index, key in enumerate(keys)}


def _pairs() -> Iterator[tuple[int, int, str, str]]:
    for colour, shape in product(range(len(COLOURS)), range(len(SHAPES))):
        yield colour, shape, COLOURS[colour], SHAPES[shape]


def _objects() -> Iterator[tuple[tuple[int, ...], str]]:
    for colour, shape, hue, noun in _pairs():
        yield (colour, shape), f"{_article(hue)} {hue} {noun}"


def _counts() -> Iterator[tuple[tuple[int, ...], str]]:
    for colour, shape, hue, noun in _pairs():
        for count in range(1, len(COUNTS)):
            yield (colour, shape, count), f"{COUNTS[count]} {hue} {noun if count == 1 else SHAPE_WORDS[noun][0][1]}"


def _positions() -> Iterator[tuple[tuple[int, ...], str]]:
    for colour, shape, hue, noun in _pairs():
        for position, place in enumerate(POSITIONS):
            at = "on the" if place in ("left", "right") else "at the" if place in ("top", "bottom") else "in the"
            yield (colour, shape, position), f"{_article(hue)} {hue} {noun} {at} {place}"


def _textures() -> Iterator[tuple[tuple[int, ...], str]]:
    for colour, shape, hue, noun in _pairs():
        for texture, look in enumerate(TEXTURES):
            yield (colour, shape, texture), f"{_article(look)} {look} {hue} {noun}"


def _backgrounds() -> Iterator[tuple[tuple[int, ...], str]]:
    for colour, shape, hue, noun in _pairs():
        for behind, ground in enumerate(COLOURS):
            if stands_out(colour, behind, NONE):
                text = f"{_article(hue)} {hue} {noun} on {_article(ground)} {ground} background"
                yield (colour, shape, behind), text


_LABELS: dict[str, Callable[[], _Labels]] = {
    "object": lambda: _listed(_objects()),
    "count": lambda: _listed(_counts()),
    "position": lambda: _listed(_positions()),
    "texture": lambda: _listed(_textures()),
    "background": lambda: _listed(_backgrounds()),
}


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _unit(features: np.ndarray) -> np.ndarray:
    features = np.asarray(features, np.float64)
    return features / np.linalg.norm(features, axis=-1, keepdims=True)
