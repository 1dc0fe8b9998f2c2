"""Certificates on the model card: only of exactly the weights that are sent, and nothing else by their way."""

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub.repocard_data import model_index_to_eval_results
from typer.testing import CliRunner

from mobileclip_keras.converters.cli.app import app
from mobileclip_keras.converters.hub.certificates import read_certificates
from mobileclip_keras.converters.hub.model_card import validate_card
from mobileclip_keras.converters.hub.publish import PublishError, publish
from mobileclip_keras.converters.hub.records import write_card
from tests.converted import VARIANT
from tests.datasets import rows, write_webdataset
from tests.hub import Hub

pytestmark = [
    pytest.mark.usefixtures("small_towers"),
    # The client's own: it hands its upload's file to its HTTP library in a way that is going out of use.
    pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning"),
]
REPO = "user/model"
HASHES = {name: 32 * pair for name, pair in zip(
    ("config.json", "model.weights.h5", "preprocessor_config.json"), ("ab", "cd", "ef"), strict=True
)}  # fmt: skip
Change = Callable[[dict[str, Any]], Any]


def certificate(hashes: dict[str, str] = HASHES) -> dict[str, Any]:
    """As `evaluate` writes it, of a folder with such files."""
    return {
        "program": "mobileclip-keras evaluate",
        "format": 1,
        "date": "2026-11-26T22:00:00+00:00",
        "model": {
            "kind": "Keras", "name": "me/s0", "variant": VARIANT, "form": "inference",
            "weights_file": "model.weights.h5", "weights_sha256": hashes["model.weights.h5"],
            "files_sha256": dict(hashes),
        },
        "data": {
            "name": "clip-benchmark/wds_imagenet1k", "split": "test", "kind": "classification", "revision": "ab" * 20,
            "images": 50_000, "texts": 80_000, "templates": 80, "classes": 1000, "templates_from": "the data set",
            "fingerprint": "cd" * 32,
        },
        "figures": {"acc1": {"value": 0.715, "low": 0.711, "high": 0.719, "interval": "Wilson"}},
        "published": {"data_set": "imagenet1k", "value": 0.99, "agrees": True, "says": "Apple's figure is 99 %."},
        "differences": [],
        "unreadable_images": 0,
        "device": {"name": "Fast CPU"},
        "software": {"keras": "3.15.1"},
    }  # fmt: skip


def write(content: dict[str, Any], path: Path) -> Path:
    path.write_text(json.dumps(content))
    return path


def parts(card: str) -> tuple[dict[str, Any], str]:
    """The front matter and the text of a card."""
    validate_card(card)
    _, front, text = card.split("---\n", 2)
    return yaml.safe_load(front), text


def card(folder: Path, content: dict[str, Any], path: Path) -> tuple[dict[str, Any], str]:
    """The card of a folder with a certificate."""
    found, wrong = read_certificates([write(content, path)], HASHES, VARIANT)
    assert not wrong
    write_card(folder, REPO, found)
    return parts((folder / "README.md").read_text())


def refusal(*paths: Path) -> str:
    found, [reason] = read_certificates(paths, HASHES, VARIANT)
    assert len(found) < len(paths)
    return reason


def test_the_card_shows_the_figures_with_apples_from_this_package(publishable: Path, tmp_path: Path) -> None:
    front, text = card(publishable, certificate(), tmp_path / "found.json")
    name, [result] = model_index_to_eval_results(front["model-index"])
    assert name == "MobileCLIP2-S0" and (result.metric_type, result.metric_value) == ("acc1", 71.5)
    assert (result.dataset_name, result.dataset_split) == ("clip-benchmark/wds_imagenet1k", "test")
    assert result.dataset_revision == "ab" * 20 and result.task_type == "zero-shot-image-classification"
    assert "| acc1 | 71.50% | 71.10% to 71.90% | Wilson | 71.53% |" in text and "They agree" in text
    assert "99" not in text.split("## Evaluation")[1].split("## License")[0]


def test_a_card_without_figures_stays_as_it_was(publishable: Path) -> None:
    text = (publishable / "README.md").read_text()
    assert "model-index" not in text and "## Evaluation" not in text and "\n\n\n" not in text


def forged(*keys: str, to: Any) -> Change:
    def change(content: dict[str, Any]) -> None:
        part = content
        for key in keys[:-1]:
            part = part[key]
        part[keys[-1]] = to

    return change


def forged_weights(content: dict[str, Any]) -> None:
    content["model"]["weights_sha256"] = content["model"]["files_sha256"]["model.weights.h5"] = "ef" * 32


