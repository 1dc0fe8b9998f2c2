"""Batches for a step of training, in an order that follows from the seed and the number of the epoch."""

import os
from collections.abc import Iterator, Sequence

import numpy as np

from ....keras_models.inputs.image_reading import ImageError
from ....keras_models.inputs.preprocessing import ImagePreprocessor
from ....keras_models.inputs.tokenizer import Tokenizer
from ....verify.evaluation.data.dataset import DataError, Sample
from ....verify.evaluation.loading import batches
from .checking import image_name
from .pair import Pair

MOST_THREADS = 8

Batch = dict[str, np.ndarray]


class Feeder:
    """Makes batches of pairs.

    Args:
        pairs: to train with.
        preprocess: of images.
        tokenize: of texts.
        batch_size: pairs of a batch; of fewer pairs, all make one batch.
        seed: of the order, and of which caption is taken of an image that has several.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        preprocess: ImagePreprocessor,
        tokenize: Tokenizer,
        batch_size: int,
        seed: int,
    ) -> None:
        self.pairs = pairs
        self.batch_size = min(batch_size, len(pairs))
        self.steps = len(pairs) // self.batch_size
        """Batches of an epoch. The pairs that are left over in one epoch are others than in the next."""
        self._preprocess = preprocess
        self._tokenize = tokenize
        self._seed = seed

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from one on, each {"image": float32 (batch, px, px, 3), "text": int32 (batch, 77)}.

        The same number gives the same batches in every run.

        Raises:
            DataError: where an image can no longer be read.
        """
        random = np.random.default_rng((self._seed, number))
        order = random.permutation(len(self.pairs))
        chosen = random.random(len(self.pairs))
        rows = order[start * self.batch_size : self.steps * self.batch_size]
        texts = [pair.texts[int(share * len(pair.texts))] for pair, share in zip(self.pairs, chosen, strict=True)]
        at = 0
        for images in read_images([self.pairs[row] for row in rows], self._preprocess, self.batch_size):
            captions = [texts[row] for row in rows[at : at + len(images)]]
            at += len(images)
            yield {"image": images, "text": np.asarray(self._tokenize(captions), np.int32)}


def read_images(pairs: Sequence[Pair], preprocess: ImagePreprocessor, size: int) -> Iterator[np.ndarray]:
    """Prepared images, float32 (size, px, px, 3), the last ones maybe fewer; read while others are computed.

    Raises:
        DataError: where an image can no longer be read.
    """
    threads = min(MOST_THREADS, os.cpu_count() or 1)
    for batch in batches(_samples(pairs), lambda content: preprocess(content)[0], size, threads):
        wrong = next((each for each in batch if each.pixels is None), None)
        if wrong is not None:
            raise DataError(_changed(wrong.reason))
        yield np.stack([each.pixels for each in batch if each.pixels is not None])


def _samples(pairs: Sequence[Pair]) -> Iterator[Sample]:
    for number, pair in enumerate(pairs):
        try:
            content = b"" if pair.image is None else pair.image.read()
        except ImageError as error:
            raise DataError(_changed(str(error))) from error
        yield Sample(image_name(pair), content, number)


def _changed(reason: str) -> str:
    return f"The data changed while it was read: {reason.rstrip('.')}. Put it back, and the same command goes on."
