"""Texts to token ids and back: the tokenizer of every MobileCLIP and MobileCLIP2 variant."""

import json
from collections.abc import Iterable, Mapping, Sequence, Set
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ..registry import Variant
from ..store.resolve import FromPretrained
from ..store.writing.rewriting import write_texts
from . import clip_bpe
from .tokenizer_file import CONFIG_FILE, TOKENIZER_FILE, check_tokenizer_file, saved_length

if TYPE_CHECKING:
    import tokenizers
    from numpy.typing import ArrayLike, NDArray


class Tokenizer(FromPretrained):
    """CLIP's byte-pair tokenizer, giving the same ids as open_clip's for any text.

    A row is the start token, the text's ids, the end token, then zeros up to `context_length`. A text that is
    too long is cut, and its last id becomes the end token.

    Args:
        context_length: ids in a row, at least 2; every MobileCLIP text tower takes 77.

    Example:
        >>> Tokenizer()("a photo of a cat")[0, :7]
        array([49406,   320,  1125,   539,   320,  2368, 49407], dtype=int32)
    """

    _files = (TOKENIZER_FILE, CONFIG_FILE)

    vocab_size = clip_bpe.VOCABULARY_SIZE
    start_id = clip_bpe.START_ID
    end_id = clip_bpe.END_ID
    pad_id = clip_bpe.PADDING_ID

    def __init__(self, context_length: int = 77) -> None:
        self.context_length = _checked_length(context_length)

    @classmethod
    def _from_variant(cls, variant: Variant) -> Self:
        return cls()  # the same for all variants

    @classmethod
    def _from_folder(cls, folder: Path) -> Self:
        """The package's own tokenizer, once the folder's was compared with it word by word."""
        check_tokenizer_file(folder)
        return cls(saved_length(folder))

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes `tokenizer.json`, as the `tokenizers` library loads it, and `tokenizer_config.json`."""
        config = {
            "tokenizer_class": "CLIPTokenizerFast",
            "model_max_length": self.context_length,
            "bos_token": clip_bpe.START_TOKEN,
            "eos_token": clip_bpe.END_TOKEN,
            "unk_token": clip_bpe.END_TOKEN,
            # Padding has an id, 0, but no token: that id is also a piece of the word "!?".
            "pad_token": None,
            "do_lower_case": True,
        }
        texts = {TOKENIZER_FILE: self._pipeline.to_str(), CONFIG_FILE: json.dumps(config, indent=2) + "\n"}
        write_texts(Path(folder), texts)

    def __call__(self, texts: str | Sequence[str], context_length: int | None = None) -> "NDArray[np.int32]":
        """Token ids, int32 (batch, context_length); one string is a batch of one.

        Args:
            texts: a string, or a list, tuple or array of strings.
            context_length: ids in a row, in place of the tokenizer's own.

        Raises:
            TypeError: `texts` is, or holds, something other than strings.
            ValueError: `context_length` is below 2.
        """
        length = self.context_length if context_length is None else _checked_length(context_length)
        # A word gives one id or more, so length - 1 of them already overflow the row.
        words = [clip_bpe.split_words(text, length - 1) for text in _checked_texts(texts)]
        encodings = self._word_encoder.encode_batch_fast(words, is_pretokenized=True, add_special_tokens=False)

        tokens = np.full((len(words), length), self.pad_id, dtype=np.int32)
        for row, encoding in zip(tokens, encodings, strict=True):
            ids = encoding.ids[: length - 2]
            row[: len(ids) + 2] = [self.start_id, *ids, self.end_id]
        return tokens

    def decode(self, ids: "ArrayLike") -> str | list[str]:
        """The text of token ids: one string for a row, a list for a batch.

        The text is lower case, as ids are, with a space after every word. The start token, padding and everything from
        the first end token on are left out.

        Raises:
            TypeError: `ids` are not integers.
            ValueError: an id is outside the vocabulary, or `ids` has more than two dimensions.
        """
        array = np.asarray(ids)
        if array.size and not np.issubdtype(array.dtype, np.integer):
            raise TypeError(f"Token ids must be integers, not {array.dtype}.")
        if array.size and not 0 <= array.min() <= array.max() < self.vocab_size:
            raise ValueError(f"Token ids must lie in 0…{self.vocab_size - 1}; these span {array.min()}…{array.max()}.")
        if array.ndim == 1:
            return self._decode_row(array.tolist())
        if array.ndim == 2:
            return [self._decode_row(row) for row in array.tolist()]
        raise ValueError(f"Token ids must have one or two dimensions, not {array.ndim}.")

    def _decode_row(self, ids: list[int]) -> str:
        if self.end_id in ids:
            ids = ids[: ids.index(self.end_id)]
        while ids and ids[-1] == self.pad_id:
            ids = ids[:-1]
        return self._pipeline.decode(ids, skip_special_tokens=True).strip()

    @cached_property
    def _pipeline(self) -> "tokenizers.Tokenizer":
        return clip_bpe.build_pipeline(self.context_length)

    @cached_property
    def _word_encoder(self) -> "tokenizers.Tokenizer":
        return clip_bpe.word_encoder(self._pipeline)


def _checked_length(context_length: Any) -> int:
    if not isinstance(context_length, int | np.integer) or context_length < 2:
        raise ValueError(f"context_length must be an integer of at least 2, not {context_length!r}.")
    return int(context_length)


def _checked_texts(texts: Any) -> list[str]:
    if isinstance(texts, str):
        return [texts]
    if isinstance(texts, bytes | bytearray | Mapping | Set) or not isinstance(texts, Iterable):
        raise TypeError(f"Texts must be a string or a list of strings, not {type(texts).__name__}.")
    checked = list(texts)
    for index, text in enumerate(checked):
        if not isinstance(text, str):
            raise TypeError(f"Every text must be a string; number {index} is {type(text).__name__}.")
    return checked
