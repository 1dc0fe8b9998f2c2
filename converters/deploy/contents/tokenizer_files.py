"""The tokenizer of a bundle: a tokenizer.json that cleans as far as it can say it, plain tables, and texts with ids."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ....keras_models.inputs import clip_bpe
from ....keras_models.inputs.tokenizer import Tokenizer
from .cleaning_rules import NOT_SAID, cleaning_rules
from .corpus import corpus

FOLDER = "tokenizer"
EXAMPLES = 20
"""How many of the texts that come out otherwise are listed."""


@dataclass(frozen=True)
class Difference:
    """What a library makes of the corpus with tokenizer.json."""

    texts: int
    """How many there are."""
    different: tuple[str, ...]
    """Those that come out with other ids."""

    def to_json(self) -> dict[str, Any]:
        """As bundle.json has it."""
        return {
            "texts": self.texts,
            "different": len(self.different),
            "examples": list(self.different[:EXAMPLES]),
            "not_said_by_its_rules": list(NOT_SAID),
        }


def write_tokenizer(folder: Path, tokenizer: Tokenizer) -> Difference:
    """Writes the files into a folder, and says what the library `tokenizers` makes of them."""
    folder.mkdir()
    pipeline = cleaning_pipeline(tokenizer.context_length)
    _write(folder / "tokenizer.json", json.loads(pipeline.to_str()))
    first = pipeline.id_to_token(tokenizer.pad_id)
    config = {
        "tokenizer_class": "CLIPTokenizerFast",
        "model_max_length": tokenizer.context_length,
        "bos_token": clip_bpe.START_TOKEN,
        "eos_token": clip_bpe.END_TOKEN,
        "unk_token": clip_bpe.END_TOKEN,
        "pad_token": first,
        "do_lower_case": True,
    }
    _write(folder / "tokenizer_config.json", config)
    _write(folder / "vocab.json", dict(sorted(pipeline.get_vocab().items(), key=lambda item: item[1])))
    merges = json.loads(pipeline.to_str())["model"]["merges"]
    lines = [pair if isinstance(pair, str) else " ".join(pair) for pair in merges]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    texts = corpus()
    ids = tokenizer(texts)
    rows = [{"text": text, "ids": _unpadded(row, tokenizer.end_id)} for text, row in zip(texts, ids, strict=True)]
    lines = [json.dumps(row, ensure_ascii=True) for row in rows]
    (folder / "corpus.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return compare(pipeline, texts, ids)


def cleaning_pipeline(context_length: int) -> Any:
    """CLIP's tokenizer for the library `tokenizers`, which cleans as far as rules can say it."""
    pipeline = clip_bpe.build_pipeline(context_length)
    pipeline.normalizer = cleaning_rules()
    return pipeline


def compare(pipeline: Any, texts: list[str], ids: "np.ndarray") -> Difference:
    """The texts of which a pipeline gives other ids, padding included."""
    found = pipeline.encode_batch(texts)
    wrong = [text for text, made, row in zip(texts, found, ids, strict=True) if made.ids != row.tolist()]
    return Difference(len(texts), tuple(wrong))


def _unpadded(row: "np.ndarray", end: int) -> list[int]:
    """The ids up to the last end token: what follows is padding."""
    ids = row.tolist()
    return ids[: len(ids) - ids[::-1].index(end)]


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
