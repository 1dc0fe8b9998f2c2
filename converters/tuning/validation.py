"""How good a model is at pairs that it was not trained with: recall@1."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...keras_models.inputs.preprocessing import ImagePreprocessor
from ...keras_models.inputs.tokenizer import Tokenizer
from ...keras_models.models.features import BATCH_SIZE, encode
from ...verify.evaluation.metrics import class_ranks, class_vectors
from .history import Recall
from .pairs.batches import read_images
from .pairs.checking import Checked
from .pairs.pair import Pair

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ...keras_models.models.model import MobileClipModel

BLOCK = 4096
"""Rows that are compared at once."""


def measure(model: "MobileClipModel", data: Checked, preprocess: ImagePreprocessor, tokenize: Tokenizer) -> Recall:
    """The recall@1 of a model.

    Texts that several pairs share count as one, and are right for each of them. Of classes, the accuracy of zero-shot
    classification is measured: for each class, the mean of its captions.

    Args:
        model: with both towers.
        data: pairs that it was not trained with.
        preprocess, tokenize: of its inputs.
    """
    batches = read_images(data.pairs, preprocess, BATCH_SIZE)
    images = np.concatenate([encode(model, "image", batch, fill=True) for batch in batches]).astype(np.float32)
    if data.classes:
        captions = [caption for captions in data.classes for caption in captions]
        vectors = class_vectors(_texts(model, captions, tokenize), len(data.classes[0]))
        labels = np.asarray([pair.label for pair in data.pairs], np.int32)
        return Recall(float(np.mean(class_ranks(images, vectors, labels) == 0)))
    captions = list(dict.fromkeys(text for pair in data.pairs for text in pair.texts))
    return recall(images, _texts(model, captions, tokenize), data.pairs, captions)


def recall(
    images: "NDArray[np.float32]", texts: "NDArray[np.float32]", pairs: Sequence[Pair], captions: Sequence[str]
) -> Recall:
    """Recall@1 both ways.

    Args:
        images: features of length 1, (pairs, width).
        texts: of each caption, (captions, width).
        pairs: whose images these are.
        captions: each once.
    """
    own = [{*pair.texts} for pair in pairs]
    best_text = _best(images, texts)
    best_image = _best(texts, images)
    return Recall(
        _share(captions[best] in mine for best, mine in zip(best_text, own, strict=True)),
        _share(caption in own[best] for best, caption in zip(best_image, captions, strict=True)),
    )


def _best(queries: "NDArray[np.float32]", keys: "NDArray[np.float32]") -> Iterator[int]:
    for start in range(0, len(queries), BLOCK):
        yield from (queries[start : start + BLOCK] @ keys.T).argmax(axis=1).tolist()


def _share(found: Iterable[bool]) -> float:
    return float(np.mean(list(found)))


def _texts(model: "MobileClipModel", captions: Sequence[str], tokenize: Tokenizer) -> "NDArray[np.float32]":
    return encode(model, "text", np.asarray(tokenize(list(captions))), fill=True).astype(np.float32)
