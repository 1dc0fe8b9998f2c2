"""tokenizer.json of a bundle: which texts it gives the ids of `Tokenizer` for, and that the bundle names the others."""

import json
from collections.abc import Iterator
from html.entities import html5
from pathlib import Path
from typing import Any

import pytest

from mobileclip_keras.converters.deploy.contents import cleaning_rules
from mobileclip_keras.converters.deploy.contents.tokenizer_files import cleaning_pipeline, compare, write_tokenizer
from mobileclip_keras.keras_models.inputs.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def pipeline() -> Iterator[Any]:
    """What tokenizer.json holds."""
    yield cleaning_pipeline(77)


def different(pipeline: Any, texts: list[str]) -> list[str]:
    return list(compare(pipeline, texts, Tokenizer()(texts)).different)


def test_the_bundle_names_what_comes_out_otherwise(tmp_path: Path) -> None:
    about = write_tokenizer(tmp_path / "tokenizer", Tokenizer()).to_json()
    assert about["texts"] == 1000 and about["different"] == len(about["examples"]) <= 2
    assert about["not_said_by_its_rules"] == list(cleaning_rules.NOT_SAID)
    for text in about["examples"]:  # of the kinds that are named: mojibake, and a special token behind a symbol
        assert "ŒMOJIBAKE" in text or "🌈<start_of_text>" in text
    rows = [json.loads(line) for line in (tmp_path / "tokenizer" / "corpus.jsonl").read_text().splitlines()]
    assert len(rows) == 1000 and all(row["ids"][-1] == 49407 for row in rows)


def test_references_are_resolved(pipeline: Any) -> None:
    names = [name for name in html5 if name.strip(";") not in ("Acirc", "Atilde")]  # alone, they look like mojibake
    assert different(pipeline, [f"a &{name} b" for name in names[::9]]) == []
    numbers = ["&#39;", "&#039;", "&#x27;", "&#8217;", "&#X2019;", "&#38;#38;", "&#128512;", "&#x1f600", "&#146;"]
    shouted = ["&EURO;", "&EACUTE;", "&AMP;AMP;", "&Lt;B&Gt;", "&QUOT;", "&LE;"]
    none = ["&unknown;", "R&D", "&;", "?a=1&lang=en", "&notit;", "&#", "&#65;"]
    assert different(pipeline, [f"a {each} b" for each in (*numbers, *shouted, *none)]) == []


def test_letters_are_as_ftfy_leaves_them(pipeline: Any) -> None:
    texts = ["cafÃ© Â£5 donâ€™t â€œquotedâ€\x9d", "ÇA VÂ À LÃ"]
    texts += ["line\x85two\u2028three", "ΟΔΥΣΣΕΥΣ, ΣΑΣ. Σ", "ﬁne ĳs ｗｉｄｅ ﾊﾝｶｸ"]
    assert different(pipeline, texts) == []


def test_padding_is_zeros(pipeline: Any) -> None:
    assert pipeline.encode("a cat").ids[:6] == [49406, 320, 2368, 49407, 0, 0]
    assert pipeline.encode("!").ids[:4] == [49406, 256, 49407, 0]
    long = pipeline.encode("word " * 100).ids
    assert len(long) == 77 and long[-1] == 49407
