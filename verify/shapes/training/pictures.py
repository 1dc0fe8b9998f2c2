"""The pictures to train on: drawn once, in groups of scenes that differ in one thing."""

from dataclasses import replace
from multiprocessing import get_context
from typing import NamedTuple

import numpy as np
from rich.progress import Progress

from ..drawing import draw
from ..scene import FILLED, LARGE, MIDDLE, NONE, Scene, neighbour, random_scene
from .options import Options

GROUP = 4
"""Scenes that differ in one thing each, side by side in a batch."""
EASY = 0.4
"""The part of the pictures that begins with easy ones alone and ends with hardly any. Training sees it first.

Among small, many and textured shapes, the image tower learns nothing about their kinds for its first 500 steps.
"""


class Pictures(NamedTuple):
    """What is trained on: groups of scenes, and each scene as a picture, uint8 (groups, 4, 64, 64, 3)."""

    scenes: list[list[Scene]]
    images: np.ndarray


def draw_pictures(options: Options, bars: Progress) -> Pictures:
    """Draws the pictures. Each group depends on the seed and its own number alone."""
    groups = range(options.pictures // GROUP)
    keys = ((options.seed, number, 1 - number / (EASY * len(groups))) for number in groups)
    with get_context("fork").Pool(options.processes) as pool:
        made = list(bars.track(pool.imap(_draw_group, keys, chunksize=32), len(groups), description="Drawing"))
    scenes, images = zip(*made, strict=True)
    return Pictures(list(scenes), np.stack(images))


def _draw_group(key: tuple[int, int, float]) -> tuple[list[Scene], np.ndarray]:
    *seed, easy = key
    rng = np.random.default_rng(seed)
    if rng.random() < easy:
        scenes = [_easy_scene(rng) for _ in range(GROUP)]
        return scenes, np.stack([np.asarray(draw(scene, rng, plain=True)) for scene in scenes])
    first = random_scene(rng)
    scenes = [first, *(neighbour(first, rng) for _ in range(GROUP - 1))]
    return scenes, np.stack([np.asarray(draw(scene, rng)) for scene in scenes])


def _easy_scene(rng: np.random.Generator) -> Scene:
    """One large filled shape in the middle of a plain background."""
    plain = {"pattern": 0, "second": NONE, "texture": FILLED, "size": LARGE, "position": MIDDLE}
    return replace(random_scene(rng, shapes=1), **plain)
