"""The rows that layers are measured on: every other one of the inputs, and more that are made of them.

A layer of 2,048 inputs has as many moments to know. The few rows that are given do not tell them apart, and rounding
that makes up for its error on those rows alone adds to it on all others. The rows between are never measured on: they
show whether what was decided holds for what is unseen.
"""

import numpy as np

from ....keras_models.inputs.clip_bpe import PADDING_ID

ENOUGH = 128
"""Rows, beyond which none are made."""
_LENGTHS = (0.5, 1.5)
"""Of a text that is made, in those of the text whose place it takes."""


def measured_rows(tower: str, rows: np.ndarray) -> np.ndarray:
    """Every other row first, then what is made of these.

    Args:
        tower: "image" for (images, height, width, channels), "text" for tokens (texts, context length).
        rows: of the tower's inputs.

    Returns:
        At most 8 times as many images: mirrored and turned. Texts: of the words of all in any order. ENOUGH of either,
        or as many as are given where these are more.
    """
    own = rows[::2]
    made = _turned(own) if tower == "image" else _of_the_same_words(own, ENOUGH - len(own))
    return np.concatenate([own, made])[: max(ENOUGH, len(own))]


def _turned(images: np.ndarray) -> np.ndarray:
    """The other seven ways to lay a square picture; the other three of one that is not square."""
    mirrored = [images[:, :, ::-1], images[:, ::-1], images[:, ::-1, ::-1]]
    if images.shape[1] != images.shape[2]:
        return np.concatenate(mirrored)
    return np.concatenate([*mirrored, *(each.swapaxes(1, 2) for each in (images, *mirrored))])


def _of_the_same_words(texts: np.ndarray, count: int) -> np.ndarray:
    """Texts of words that are drawn from all texts, between the first token and the last of one of them."""
    ends = texts.argmax(1)  # as the towers find it
    words = np.concatenate([text[1:end] for text, end in zip(texts, ends, strict=True)])
    if count <= 0 or not len(words):
        return texts[:0]
    chance = np.random.default_rng(0)
    made = np.full((count, texts.shape[1]), PADDING_ID, texts.dtype)
    for place, row in enumerate(made):
        text, end = texts[place % len(texts)], ends[place % len(texts)]
        length = int(np.clip(round((end - 1) * chance.uniform(*_LENGTHS)), 1, len(row) - 2))
        row[0], row[1 : length + 1], row[length + 1] = text[0], chance.choice(words, length), text[end]
    return made
