"""Looking at every pair before training starts: what is wrong is found at once, and not in the third hour."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ....keras_models.inputs.image_reading import ImageError
from ....keras_models.inputs.preprocessing import ImagePreprocessor
from ....keras_models.shown import shown_name
from ....verify.evaluation.data.dataset import DataError, Sample, link
from ....verify.evaluation.loading import batches
from .pair import Pair, PairSet

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_NAMED = 100
"""Problems that a message names."""
AT_ONCE = 32


@dataclass(frozen=True)
class Checked:
    """Pairs that can all be trained with.

    Attributes:
        name: of the data set.
        pairs: in the order of their rows.
        digests: the SHA-256 of each image file.
        classes: as `PairSet.classes`; empty where a pair is of no class.
        problems: a sentence for each pair that was left out.
        fingerprint: of all images and captions, in hexadecimal.
    """

    name: str
    pairs: tuple[Pair, ...]
    digests: tuple[bytes, ...]
    classes: tuple[tuple[str, ...], ...]
    problems: tuple[str, ...]
    fingerprint: str


def check(
    found: PairSet,
    preprocess: ImagePreprocessor,
    skip_broken: bool,
    progress: Callable[[int], None] = lambda _: None,
) -> Checked:
    """Reads and prepares every image once.

    Args:
        found: the pairs.
        preprocess: what training does with images.
        skip_broken: whether pairs with problems are left out.
        progress: called with numbers of pairs that were looked at.

    Raises:
        DataError: naming every problem, unless they are to be skipped; or where no pairs are left, or all texts are the
            same.
    """
    problems: dict[int, str] = {}
    digests: dict[int, bytes] = {}
    samples = _samples(found.pairs, problems)
    for batch in batches(samples, lambda content: _digest(content, preprocess), AT_ONCE):
        for each in batch:
            if each.pixels is None:
                problems[each.target] = each.reason
            else:
                digests[each.target] = each.pixels.tobytes()
        progress(len(batch))
    sentences = tuple(
        f"{found.pairs[number].where}: {reason.rstrip('.')}." for number, reason in sorted(problems.items())
    )
    if sentences and not skip_broken:
        raise DataError(_listed(found.name, sentences, len(found.pairs)))
    kept = [number for number in range(len(found.pairs)) if number not in problems]
    pairs = tuple(found.pairs[number] for number in kept)
    _check_texts(found.name, pairs, len(sentences))
    own = tuple(digests[number] for number in kept)
    classes = found.classes if all(pair.label is not None for pair in pairs) else ()
    return Checked(found.name, pairs, own, classes, sentences, _fingerprint(pairs, own))


def _samples(pairs: Sequence[Pair], problems: dict[int, str]) -> Iterator[Sample]:
    """The images of pairs; a pair without one becomes a problem."""
    for number, pair in enumerate(pairs):
        problem, content = pair.problem, b""
        if pair.image is not None:
            try:
                content = pair.image.read()
            except ImageError as error:
                problem = str(error)
        if problem:
            problems[number] = problem
        else:
            yield Sample("its image" if _is_in_shard(pair) else image_name(pair), content, number)


def image_name(pair: Pair) -> str:
    """What a pair's image is called in messages: its file, or its place in a shard."""
    return pair.where if pair.image is None or _is_in_shard(pair) else shown_name(pair.image.path)


def _is_in_shard(pair: Pair) -> bool:
    return pair.image is not None and pair.image.size is not None


def _digest(content: bytes, preprocess: ImagePreprocessor) -> "NDArray[np.uint8]":
    preprocess(content)
    return np.frombuffer(hashlib.sha256(content).digest(), np.uint8)


def _listed(name: str, problems: Sequence[str], count: int) -> str:
    more = len(problems) - MOST_NAMED
    return "\n".join(
        [
            f"{len(problems):,} of {count:,} pairs in {name} cannot be trained with:",
            *problems[:MOST_NAMED],
            *([f"and {more:,} more."] if more > 0 else []),
            "Mend them, or leave them out with --skip-broken.",
        ]
    )


def _check_texts(name: str, pairs: Sequence[Pair], left_out: int) -> None:
    if not pairs:
        raise DataError(f"{name} holds no pairs that can be trained with: all {left_out:,} are broken.")
    if len(pairs) == 1:
        raise DataError(f"{name} holds one pair alone. Training tells pairs apart: give two at least.")
    if len({pair.texts for pair in pairs}) == 1:
        raise DataError(
            f"{name} has one text alone, which all {len(pairs):,} images share: there is nothing to tell apart."
        )


def _fingerprint(pairs: Sequence[Pair], digests: Sequence[bytes]) -> str:
    state = b""
    for pair, digest in zip(pairs, digests, strict=True):
        words = json.dumps([pair.texts, pair.label]).encode()
        state = link(state, hashlib.sha256(digest + words).digest())
    return state.hex()
