"""The words that captions consist of, as rows of a small embedding. Every other word is one and the same unknown word.

The tokenizer is CLIP's, with all of its 49,408 ids. The captions of training use fewer than two hundred of them, so
that training, and the file in this package, hold only their rows. `Vocabulary.embedding` makes the whole table of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np

from ...keras_models.architectures import TEXT_TOWERS
from ...keras_models.inputs.tokenizer import Tokenizer
from . import captions

UNKNOWN = 0
"""The row of every id that training never used."""
IDS = TEXT_TOWERS["mct_shapes"].vocab_size


@dataclass(frozen=True)
class Vocabulary:
    """Which ids of the tokenizer have rows of their own.

    Attributes:
        ids: int64 (n,), ascending. Id number i has row i + 1; row 0 is that of all others.
    """

    ids: np.ndarray

    @classmethod
    def of_captions(cls) -> "Vocabulary":
        """All ids that captions consist of."""
        return cls(np.unique(_tokenizer()(captions.all_phrases())).astype(np.int64))

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self.ids) + 1

    @cached_property
    def row_of_id(self) -> np.ndarray:
        """int64 (49408,): the row of each id. Rows rise with ids, so the end of a text stays its highest number."""
        table = np.full(IDS, UNKNOWN, np.int64)
        table[self.ids] = np.arange(1, len(self))
        return table

    def rows(self, texts: Sequence[str]) -> np.ndarray:
        """Texts as rows of the small embedding, int64 (n, 77)."""
        return self.row_of_id[_tokenizer()(list(texts))]

    def embedding(self, small: np.ndarray) -> np.ndarray:
        """The embedding of all ids, (49408, width), from that of the rows, (n + 1, width)."""
        return small[self.row_of_id]


@cache
def _tokenizer() -> Tokenizer:
    return Tokenizer()


def with_unknown_words(rows: np.ndarray, rng: np.random.Generator, share: float = 0.1) -> np.ndarray:
    """Puts one to three unknown words into a share of the texts, so that a model learns to pass over them.

    Args:
        rows: int64 (n, 77).
        rng: chooses texts and places.
        share: of the texts.
    """
    rows = rows.copy()
    for number in np.flatnonzero(rng.random(len(rows)) < share):
        for _ in range(int(rng.integers(1, 4))):
            end = int(rows[number].argmax())  # the end of text is the highest row
            if end < rows.shape[1] - 1:
                place = int(rng.integers(1, end + 1))
                rows[number] = np.insert(rows[number], place, UNKNOWN)[:-1]
    return rows
