"""The tokenizer against open_clip's own, id for id."""

import json
import pickle
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers

from mobileclip_keras.keras_models.errors import MobileClipError
from mobileclip_keras.keras_models.inputs.tokenizer import Tokenizer

NASTY = [
    "",
    " ",
    "\t\n\r\x0b\x0c\x1c\x1d\x1e\x1f\x85\xa0\u1680\u2000\u2028\u2029\u202f\u205f\u3000",
    "\x00",
    "a\x00b\x07c\x1b[31mred\x1b[0m\x7fd",
    "zero\u200bwidth\u200cjoin\u200ders\u2060and\ufeffmarks",
    "\u202eright to left\u202c \u2066isolate\u2069",
    "soft\u00adhyphen",
    "!",
    "!!!",
    "!?",
    "hello!",
    "<start_of_text>",
    "<end_of_text>",
    "<START_OF_TEXT>",
    "<\u017ftart_of_text>",
    "<\u017fTART_OF_TEXT> a cat <END_OF_TEXT>",
    "a <start_of_text> cat <end_of_text> here",
    "!!<start_of_text>!!",
    "x<end_of_text>y",
    "<start_of_text><start_of_text>",
    "<start_of_text",
    "<|startoftext|> a <|endoftext|>",
    "&lt;start_of_text&gt;",
    "&amp;lt;end_of_text&amp;gt;",
    "</w>",
    "cat</w> dog</w>",
    "it's we're I've I'm you'll he'd can't",
    "IT'S WE'RE I'VE I'M YOU'LL HE'D CAN'T",
    "it\u2019s we\u2019re can\u2018t",
    "'s't're've'm'll'd",
    "'\u017f '\u017ft '\u017f\u017f",
    "''s '' 'tis rock 'n' roll",
    "\u017f \u212a \u212b \u0130 \u0131 I\u0307",
    "\u1e9e Stra\u00dfe STRASSE",
    "\ufb00 \ufb01 \ufb03 \ufb05 o\ufb03ce",
    "\u0391\u03a3 \u03a3 \u03c3\u03c2",
    "\u01c5 \u01c4 \u01c6 \u1f88 \u1ffc",
    "e\u0301 \u00e9 E\u0301",
    "a\u0300\u0301\u0302\u0303\u0304\u0305b",
    "\u0301leading mark",
    "\u0928\u092e\u0938\u094d\u0924\u0947",
    "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35",
    "\u1100\u1161\u11a8 \uac01 \ud55c\uad6d\uc5b4",
    "\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8",
    "\uff21\uff22\uff23 \uff11\uff12\uff13 \uff76\uff9e",
    "\u0645\u0631\u062d\u0628\u0627 \u06f1\u06f2\u06f3 \u0661\u0662\u0663",
    "\u05e9\u05c1\u05b8\u05dc\u05d5\u05b9\u05dd",
    "\u2160\u2161\u216b \u00bd\u00b2\u00b3 \u3007 \u4e00 \u2460 \U0001d7d8\U0001d7ff",
    "12345 1,234.56 0x1F 3rd 1/2",
    "\U0001f600\U0001f601 \U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f1eb\U0001f1f7",
    "\U0001f44d\U0001f3fd \u2764\ufe0f \u2764 1\ufe0f\u20e3",
    "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
    "\U0001d400\U0001d4d0\U0001d504 \U00010400\U00010428",
    "\ud800 lone \udfff surrogates \ud83d\ude00",
    "\ufffd \ufffe \uffff \U0010ffff \U000e0001 \ue000",
    "caf\u00c3\u00a9 na\u00c3\u00afve \u00e2\u20ac\u0153quoted\u00e2\u20ac\u009d",
    "\u00ef\u00bf\u00bd \u00c2\u00a0 \u00f0\u0178\u02dc\u20ac",
    "&amp; &lt; &gt; &quot; &#39; &nbsp; &copy; &eacute;",
    "&amp;amp;amp;amp; &amp;#38; &amp;#x26;lt;",
    "&#0; &#1; &#x80; &#xD800; &#x110000; &#99999999999; &#x1F600;",
    "&notanentity; &amp &ampx &lt3 &;",
    "&shy;&zwj;&zwnj;&ensp;&Tab;&NewLine;",
    "<b>bold</b> <!-- comment --> &lt;i&gt;",
    "\\u0041 %20 \\n \\x00 {}[]()",
    "https://example.org/?a=1&b=2#c user@example.org",
    "snake_case CamelCase kebab-case",
    "\u2026\u2014\u2013\u2018\u2019\u201c\u201d\u00ab\u00bb",
    "a" * 300,
    "ab" * 5000,
    "\u00e9" * 200,
    "\U0001f600" * 60,
    "a " * 75,
    "a " * 76,
    "a " * 500,
    "! " * 80,
    "supercalifragilisticexpialidocious " * 20,
    "\n\n\n a \t photo \r\n of \x0b a \x0c cat \n\n",
]

