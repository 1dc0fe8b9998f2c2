"""Texts of any length: open_clip's ids up to 10,000 characters, and about a second for millions."""

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mobileclip_keras.keras_models.inputs.clip_bpe import EXACT
from mobileclip_keras.keras_models.inputs.tokenizer import Tokenizer

SIZE = 4_000_000

# What takes quadratic time somewhere in cleaning, cutting or merging, by the text that is repeated.
REPEATED = {
    "letter": "a",
    "two letters": "ab",
    "capital": "İ",
    "digit": "7",
    "mark": "\u0301",
    "marks in the wrong order": "\u0315\u0300",
    "letter and marks": "e\u0301\u0327\u0323",
    "zalgo": "a\u0489\u0336\u0315\u0300\u0345",
    "bang": "!",
    "ampersand": "&",
    "entity": "&lt;",
    "double entity": "&amp;lt;",
    "half an entity": "&am",
    "numbers": "&#38;",
    "blank entity": "&nbsp; ",
    "blank": " ",
    "line": "\n",
    "empty lines": "\x00\n",
    "blanks": " \t\u3000\x85",
    "control": "\x00",
    "escape": "\x1b[31m",
    "zero width": "\u200b",
    "mojibake": "Ã©",
    "half of mojibake": "Ã",
    "double mojibake": "Ã¢â‚¬â„¢",
    "wide": "Ａ",
    "han": "日",
    "emoji": "👨\u200d👩\u200d👧",
    "surrogate": "\ud800",
    "tag": "<start_of_text",
    "whole tag": "<start_of_text>",
    "quotes": "'’",
    "words": "a photo of a cat. ",
    "chains": "&" + "amp;" * 480 + "nbsp; ",
    "tight chains": "&" + "amp;" * 480 + "nbsp;",
}
CHAINS = ("amp;", "AMP;", "#38;", "#x26;")


def long_texts() -> dict[str, str]:
    texts = {name: (text * (SIZE // len(text) + 1))[:SIZE] for name, text in REPEATED.items()}
    texts |= {f"chain of {link}": ("&" + link * (SIZE // len(link)))[:SIZE] for link in CHAINS}
    return texts | {
        "chain and a tag": "<" + "&" + "amp;" * (SIZE // 4),
        "zeros": "&#" + "0" * SIZE,
        "mixed": "".join(text * 300 for text in REPEATED.values()),
        "no words": ("&" + "amp;" * 30 + "nbsp;\x00\u3000") * 20_000,
    }


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    made = Tokenizer()
    made("loads its files")
    return made


@pytest.mark.nightly
def test_four_million_characters_take_about_a_second(tokenizer: Tokenizer) -> None:
    taken = {}
    for name, text in long_texts().items():
        start = time.process_time()
        assert tokenizer(text).shape == (1, 77)
        taken[name] = time.process_time() - start
    print({name: round(seconds, 2) for name, seconds in taken.items() if seconds > 0.2})
    assert max(taken.values()) < 3, taken


def test_a_long_text_takes_no_time_that_grows_with_it(tokenizer: Tokenizer) -> None:
    for text in ("&" + "amp;" * 30_000, "a" * 120_000, "a" + "\u0315\u0300" * 60_000, "!" * 120_000, "\n" * 120_000):
        start = time.process_time()
        tokenizer(text)
        assert time.process_time() - start < 1


@pytest.mark.parametrize(
    ("text", "short"),
    [
        (" " * 200_000 + "a cat", "a cat"),
        ("\n\t" * 20_000 + "a cat\n" + "\u3000" * 20_000 + "and a dog", "a cat and a dog"),
        ("&" + "amp;" * 50_000, "&"),
        ("&" + "#38;" * 50_000 + " a cat", "& a cat"),
        ("a " * 100_000, "a " * 100),
        ("a photo of a cat. " * 5000, "a photo of a cat. " * 30),
        ("\x00\n" * 50_000 + "a cat" + "\x00" * 50_000 + "s", "a cats"),
        ("a" * 50_000, "a" * 5000),
        ("cat\n" * 76 + "&amp;" * 50_000, "cat " * 76),
    ],
)
def test_a_long_text_has_the_ids_of_what_can_be_seen_of_it(tokenizer: Tokenizer, text: str, short: str) -> None:
    np.testing.assert_array_equal(tokenizer(text), tokenizer(short))


def test_a_number_of_thousands_of_digits_is_one_character(tokenizer: Tokenizer) -> None:
    """Python turns no more than 4300 digits into a number."""
    texts = [f"&#{'0' * 6000}65; b", f"&#{'9' * 6000}; b", f"&#{'0' * 6000}; b"]
    np.testing.assert_array_equal(tokenizer(texts), tokenizer(["A b", "&#999999999; b", "&#0; b"]))


@pytest.fixture(scope="module")
def reference() -> Any:
    import open_clip

    return open_clip.get_tokenizer("MobileCLIP-S2")


PIECES = st.one_of(
    st.sampled_from(
        [
            *(text for text in REPEATED.values() if len(text) < 100),
            *CHAINS,
            "&" + "amp;" * 20,
            "&",
            " ",
            "\n",
            "<",
            "it's ",
            "&quot;",
            "<end_of_text>",
        ]
    ),
    st.text(max_size=10),
)
REPEATS = st.tuples(PIECES, st.integers(1, 12)).map(lambda pair: pair[0] * pair[1])


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(REPEATS, max_size=8).map("".join))
def test_any_text_has_open_clips_ids(tokenizer: Tokenizer, reference: Any, text: str) -> None:
    text = text[:EXACT]
    np.testing.assert_array_equal(tokenizer(text), reference([text]).numpy())


@pytest.mark.nightly
@settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(PIECES, st.integers(1, 3000)).map(lambda pair: (pair[0] * pair[1])[:9000]), max_size=6))
def test_any_text_of_10_000_characters_has_open_clips_ids(
    tokenizer: Tokenizer, reference: Any, pieces: list[str]
) -> None:
    text = "".join(pieces)[:EXACT]
    np.testing.assert_array_equal(tokenizer(text), reference([text]).numpy())


@pytest.mark.nightly
def test_hard_texts_of_10_000_characters_have_open_clips_ids(tokenizer: Tokenizer, reference: Any) -> None:
    for name, text in long_texts().items():
        if name != "zeros":  # open_clip raises ValueError
            np.testing.assert_array_equal(tokenizer(text[:EXACT]), reference([text[:EXACT]]).numpy(), name)
