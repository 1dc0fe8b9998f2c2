"""Batches of pictures, shifted by a few pixels, with new captions each time."""

from collections.abc import Iterator
from dataclasses import astuple
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..captions import describe
from ..scene import NONE
from ..vocabulary import Vocabulary, with_unknown_words
from .options import Options
from .pictures import GROUP, Pictures

CAPTIONED = slice(None, None, 2)
"""The pictures of a batch that have captions. The others are wrong answers; texts cost as much time as pictures."""


class Batch(NamedTuple):
    """Pictures, captions of the first, third, fifth ... of them, and what both say as whole numbers."""

    images: Tensor  # float32 (n, 3, 64, 64)
    rows: Tensor  # int64 (m, 77), of the embedding
    there: Tensor  # int64 (n, fields)
    says: Tensor  # int64 (m, fields), NONE where a caption says nothing

    @property
    def true(self) -> Tensor:
        """bool (n, m): whether a picture (row) is as a caption (column) says."""
        there, says = self.there[:, None], self.says[None]
        return ((says == NONE) | (says == there)).all(-1)


def batches(pictures: Pictures, words: Vocabulary, options: Options, rank: int) -> Iterator[Batch]:
    """One process's batches, with new captions each time.

    Each picture comes once before any comes again, first in their own order. Each process takes its share of a step.
    """
    shuffled, rng = np.random.default_rng([options.seed, 1]), np.random.default_rng([options.seed, 2, rank])
    per_batch, order = options.batch // GROUP, np.arange(len(pictures.scenes))
    while True:
        if len(order) < per_batch:
            order = shuffled.permutation(len(pictures.scenes))
        chosen, order = order[:per_batch][rank :: options.processes], order[per_batch:]
        scenes = [scene for group in chosen for scene in pictures.scenes[group]]
        captions = [describe(scene, rng) for scene in scenes[CAPTIONED]]
        rows = with_unknown_words(words.rows([caption.text for caption in captions]), rng)
        yield Batch(
            as_pixels(_shifted(pictures.images[chosen].reshape(-1, *pictures.images.shape[2:]), rng)),
            torch.from_numpy(rows),
            torch.tensor([astuple(scene) for scene in scenes]),
            torch.tensor([astuple(caption.says) for caption in captions]),
        )


def _shifted(images: np.ndarray, rng: np.random.Generator, far: int = 3) -> np.ndarray:
    """All pictures moved by a few pixels. Their edges are drawn out to fill the gap."""
    padded = np.pad(images, ((0, 0), (far, far), (far, far), (0, 0)), mode="edge")
    y, x = rng.integers(0, 2 * far + 1, 2)
    return padded[:, y : y + images.shape[1], x : x + images.shape[2]]


def as_pixels(images: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255
