"""Whether the files of a tokenizer describe MobileCLIP's own. Another one gives other ids, and nothing would show it.

The library `tokenizers` writes the same tokenizer in several ways, and so does transformers. All of them are known
here. What is right is never used: the package has its own copy of the vocabulary.
"""

import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import MobileClipError
from ..store.foreign.json_fields import fields, flag, nullable, problems, text, whole
from ..store.foreign.json_file import JsonError, Limits, read_json
from . import clip_bpe

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"

LONGEST_CONTEXT = 4096
"""Ids in a row that a file may ask for."""
# 49,408 words with their ids, and 48,894 merges of two pieces each.
LIMITS = Limits(size=8 << 20, items=400_000, text=2000)

_BYTE_LEVEL = {"type": "ByteLevel"}
_ROBERTA = {
    "type": "RobertaProcessing",
    "sep": [clip_bpe.END_TOKEN, clip_bpe.END_ID],
    "cls": [clip_bpe.START_TOKEN, clip_bpe.START_ID],
}
# Values that mean the same as the package's own, by their place; or that have no meaning there.
_ALSO: dict[str, Callable[[Any], bool]] = {
    "truncation": lambda value: value is None,
    "truncation.max_length": lambda value: True,
    "truncation.strategy": lambda value: True,
    "padding": lambda value: value is None,
    "padding.strategy": lambda value: True,
    "padding.pad_token": lambda value: True,
    "model.unk_token": lambda value: value == clip_bpe.END_TOKEN,
    "model.continuing_subword_prefix": lambda value: value == "",
    "post_processor": lambda value: _says(value, _ROBERTA),
    "decoder": lambda value: _says(value, _BYTE_LEVEL),
    "pre_tokenizer.pretokenizers[1].use_regex": lambda value: True,
    "pre_tokenizer.pretokenizers[1].trim_offsets": lambda value: True,
    "added_tokens[0].normalized": lambda value: True,
    "added_tokens[1].normalized": lambda value: True,
}
# Older versions of the library do not write these.
_NEWER = ("ignore_merges", "byte_fallback", "use_regex", "pad_to_multiple_of", "trim_offsets")

_OPTIONS = {
    "do_lower_case": flag,
    "tokenizer_class": nullable(text(200)),
}


def check_tokenizer_file(folder: Path) -> None:
    """Reads tokenizer.json and refuses it unless it is MobileCLIP's.

    Raises:
        MobileClipError: naming everything that differs.
    """
    path = folder / TOKENIZER_FILE
    try:
        content = read_json(path, LIMITS, folder)
    except FileNotFoundError as error:
        raise MobileClipError(f"No tokenizer in {folder}: it holds no {TOKENIZER_FILE}.") from error
    except (OSError, JsonError) as error:
        raise MobileClipError(f"{path} is not a readable tokenizer file: {error}") from error
    wrong = differences(content)
    if wrong:
        raise MobileClipError(
            f"{path} is not the tokenizer of MobileCLIP models: {'; '.join(wrong)}. "
            "A tokenizer of your own is passed as an argument (tokenizer=), not taken from a folder."
        )


def saved_length(folder: Path) -> int:
    """The length of a row of ids that tokenizer_config.json asks for.

    Raises:
        MobileClipError: where the file is missing or says something else than MobileCLIP's.
    """
    path = folder / CONFIG_FILE
    try:
        config = read_json(path, folder=folder)
    except (OSError, JsonError) as error:
        raise MobileClipError(f"{path} must say the tokenizer's model_max_length: {error}") from error
    wrong = problems(config, fields({"model_max_length": whole(2, LONGEST_CONTEXT)}, _OPTIONS))
    wrong = wrong or list(_other_options(config))
    if wrong:
        raise MobileClipError(f"{path} does not describe MobileCLIP's tokenizer: {'; '.join(wrong)}.")
    return int(config["model_max_length"])


def _other_options(config: dict[str, Any]) -> Iterator[str]:
    if config.get("do_lower_case") is False:
        yield "do_lower_case must be true"
    for name, token in (("bos_token", clip_bpe.START_TOKEN), ("eos_token", clip_bpe.END_TOKEN)):
        found = config.get(name, token)
        if isinstance(found, dict):  # transformers writes the token's flags beside it
            found = found.get("content")
        if found != token:
            yield f"{name} must be {token!r}"


def differences(content: Any) -> list[str]:
    """How a tokenizer differs from MobileCLIP's, in words; empty where it gives the same ids.

    Args:
        content: of tokenizer.json.
    """
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        return ["it does not say 'model'"]
    content = {**content, "model": dict(content["model"])}
    words, merges, options = _own()
    found = [
        *_other_words(content["model"].pop("vocab", None), words),
        *_other_merges(content["model"].pop("merges", None), merges),
    ]
    content.pop("version", None)
    if isinstance(content.get("added_tokens"), list):
        content["added_tokens"] = sorted(content["added_tokens"], key=lambda token: str(_get(token, "id")))
    return found + list(_other(content, options, ""))


@cache
def _own() -> tuple[dict[str, int], list[list[str]], dict[str, Any]]:
    """The vocabulary, the merges and all else of MobileCLIP's tokenizer."""
    content = json.loads(clip_bpe.build_pipeline(77).to_str())
    del content["version"]
    return content["model"].pop("vocab"), content["model"].pop("merges"), content


def _other_words(found: Any, expected: dict[str, int]) -> Iterator[str]:
    if not isinstance(found, dict):
        yield "its vocabulary differs: it has none"
    elif found != expected:
        other = [word for word in expected if found.get(word) != expected[word]]
        other += [word for word in found if word not in expected]
        yield f"its vocabulary differs in {len(other)} of {len(expected)} words, such as {other[0][:40]!r}"


def _other_merges(found: Any, expected: list[list[str]]) -> Iterator[str]:
    if not isinstance(found, list):
        yield "its merges differ: it has none"
        return
    merges = [each.split(" ") if isinstance(each, str) else each for each in found]
    if merges != expected:
        yield f"its merges differ: it has {len(merges)}, not the same {len(expected)}"


def _other(found: Any, expected: Any, name: str) -> Iterator[str]:
    """The options that differ, by their place in the file."""
    if found == expected and type(found) is type(expected):
        return
    if name in _ALSO and _ALSO[name](found):
        return
    if isinstance(expected, dict) and isinstance(found, dict):
        for key, value in expected.items():
            below = f"{name}.{key}" if name else key
            if key in found:
                yield from _other(found[key], value, below)
            elif key not in _NEWER:
                yield f"it does not say {below!r}"
        yield from (f"it has an option {key[:40]!r} more" for key in found if key not in expected and found[key])
    elif isinstance(expected, list) and isinstance(found, list) and len(found) == len(expected):
        for index, value in enumerate(expected):
            yield from _other(found[index], value, f"{name}[{index}]")
    else:
        yield f"its {name} differs"


def _says(value: Any, needed: dict[str, Any]) -> bool:
    return isinstance(value, dict) and all(_get(value, key) == wanted for key, wanted in needed.items())


def _get(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, dict) else None