FORGERIES: dict[str, tuple[Change, str]] = {
    "other weights": (forged_weights, "it is about another model.weights.h5"),
    "another config": (
        forged("model", "files_sha256", "config.json", to="ef" * 32),
        "it is about another config.json",
    ),
    "no preprocessing": (
        lambda content: content["model"]["files_sha256"].pop("preprocessor_config.json"),
        "it does not say which preprocessor_config.json was measured",
    ),
    "a file that is not there": (
        forged("model", "files_sha256", "x\x1b.py", to="ef" * 32),
        "it is about another x\\x1b.py",
    ),
    "two hashes": (forged("model", "weights_sha256", to="ef" * 32), "it names two hashes of the weights"),
    "another variant": (forged("model", "variant", to="mobileclip_s2"), "it is about mobileclip_s2"),
    "a bundle": (forged("model", "kind", to="bundle for ONNX"), "model.kind must be 'Keras', not 'bundle for ONNX'"),
    "images left out": (forged("unreadable_images", to=3), "3 images of the data set are in no figure"),
    "no figure": (forged("figures", to={}), "it holds no figure"),
    "an unknown figure": (
        lambda content: content["figures"].update({"acc2": content["figures"]["acc1"]}),
        "acc2 is no figure that is known",
    ),
    "more than all": (
        forged("figures", "acc1", "value", to=1.5),
        "figures.acc1.value must be a number from 0 to 1, not 1.5",
    ),
    "outside its interval": (forged("figures", "acc1", "low", to=0.718), "acc1 does not lie in its interval"),
    "another format": (forged("format", to=2), "format must be a whole number from 1 to 1, not 2"),
    "another program": (forged("program", to="mine"), "program must be 'mobileclip-keras evaluate', not 'mine'"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_certificate_of_something_else_is_refused(tmp_path: Path, name: str) -> None:
    change, reason = FORGERIES[name]
    content = certificate()
    change(content)
    path = write(content, tmp_path / "found.json")
    assert refusal(path) == f"{path} is no certificate of this folder: {reason}"


def test_files_that_are_no_certificates(tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    assert refusal(path) == f"{path} cannot be read: No such file or directory"
    path.write_text('{"figures": NaN}')
    assert "is not JSON that can be used" in refusal(path)
    write(certificate(), path)
    assert refusal(path, path).endswith("it is about a data set that another one is about, too")


def test_what_a_stranger_writes_stays_text(publishable: Path, tmp_path: Path) -> None:
    content = certificate()
    content["data"] |= {"name": "/home/me/x\n---\nlicense: mit\n# <b>`$repo_id`", "split": "a|b", "revision": None}
    content["figures"]["acc1"]["interval"] = "x | y"
    content["software"] = {"<script>": "1"}
    front, text = card(publishable, content, tmp_path / "found.json")
    assert front["license"] == "apple-amlr" and front["model-index"][0]["results"][0]["dataset"]["split"] == "a|b"
    assert "/home/me" not in text and "/home/me" not in json.dumps(front)
    assert "<script>" not in text and "<b>" not in text and "| x &#124; y |" in text


def test_what_evaluate_writes_is_what_publish_takes(
    publishable: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: Hub
) -> None:
    monkeypatch.setenv("MOBILECLIP_KERAS_HOME", str(tmp_path / "own"))
    data, found = write_webdataset(tmp_path / "photos", rows(6)), tmp_path / "found.json"
    done = CliRunner().invoke(app, ["evaluate", str(publishable), "--data", str(data), "--out", str(found)])
    assert done.exit_code == 0, done.output
    content = json.loads(found.read_text())
    assert content["model"]["variant"] == VARIANT
    other = deepcopy(content)
    other["model"]["weights_sha256"] = other["model"]["files_sha256"]["model.weights.h5"] = "ef" * 32
    with pytest.raises(PublishError, match=r"it is about another model\.weights\.h5"):
        publish(publishable, REPO, evaluations=[write(other, tmp_path / "other.json")])
    assert not hub.repositories
    done = CliRunner().invoke(app, ["publish", str(publishable), "--repo", REPO, "--evaluation", str(found)])
    assert done.exit_code == 0, done.output
    repository = hub.repositories[REPO]
    entry = repository.entry(repository.resolve("main"), "README.md")
    front, text = parts(hub.blobs.path(entry.sha256).read_text())
    assert front["model-index"][0]["results"][0]["dataset"]["name"] == "photos" and "## Evaluation" in text