CAPTION = """
a an the photo picture of cat dog red car on in with snow bright blurry man's woman's can't it's they're
drawing sculpture 2nd 1990s New York café naïve fiancée jalapeño São Zürich
"""
WORDS = CAPTION.split()
SPECIALS = ["<start_of_text>", "<end_of_text>", "<Start_Of_Text>", "<\u017ftart_of_text>", "</w>"]
SPACES = [*" \t\n\x0b\x1c\x85\xa0\u2003\u2028\u3000\u200b", "  ", "\r\n", ""]
BLOCKS = [  # first and last code point of scripts, symbols, marks and numbers
    (0x0020, 0x007E), (0x0000, 0x001F), (0x007F, 0x00A0), (0x00A1, 0x024F), (0x0250, 0x036F),
    (0x0370, 0x03FF), (0x0400, 0x052F), (0x0531, 0x05FF), (0x0600, 0x077F), (0x0900, 0x0DFF),
    (0x0E00, 0x0EFF), (0x1000, 0x11FF), (0x1200, 0x139F), (0x13A0, 0x13FF), (0x1AB0, 0x1AFF),
    (0x1C80, 0x1CBF), (0x1D00, 0x1FFF), (0x2000, 0x2BFF), (0x2C00, 0x2E7F), (0x3000, 0x30FF),
    (0x3400, 0x9FFF), (0xA640, 0xABFF), (0xAC00, 0xD7A3), (0xD800, 0xDFFF), (0xE000, 0xFFFF),
    (0x10000, 0x10FFF), (0x11000, 0x16FFF), (0x1D400, 0x1D7FF), (0x1E900, 0x1EFFF), (0x1F000, 0x1FAFF),
    (0x20000, 0x323AF), (0xE0000, 0xE01EF), (0x100000, 0x10FFFF),
]  # fmt: skip


def _from_block(rng: random.Random) -> str:
    low, high = rng.choice(BLOCKS)
    return "".join(chr(rng.randint(low, high)) for _ in range(rng.randint(1, 12)))


def _any_characters(rng: random.Random) -> str:
    return "".join(chr(rng.randrange(0x110000)) for _ in range(rng.randint(1, 8)))


def _entity(rng: random.Random) -> str:
    body = rng.choice(["amp", "lt", "gt", "quot", "nbsp", "eacute", "hearts", "notin", "bogus", ""])
    if rng.random() < 0.5:
        number = rng.choice([rng.randrange(300), rng.randrange(0x110000), rng.randrange(0xD800, 0xE000)])
        body = rng.choice([f"#{number}", f"#x{number:x}", f"#X{number:X}"])
    text = f"&{body}" + rng.choice([";", ";", ";", ""])
    return text.replace("&", "&amp;") if rng.random() < 0.3 else text


