"""CLIP's byte-pair encoding: how a text is cleaned and cut into words, and the tables that turn words into ids.

Follows OpenAI's CLIP tokenizer as open_clip 3.3.0 runs it (`open_clip/tokenizer.py`, `SimpleTokenizer` with
`clean="lower"`), which every MobileCLIP model was trained with.

Cleaning and cutting happen here, in Python, with the same `ftfy` and `regex` packages as open_clip. The `tokenizers`
library gets whole words only: its own regular expressions follow another edition of the Unicode tables and know no
case-folded matches ("ſ" for "s"), so its cutting would give other ids for rare characters.
"""

import html
import re
from collections.abc import Iterator
from functools import cache
from importlib import resources
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import regex
    import tokenizers

START_TOKEN = "<start_of_text>"
END_TOKEN = "<end_of_text>"
END_OF_WORD = "</w>"
VOCABULARY_SIZE = 49408
START_ID = 49406
END_ID = 49407
# Fills a row behind the end token. It is also the id of "!" inside a word: CLIP has no padding token.
PADDING_ID = 0

EXACT = 10_000
"""Characters of a text that are always cleaned as a whole."""
PART, SPARE_PARTS = 2_000, 20
"""Characters of each further part of a longer text, and how many parts more than words there may be."""
LONGEST_PIECE = 40
"""Letters that one id stands for, at most."""

_BLANKS = re.compile(r"[\s\x00-\x08\x7f\ufeff]{100,}")
_AMPERSANDS = r"&(?:(?:amp|AMP|#0{0,9}38|#[xX]0{0,9}26);){%d,}"
_LONG_REFERENCE = re.compile(r"&#([0-9]{1000,})")

MERGES_FILE = "assets/clip_merges.txt"

# Contractions, runs of letters, single digits, runs of anything else that is not white space.
WORD_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def split_words(text: str, limit: int) -> list[str]:
    """The first `limit` words of `text`, cleaned: mojibake mended, HTML entities resolved twice, white space
    collapsed, lower case. Special tokens written out in the text count as words.

    Cleaning takes quadratic time in places. So of a text above `EXACT` characters only as much is cleaned as fills the
    row, part by part: such a text cannot be a caption, and its end cannot be seen in the ids.
    """
    words: list[str] = []
    letters = 0
    for part in _parts(text, limit):
        found = [match.group() for match in islice(_word_regex().finditer(_cleaned(part)), limit - len(words))]
        words += found
        letters += sum(map(len, found))
        if len(words) >= limit or letters >= limit * LONGEST_PIECE:
            break
    return words


def _parts(text: str, limit: int) -> Iterator[str]:
    """The text itself; of a long one, its first characters and then shorter parts, cut between words where it can be.

    Args:
        text: of any length.
        limit: words that are wanted. Every part but the strangest gives one or more.
    """
    size = max(EXACT, LONGEST_PIECE * limit)
    if len(text) > size:
        text = _BLANKS.sub(_blank, text)
        # Resolved to the end, it is one "&" at any length; resolved twice, its first words fill the row.
        text = re.sub(_AMPERSANDS % (2 * limit), "&" + "amp;" * 2 * limit, text)
    start = 0
    for _ in range(limit + SPARE_PARTS):
        end = start + size
        if end < len(text):
            end = max((text.rfind(blank, start + size // 2, end) for blank in " \n"), default=-1) + 1 or end
        yield text[start:end]
        start, size = end, PART
        if start >= len(text):
            return


def _blank(run: re.Match[str]) -> str:
    """What is left of a run of white space and of characters that cleaning drops."""
    if "\n" in run.group():
        return "\n"
    return " " if any(map(str.isspace, run.group())) else ""


def _cleaned(text: str) -> str:
    import ftfy

    text = _unescaped(_unescaped(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()


def _unescaped(text: str) -> str:
    """`html.unescape`, also where a reference has more digits than Python turns into a number."""
    try:
        return html.unescape(text)
    except ValueError:
        return html.unescape(_LONG_REFERENCE.sub(_shortened, text))


def _shortened(reference: re.Match[str]) -> str:
    """A reference to the same character in few digits. Any number beyond Unicode is as good as another."""
    digits = reference[1].lstrip("0") or "0"
    return f"&#{digits if len(digits) < 10 else 10**9}"


@cache
def _word_regex() -> "regex.Pattern[str]":
    import regex

    return regex.compile(f"{START_TOKEN}|{END_TOKEN}|{WORD_PATTERN}", regex.IGNORECASE)


def build_pipeline(context_length: int) -> "tokenizers.Tokenizer":
    """The tokenizer as the `tokenizers` library knows it, complete, from the merges in this package.

    `tokenizer.json` holds this. Used alone, it cleans and cuts by the library's own means, which is right for ordinary
    text. `word_encoder` takes from it what `Tokenizer` needs.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    merges = _read_merges()
    # Byte symbols in the order of CLIP's table: the printable ones first, then the stand-ins from U+0100 on.
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet(), key=lambda symbol: (ord(symbol) >= 256, symbol))
    vocabulary = [
        *symbols,
        *(symbol + END_OF_WORD for symbol in symbols),
        *(left + right for left, right in merges),
        START_TOKEN,
        END_TOKEN,
    ]
    ids = {token: index for index, token in enumerate(vocabulary)}

    pipeline = Tokenizer(models.BPE(vocab=ids, merges=merges, end_of_word_suffix=END_OF_WORD))
    pipeline.add_special_tokens([START_TOKEN, END_TOKEN])
    pipeline.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    pipeline.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORD_PATTERN), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    pipeline.post_processor = processors.TemplateProcessing(
        single=f"{START_TOKEN} $A {END_TOKEN}",
        special_tokens=[(START_TOKEN, ids[START_TOKEN]), (END_TOKEN, ids[END_TOKEN])],
    )
    pipeline.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Replace(END_OF_WORD, " ")])
    pipeline.enable_truncation(context_length)
    pipeline.enable_padding(length=context_length, pad_id=PADDING_ID, pad_token=vocabulary[PADDING_ID])
    return pipeline


def word_encoder(pipeline: "tokenizers.Tokenizer") -> "tokenizers.Tokenizer":
    """The byte-pair step of `pipeline` alone: for words that `split_words` has cut, no further cleaning,
    cutting, truncation or padding."""
    from tokenizers import Tokenizer, pre_tokenizers

    encoder = Tokenizer(pipeline.model)
    encoder.add_special_tokens([START_TOKEN, END_TOKEN])
    encoder.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return encoder


def _read_merges() -> list[tuple[str, str]]:
    text = resources.files(__package__).joinpath(MERGES_FILE).read_text(encoding="utf-8")
    return [(left, right) for left, _, right in (line.partition(" ") for line in text.splitlines())]
