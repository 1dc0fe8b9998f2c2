"""Which pairs are held back for validation: the same ones in every run, and no image on both sides."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from .checking import Checked

FEWEST = 8
"""Pairs of a data set from which any are held back."""


def hold_back(data: Checked, share: float, seed: int) -> tuple[Checked, Checked | None]:
    """The pairs to train with, and those that are held back.

    Which ones follows from the images and the seed alone. Pairs of the same image stay together.

    Args:
        data: all pairs.
        share: of pairs to hold back, 0 to less than 1.
        seed: of the choice.

    Returns:
        None for the second where `share` is 0, or where either side would have fewer than two different texts.
    """
    wanted = max(2, round(share * len(data.pairs)))
    if share == 0 or len(data.pairs) < FEWEST:
        return data, None
    groups: dict[bytes, list[int]] = {}
    for number, digest in enumerate(data.digests):
        groups.setdefault(digest, []).append(number)
    held: set[int] = set()
    for digest in sorted(groups, key=lambda digest: hashlib.sha256(b"%d:" % seed + digest).digest()):
        if len(held) >= wanted:
            break
        held |= {*groups[digest]}
    parts = [_part(data, [n for n in range(len(data.pairs)) if (n in held) == side]) for side in (False, True)]
    if any(len({pair.texts for pair in part.pairs}) < 2 for part in parts):
        return data, None
    return parts[0], parts[1]


def _part(data: Checked, numbers: Sequence[int]) -> Checked:
    pairs = tuple(data.pairs[number] for number in numbers)
    return replace(data, pairs=pairs, digests=tuple(data.digests[number] for number in numbers))