def _mojibake(rng: random.Random) -> str:
    text = rng.choice(
        [
            "\u201cna\u00efve\u201d",
            "caf\u00e9 \u2014 d\u00e9j\u00e0",
            "\U0001f600",
            "\u65e5\u672c",
            "M\u00fcnchen\u2026",
        ]
    )
    return text.encode("utf-8").decode(rng.choice(["latin-1", "cp1252", "cp437", "cp1251"]), errors="replace")


def _contraction(rng: random.Random) -> str:
    mark = rng.choice("''''\u2019\u2018\u02bc`\u00b4")
    ending = rng.choice(["s", "t", "re", "ve", "m", "ll", "d", "S", "RE", "\u017f", "x", "'"])
    return rng.choice(["it", "", "CAN", "we", "1", "!"]) + mark + ending


def _marks(rng: random.Random) -> str:
    return rng.choice("aeio\u0430\u0915\u05d0 ") + "".join(
        chr(rng.randint(0x300, 0x36F)) for _ in range(rng.randint(1, 6))
    )


def _emoji(rng: random.Random) -> str:
    people = [chr(rng.choice([0x1F468, 0x1F469, 0x1F467, 0x1F9D1])) for _ in range(rng.randint(1, 4))]
    flag = "".join(chr(rng.randint(0x1F1E6, 0x1F1FF)) for _ in range(2))
    skin = chr(rng.randint(0x1F600, 0x1F64F)) + chr(rng.randint(0x1F3FB, 0x1F3FF))
    return rng.choice(["\u200d".join(people), flag, skin, "\u2764\ufe0f", "5\ufe0f\u20e3"])


def _number(rng: random.Random) -> str:
    digits = rng.choice(
        [
            "0123456789",
            "\u0660\u0661\u0669",
            "\u0966\u096f",
            "\u2160\u216b\u2180",
            "\u00bc\u00be\u00b9",
            "\u3007\u3021\u96f6",
        ]
    )
    return "".join(rng.choice(digits + ".,") for _ in range(rng.randint(1, 8)))


def _letters(rng: random.Random) -> str:
    alphabet = rng.choice(
        ["abcdefghijklmnopqrstuvwxyz", "aAbB", "!?.,;:-", "etaoinshr", "\u00e9\u00e8\u0130\u0131\u017f\u212a"]
    )
    return "".join(rng.choice(alphabet) for _ in range(rng.choice([1, 3, 8, 8, 30])))


PIECES: list[Callable[[random.Random], str]] = [
    lambda rng: rng.choice(WORDS),
    lambda rng: " ".join(rng.choices(WORDS, k=rng.randint(3, 12))),
    lambda rng: rng.choice(WORDS).upper(),
    lambda rng: rng.choice(SPECIALS),
    lambda rng: rng.choice(NASTY)[:200],
    _from_block, _from_block, _any_characters,
    _entity, _mojibake, _contraction, _marks, _emoji, _number, _letters,
]  # fmt: skip


def varied_texts(count: int, seed: int) -> list[str]:
    """`count` texts of one to eight pieces, one in a hundred of them very long."""
    rng = random.Random(seed)
    texts = []
    for _ in range(count):
        pieces = [rng.choice(PIECES)(rng) + rng.choice(SPACES) for _ in range(rng.randint(1, 8))]
        texts.append("".join(pieces) * (rng.randint(20, 60) if rng.random() < 0.01 else 1))
    return texts


def every_character() -> list[str]:
    """Each of Unicode's 1,114,112 code points beside letters, twelve to a text."""
    characters = [chr(code) for code in range(0x110000)]
    return [" ".join(f"a{c}b" for c in characters[i : i + 12]) for i in range(0, len(characters), 12)]


@pytest.fixture(scope="module")
def reference() -> Any:
    import open_clip

    return open_clip.get_tokenizer("MobileCLIP-S2")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer()


