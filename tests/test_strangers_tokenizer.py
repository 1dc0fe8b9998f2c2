"""A folder's tokenizer is MobileCLIP's own, however it is written, or it is refused."""

import copy
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mobileclip_keras.keras_models.errors import MobileClipError
from mobileclip_keras.keras_models.inputs.tokenizer import Tokenizer
from mobileclip_keras.keras_models.inputs.tokenizer_file import differences, saved_length

TEXTS = ["a photo of a cat", "it's <end_of_text> 2 dogs!", "naïve 日本"]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    Tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def content(written: Path) -> dict[str, Any]:
    return json.loads((written / "tokenizer.json").read_text())


def changed(content: dict[str, Any], change: Callable[..., Any]) -> Any:
    """A copy of a tokenizer, changed; the vocabulary and the merges are copied one level deep."""
    model = content["model"]
    rest = copy.deepcopy({**content, "model": {**model, "vocab": None, "merges": None}})
    rest["model"] |= {"vocab": dict(model["vocab"]), "merges": list(model["merges"])}
    return change(rest) or rest


def folder_with(written: Path, folder: Path, options: dict[str, Any], content: Any = None) -> Path:
    """A folder with a tokenizer whose options, and perhaps whose content, are others."""
    shutil.copytree(written, folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | options))
    if content is not None:
        (folder / "tokenizer.json").write_text(json.dumps(content))
    return folder


def swapped(content: Any) -> None:
    words = content["model"]["vocab"]
    words["cat</w>"], words["dog</w>"] = words["dog</w>"], words["cat</w>"]


def merges_swapped(content: Any) -> None:
    merges = content["model"]["merges"]
    merges[0], merges[1] = merges[1], merges[0]


def a_word_renamed(content: Any) -> None:
    words = content["model"]["vocab"]
    words["kitten"] = words.pop("cat</w>")


def at(*keys: Any, to: Any) -> Callable[..., None]:
    def change(content: Any) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = to

    return change


ADDED = {"id": 320, "content": "cat", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
OTHER: dict[str, tuple[Callable[..., Any], str]] = {
    "swapped words": (swapped, r"vocabulary differs in 2 of 49408 words, such as '(cat|dog)</w>'"),
    "a word renamed": (a_word_renamed, "vocabulary differs in 2 of 49408 words"),
    "no words": (at("model", "vocab", to={}), "vocabulary differs in 49408"),
    "no vocabulary": (at("model", "vocab", to=None), "vocabulary differs"),
    "no merges": (at("model", "merges", to=[]), "merges differ: it has 0"),
    "other merges": (merges_swapped, "merges differ"),
    "dropout": (at("model", "dropout", to=0.5), "model.dropout differs"),
    "byte fallback": (at("model", "byte_fallback", to=True), "model.byte_fallback differs"),
    "ignored merges": (at("model", "ignore_merges", to=True), "model.ignore_merges differs"),
    "suffix": (at("model", "end_of_word_suffix", to="@@"), "model.end_of_word_suffix differs"),
    "prefix": (at("model", "continuing_subword_prefix", to="##"), "model.continuing_subword_prefix differs"),
    "another model": (lambda content: {**content, "model": {**content["model"], "type": "WordPiece"}}, "model.type"),
    "no model": (lambda content: {"version": "1.0"}, "does not say 'model'"),
    "no lower case": (at("normalizer", to=None), "its normalizer differs"),
    "other words": (at("pre_tokenizer", to={"type": "Whitespace"}), "pre_tokenizer"),
    "another token": (lambda content: content["added_tokens"].append(ADDED), "its added_tokens differs"),
    "start token": (at("added_tokens", 0, "content", to="[CLS]"), "added_tokens"),
    "stripping": (at("added_tokens", 1, "lstrip", to=True), r"added_tokens\[1\].lstrip differs"),
    "no start and end": (at("post_processor", to=None), "post_processor differs"),
    "padding": (at("padding", "pad_id", to=49407), "padding.pad_id differs"),
    "padding on the left": (at("padding", "direction", to="Left"), "padding.direction differs"),
    "cut on the left": (at("truncation", "direction", to="Left"), "truncation.direction differs"),
    "unknown option": (at("model", "whatever", to=3), "has an option 'whatever' more"),
    "a list": (lambda content: [1], "does not say 'model'"),
}


@pytest.mark.parametrize("what", OTHER)
def test_another_tokenizer_differs_by_name(content: dict[str, Any], what: str) -> None:
    change, match = OTHER[what]
    assert re.search(match, "; ".join(differences(changed(content, change))))


def test_another_tokenizer_is_refused(written: Path, content: dict[str, Any], tmp_path: Path) -> None:
    folder = folder_with(written, tmp_path / "swapped", {}, changed(content, swapped))
    with pytest.raises(MobileClipError, match="vocabulary differs in 2") as error:
        Tokenizer.from_pretrained(folder)
    assert str(folder / "tokenizer.json") in str(error.value) and "passed as an argument" in str(error.value)


@pytest.mark.parametrize(
    "options",
    [
        {"model_max_length": 10**9},
        {"model_max_length": 1e30},
        {"model_max_length": 1},
        {"do_lower_case": False},
        {"bos_token": "[CLS]"},
        {"eos_token": {"content": "[SEP]"}},
    ],
)
def test_other_options_beside_it_are_refused(written: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    folder = folder_with(written, tmp_path / "folder", options)
    with pytest.raises(MobileClipError, match=next(iter(options))):
        saved_length(folder)


def as_older_libraries_write_it(content: Any) -> None:
    content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
    for newer in ("ignore_merges", "byte_fallback"):
        del content["model"][newer]


def as_transformers_writes_it(content: Any) -> None:
    content["truncation"] = content["padding"] = None
    content["model"] |= {"unk_token": "<end_of_text>", "continuing_subword_prefix": ""}
    content["post_processor"] = {
        "type": "RobertaProcessing",
        "sep": ["<end_of_text>", 49407],
        "cls": ["<start_of_text>", 49406],
        "trim_offsets": False,
        "add_prefix_space": False,
    }
    content["decoder"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}
    del content["pre_tokenizer"]["pretokenizers"][1]["use_regex"]
    content["added_tokens"].reverse()
    content["added_tokens"][0]["normalized"] = True


@pytest.mark.parametrize("change", [as_older_libraries_write_it, as_transformers_writes_it])
def test_the_same_tokenizer_written_in_another_way(
    written: Path, content: dict[str, Any], tmp_path: Path, change: Callable[..., Any]
) -> None:
    options = {"bos_token": {"content": "<start_of_text>", "__type": "AddedToken"}, "model_max_length": 32}
    folder = folder_with(written, tmp_path / "folder", options, changed(content, change))
    np.testing.assert_array_equal(Tokenizer.from_pretrained(folder)(TEXTS), Tokenizer(32)(TEXTS))
