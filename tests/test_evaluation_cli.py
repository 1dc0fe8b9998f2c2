"""mobileclip-keras evaluate, on a folder with a small model; and the same model in CLIP_benchmark's own harness."""

import json
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import keras
import pytest
from typer.testing import CliRunner

import mobileclip_keras as mk
from mobileclip_keras.converters.cli import evaluated
from mobileclip_keras.converters.cli.app import app
from tests.datasets import CLASSES, TEMPLATES, rows, write_webdataset
from tests.small import small_model

pytestmark = pytest.mark.usefixtures("small_towers", "quickly_compiled")


@pytest.fixture(scope="module")
def model(small_towers: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and its preprocessing. Not to be changed."""
    folder = tmp_path_factory.mktemp("made") / "small"
    folder.mkdir()
    keras.saving.save_model(small_model(form="inference", variant="mobileclip_s0"), folder, zipped=False)
    mk.ImagePreprocessor(64).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of shapes. What an untrained one says of pictures ties to the last digit, which another order of
    sums turns round."""
    from mobileclip_keras.converters.conversion.convert import convert
    from mobileclip_keras.verify.shapes.checkpoint import write_checkpoint

    folder = tmp_path_factory.mktemp("trained")
    write_checkpoint(folder / "shapes.safetensors")
    return convert(folder / "shapes.safetensors", folder / "shapes", variant="shapes", verify=False).folder


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set in the current folder, under the name of one that Apple measured."""
    monkeypatch.setenv("MOBILECLIP_KERAS_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    write_webdataset(tmp_path / "wds_cifar10", rows(12))
    return Path("wds_cifar10")


def run(*arguments: str | Path, status: int = 0) -> str:
    result = CliRunner().invoke(app, ["evaluate", *map(str, arguments)])
    assert result.exit_code == status, result.output + str(result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.output if status else result.stdout


def measured(*arguments: str | Path) -> dict[str, Any]:
    return json.loads(run(*arguments, "--json"))


@pytest.mark.backend
def test_the_certificate_says_what_the_classifier_does(model: Path, data: Path) -> None:
    found = measured(model, "--data", data)
    classifier = mk.ZeroShotClassifier(
        mk.MobileClipModel.from_pretrained(model), CLASSES, [each.replace("{c}", "{}") for each in TEMPLATES],
        preprocessor=mk.ImagePreprocessor(64),
    )  # fmt: skip
    best = classifier.classify([image for image, _ in rows(12)], top_k=len(CLASSES))
    ranks = [
        [prediction.label for prediction in labels].index(CLASSES[int(target)])
        for labels, (_, target) in zip(best, rows(12), strict=True)
    ]
    assert found["figures"]["acc1"]["value"] == sum(rank < 1 for rank in ranks) / 12
    assert found["figures"]["acc5"]["value"] == sum(rank < 5 for rank in ranks) / 12
    assert found["model"]["weights_sha256"] == sha256((model / "model.weights.h5").read_bytes()).hexdigest()
    assert found["data"] | {"name": "wds_cifar10", "images": 12, "texts": 12, "templates": 2} == found["data"]
    assert found["published"]["value"] == 0.9318 and found["published"]["metric"] == "acc1"
    assert "12 images were measured, and Apple's figure is of 10,000." in found["published"]["says"]
    assert "The preprocessing is another than MobileCLIP-S0's: size 64 in place of 256." in found["differences"]
    assert evaluated.OWN_WEIGHTS in found["differences"]
    assert {"keras", "numpy", "python", "backend"} <= set(found["software"]) and found["device"]["name"]
    assert found["speed"]["images_per_second"] > 0 and 0 < found["speed"]["tower_share"] <= 1


def test_out_writes_json_and_markdown(model: Path, data: Path) -> None:
    said = run(model, "--data", data, "--templates", "single", "--out", "certificate.json", "--published", "none")
    assert "acc1" in said and "12 images, " in said and "images/s" in said
    content = json.loads(Path("certificate.json").read_text())
    assert content["published"] is None and content["data"]["templates_from"] == "single"
    text = Path("certificate.md").read_text()
    assert text.startswith("# mobileclip&#95;s0 on wds&#95;cifar10, test\n") or text.startswith("# mobileclip_s0")
    assert "| acc1 | " in text and content["data"]["fingerprint"] in text and content["model"]["weights_sha256"] in text
    again = run(model, "--data", data, "--out", "certificate.json", status=1)
    assert "certificate.json exists already" in again
    run(model, "--data", data, "--out", "certificate.json", "--force")


def test_captions_are_searched_both_ways(model: Path, data: Path) -> None:
    folder = write_webdataset(Path("texts"), rows(7, "retrieval"), "retrieval")
    figures = measured(model, "--data", folder)["figures"]
    assert set(figures) == {
        f"{kind}_recall@{k}" for kind in ("image_retrieval", "text_retrieval", "mean") for k in (1, 5, 10)
    }
    assert figures["text_retrieval_recall@10"]["value"] <= 1 == figures["image_retrieval_recall@10"]["value"]


def test_unreadable_images_end_the_command_with_their_names(model: Path, data: Path) -> None:
    broken = rows(3)
    broken[1] = (b"no image", 1)
    write_webdataset(Path("broken"), broken)
    said = run(model, "--data", "broken", "--out", "found.json", status=1)
    assert "test/0.tar, row 2 (s0000001)" in said and "1 images could not be read" in said
    assert json.loads(Path("found.json").read_text())["unreadable_images"] == 1


def test_what_cannot_be_done_is_said_in_one_sentence(model: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluated, "open_model", lambda *_: pytest.fail("before any work"))
    for arguments, message in (
        ((model, "--data", "nowhere"), "There is no folder nowhere"),
        ((model, "--data", data, "--split", "val"), "It has: test."),
        ((model, "--data", data, "--out", "found.txt"), "found.txt must end in .json"),
        ((model, "--data", data, "--published", "cats"), "Apple publishes no figure of 'cats'"),
        ((model, "--data", data, "--templates", "a photo"), "'a photo' is no template"),
    ):
        said = run(*arguments, status=1)
        assert said.startswith("Error: ") and message in said and "Traceback" not in said
    monkeypatch.undo()


def test_a_model_of_one_tower_is_refused(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "image"
    folder.mkdir()
    keras.saving.save_model(small_model(text=None, form="inference", variant="mobileclip_s0"), folder, zipped=False)
    assert "holds one tower alone" in run(folder, "--data", data, status=1)


HARNESS = """
import sys
from pathlib import Path
from unittest import mock
from tests.small import KNOWN_IMAGE_TOWERS, KNOWN_TEXT_TOWERS
from mobileclip_keras.keras_models.architectures import IMAGE_TOWERS, TEXT_TOWERS
IMAGE_TOWERS.update(KNOWN_IMAGE_TOWERS)
TEXT_TOWERS.update(KNOWN_TEXT_TOWERS)
from mobileclip_keras.verify.evaluation.clip_benchmark import main
main()
"""


@pytest.mark.torch
@pytest.mark.nightly
@pytest.mark.parametrize("kind", ["classification", "multilabel", "retrieval"])
def test_clip_benchmarks_harness_says_the_same(trained: Path, data: Path, kind: str, tmp_path: Path) -> None:
    """Its command line, its reader of shards and its metrics; our model by the plug-in."""
    pytest.importorskip("clip_benchmark")
    folder = write_webdataset(tmp_path / kind, rows(11, kind), kind, suffix="jpg")
    ours = measured(trained, "--data", folder)["figures"]
    task = "zeroshot_retrieval" if kind == "retrieval" else "zeroshot_classification"
    options = ["--model_type", "mobileclip_keras", "--model", trained, "--pretrained", "none", "--task", task]
    options += ["--dataset", f"wds/{kind}", "--dataset_root", folder, "--output", tmp_path / "theirs.json"]
    options += ["--no_amp", "--num_workers", "0", "--batch_size", "4", "--recall_k", "1", "5", "10"]
    done = subprocess.run(
        [sys.executable, "-c", HARNESS, "eval", *map(str, options)],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    theirs = json.loads((tmp_path / "theirs.json").read_text())["metrics"]
    assert theirs and {name: ours[name]["value"] for name in theirs} == pytest.approx(theirs, abs=1e-7)