def differing(tokenizer: Tokenizer, reference: str, texts: list[str], context_length: int = 77) -> list[str]:
    found = []
    for start in range(0, len(texts), 1000):
        batch = texts[start : start + 1000]
        ours = tokenizer(batch, context_length=context_length)
        theirs = reference(batch, context_length=context_length).numpy()
        found += [text for text, same in zip(batch, (ours == theirs).all(axis=1), strict=True) if not same]
    return found


def test_hand_written_texts_have_open_clips_ids(tokenizer: Tokenizer, reference: str) -> None:
    assert differing(tokenizer, reference, NASTY) == []
    assert differing(tokenizer, reference, NASTY, context_length=20_000) == []


def test_varied_texts_have_open_clips_ids(tokenizer: Tokenizer, reference: str) -> None:
    assert differing(tokenizer, reference, varied_texts(4000, seed=0)) == []


@pytest.mark.nightly
def test_100_000_varied_texts_have_open_clips_ids(tokenizer: Tokenizer, reference: str) -> None:
    texts = varied_texts(120_000, seed=1)
    assert len(set(texts)) > 100_000
    assert differing(tokenizer, reference, texts) == []


@pytest.mark.nightly
def test_every_unicode_character_has_open_clips_ids(tokenizer: Tokenizer, reference: str) -> None:
    assert differing(tokenizer, reference, every_character(), context_length=160) == []


@pytest.mark.parametrize("length", [2, 3, 5, 16])
def test_truncation_and_padding_at_any_length(tokenizer: Tokenizer, reference: str, length: int) -> None:
    texts = ["", "a", "a b", "a b c", "a b c d", "a b c d e", "supercalifragilistic", "!", *NASTY]
    assert differing(tokenizer, reference, texts, context_length=length) == []
    np.testing.assert_array_equal(Tokenizer(context_length=length)(texts), tokenizer(texts, context_length=length))


def test_form_of_the_ids(tokenizer: Tokenizer) -> None:
    one = tokenizer("a photo of a cat")
    assert one.dtype == np.int32 and one.shape == (1, 77)
    assert one[0, :8].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407, 0]
    assert (one[0, 7:] == tokenizer.pad_id).all()
    np.testing.assert_array_equal(tokenizer(("a photo of a cat",)), one)
    np.testing.assert_array_equal(tokenizer(np.array(["a photo of a cat"])), one)
    assert tokenizer([]).shape == (0, 77)
    assert (tokenizer.start_id, tokenizer.end_id, tokenizer.vocab_size) == (49406, 49407, 49408)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (None, "string or a list of strings, not NoneType"),
        (7, "not int"),
        (b"a cat", "not bytes"),
        ({"a cat": 1}, "not dict"),
        ({"a cat"}, "not set"),
        (["a cat", None], "number 1 is NoneType"),
        (["a cat", b"a dog"], "number 1 is bytes"),
        ([["a cat"]], "number 0 is list"),
        (np.zeros(2), "number 0 is float64"),
    ],
)
def test_what_is_not_text_is_refused(tokenizer: Tokenizer, texts: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        tokenizer(texts)


@pytest.mark.parametrize("length", [0, 1, -5, 7.5, "77", None])
def test_an_impossible_context_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="at least 2"):
        Tokenizer(context_length=length)


def test_decoding_gives_back_the_cleaned_words(tokenizer: Tokenizer, reference: str) -> None:
    texts = [
        "A photo of a CAT!",
        "",
        "it's 2 caf\u00e9s \U0001f600",
        "!? !! !",
        "\u65e5\u672c\u8a9e \ufb01",
        "</w> x",
    ]
    decoded = tokenizer.decode(tokenizer(texts))
    assert decoded[:3] == ["a photo of a cat !", "", "it 's 2 caf\u00e9s \U0001f600"]
    for text, ours in zip(texts, decoded, strict=True):
        assert ours == reference.decode(reference.encode(text)).strip()
    assert tokenizer.decode(tokenizer(texts[0])[0]) == decoded[0]
    assert tokenizer.decode([]) == ""
    assert tokenizer.decode([320, 2368, 0, 0]) == "a cat"
    assert tokenizer.decode([49406, 0, 256, 49407, 320]) == "!!"


def test_decoding_agrees_with_open_clip_on_any_ids(tokenizer: Tokenizer, reference: str) -> None:
    for row in np.random.default_rng(0).integers(1, 49406, size=(200, 30)).tolist():
        assert tokenizer.decode(row) == reference.decode(row).strip()


@pytest.mark.parametrize(
    ("ids", "error"),
    [([49408], ValueError), ([-1], ValueError), ([1.5], TypeError), ([[[1]]], ValueError), (5, ValueError)],
)
def test_ids_that_cannot_be_decoded_are_refused(tokenizer: Tokenizer, ids: Any, error: Any) -> None:
    with pytest.raises(error, match="Token ids must"):
        tokenizer.decode(ids)


def test_saving_and_loading(tokenizer: Tokenizer, tmp_path: Path) -> None:
    Tokenizer(context_length=32).save_pretrained(tmp_path / "new")
    loaded = Tokenizer.from_pretrained(tmp_path / "new")
    assert loaded.context_length == 32
    texts = NASTY + varied_texts(200, seed=2)
    np.testing.assert_array_equal(loaded(texts), tokenizer(texts, context_length=32))
    loaded.save_pretrained(str(tmp_path / "again"))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "new" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_the_saved_file_works_in_the_tokenizers_library_alone(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    alone = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    texts = [
        "A photo of a cat!",
        "it's  2 CAF\u00c9S,\nok? <end_of_text>",
        "",
        "dogs and cats " * 60,
        "\u65e5\u672c \U0001f600",
    ]
    np.testing.assert_array_equal([encoding.ids for encoding in alone.encode_batch(texts)], tokenizer(texts))
    assert alone.decode(alone.encode("A cat!").ids).strip().startswith("a cat !")


def test_every_spelling_of_a_variant_gives_the_tokenizer() -> None:
    for name in ("s2", "MobileCLIP2-S4", "apple/MobileCLIP-B-LT"):
        assert Tokenizer.from_pretrained(name)("a cat")[0, 2] == 2368


def _without_file(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def _cut_file(folder: Path) -> None:
    path = folder / "tokenizer.json"
    path.write_bytes(path.read_bytes()[:5000])


def _foreign_vocabulary(folder: Path) -> None:
    tokenizers.Tokenizer(tokenizers.models.BPE(vocab={"a": 0}, merges=[])).save(str(folder / "tokenizer.json"))


def _without_config(folder: Path) -> None:
    (folder / "tokenizer_config.json").unlink()


def _config_without_length(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<start_of_text>"}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_without_file, "holds no tokenizer.json"),
        (_cut_file, "not a readable tokenizer file"),
        (_foreign_vocabulary, "not the tokenizer of MobileCLIP"),
        (_without_config, "model_max_length"),
        (_config_without_length, "model_max_length"),
    ],
)
def test_a_damaged_folder_is_refused(tokenizer: Tokenizer, tmp_path: Path, damage: str, message: str) -> None:
    tokenizer.save_pretrained(tmp_path)
    damage(tmp_path)
    with pytest.raises(MobileClipError, match=message):
        Tokenizer.from_pretrained(tmp_path)


def test_a_name_that_is_nothing_is_refused() -> None:
    with pytest.raises(MobileClipError, match="no-such-thing"):
        Tokenizer.from_pretrained("no-such-thing")


def test_pickling(tokenizer: Tokenizer) -> None:
    copy = pickle.loads(pickle.dumps(tokenizer))
    np.testing.assert_array_equal(copy(NASTY), tokenizer(NASTY))


def test_importing_is_light() -> None:
    code = (
        "import sys; from mobileclip_keras.keras_models.inputs.tokenizer import Tokenizer; Tokenizer();"
        "heavy = {'tokenizers', 'ftfy', 'regex', 'keras', 'torch', 'tensorflow'};"
        "print(heavy & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
