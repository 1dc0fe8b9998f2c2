"""The tiny model that this project trained: converted, verified, loaded, written back, and as good as in PyTorch."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from typer.testing import CliRunner

import mobileclip_keras as mk
from mobileclip_keras.converters.checkpoints.source import SourceError, resolved
from mobileclip_keras.converters.cli.app import app
from mobileclip_keras.converters.conversion.convert import convert
from mobileclip_keras.converters.conversion.to_torch import to_torch
from mobileclip_keras.converters.hub.publish import find_problems
from mobileclip_keras.converters.hub.terms import OUR_OWN
from mobileclip_keras.keras_models.models.features import encode
from mobileclip_keras.verify.shapes.checkpoint import EMBEDDING, IDS, PACKED, REPORT, read_checkpoint, write_checkpoint
from mobileclip_keras.verify.shapes.samples import LABELS, example_pictures, save_grid
from mobileclip_keras.verify.shapes.task import Accuracy, Part, accuracy, parts
from mobileclip_keras.weight_maps.table import NONE, model_rows
from tests.converter_support import assert_same_bits
from tests.support import ROOT, error, nightly_on

# Backends compute the same towers as for every variant. What the tiny one needs of each is that it is found and loads.
on_each = pytest.mark.backend
on_one = nightly_on("jax", "torch")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The converted model, verified, in both forms. Not to be changed."""
    out = tmp_path_factory.mktemp("shapes") / "mobileclip_shapes-keras"
    with resolved("shapes", None) as checkpoint:
        done = convert(checkpoint, out)
    assert done.verification is not None and done.verification.passed
    assert done.variant.name == "mobileclip_shapes" and done.notes == ()
    return out


def in_keras(model: mk.MobileClipModel, asked: tuple[Part, ...]) -> Accuracy:
    """How well a Keras model does."""
    return accuracy(
        lambda images: encode(model, "image", images.astype(np.float32) / 255, 64),
        lambda texts: encode(model, "text", mk.Tokenizer()(texts), 128),
        asked,
    )


def in_torch(asked: tuple[Part, ...]) -> Accuracy:
    """How well PyTorch does with the same weights, in its own modules, loaded strictly."""
    from mobileclip_keras.verify.torch_models import build_reference

    reference = build_reference("mci_shapes", "mct_shapes", read_checkpoint(), "apple", dtype="float32")
    return accuracy(
        lambda images: reference.encode_image(images.astype(np.float32) / 255, 64),
        lambda texts: reference.encode_text(np.asarray(mk.Tokenizer()(texts), np.int64), 128),
        asked,
    )


def test_the_file_in_the_package_is_small_and_makes_a_whole_checkpoint() -> None:
    from safetensors.numpy import load_file

    assert PACKED.stat().st_size <= 8e6
    packed, whole = load_file(PACKED), read_checkpoint()
    rows = model_rows("mci_shapes", "mct_shapes", "apple", "train")
    assert {name: array.shape for name, array in whole.items()} == {
        row.source: row.source_shape for row in rows if row.source != NONE
    }
    ids, embedding = packed[IDS], whole[EMBEDDING]
    assert embedding.shape == (49408, 64) and {array.dtype for array in whole.values()} == {
        np.dtype("float32"),
        np.dtype("int64"),
    }
    assert (embedding[ids] == packed[EMBEDDING][1:]).all()
    others = np.delete(embedding, ids, axis=0)
    assert (others == packed[EMBEDDING][0]).all() and others.any()


def test_its_report_says_at_least_90_percent() -> None:
    report = json.loads(REPORT.read_text())
    assert report["accuracy"]["overall"] >= 0.9 and report["accuracy"]["pictures"] == 2000
    assert report["made"]["program"] == "examples/train_shapes.py" and (ROOT / report["made"]["program"]).exists()
    assert 0 < report["made"]["processor_minutes"] < 50, "25 minutes on two cores"


@on_one
@pytest.mark.torch
def test_plain_pytorch_loads_it(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    from mobileclip_keras.verify.torch_models.towers import MIXER_TOWERS, MobileTextTower

    write_checkpoint(tmp_path / "whole.safetensors")
    state = load_file(tmp_path / "whole.safetensors")
    text = {n.removeprefix("text_encoder."): t for n, t in state.items() if n.startswith("text_encoder.")}
    MobileTextTower(**MIXER_TOWERS["mct_shapes"]).load_state_dict(text, strict=True)


@on_one
@pytest.mark.torch
def test_converted_it_is_verified_and_labels_pictures_rightly(folder: Path, tmp_path: Path) -> None:
    model = mk.MobileClipModel.from_pretrained(folder)
    assert (model.variant, model.form) == ("mobileclip_shapes", "inference")
    pictures = example_pictures()
    classifier = mk.ZeroShotClassifier(model, LABELS, templates=["{}"])
    best = [found.label for (found,) in classifier.classify(pictures, top_k=1)]
    assert best == list(LABELS)
    save_grid(pictures, tmp_path / "grid.png")
    assert (tmp_path / "grid.png").stat().st_size > 1000


@on_one
@pytest.mark.torch
def test_it_does_as_well_as_in_pytorch(folder: Path) -> None:
    asked = parts(60, ("object", "texture"))
    found = in_keras(mk.MobileClipModel.from_pretrained(folder), asked)
    assert found == in_torch(asked) and found.overall > 0.8


@pytest.mark.nightly
@pytest.mark.torch
def test_it_does_as_well_as_its_report_says(folder: Path) -> None:
    model = mk.MobileClipModel.from_pretrained(folder)
    found = in_keras(model, parts())
    assert found == in_torch(parts()) == in_keras(mk.MobileClipModel.from_pretrained(folder, form="train"), parts())
    # Pillow and NumPy of other versions may draw a pixel otherwise.
    assert found.overall == pytest.approx(json.loads(REPORT.read_text())["accuracy"]["overall"], abs=0.005)
    assert found.interval[0] > 0.88 and found.overall >= 0.9


@pytest.mark.nightly
@pytest.mark.torch
def test_folded_it_computes_the_same(folder: Path) -> None:
    train, inference = (
        mk.MobileClipModel.from_pretrained(folder, form=form, dtype="float32") for form in ("train", "inference")
    )
    pixels = parts(8, ("object",))[0].images.astype(np.float32) / 255
    tokens = mk.Tokenizer()(list(LABELS))
    for kind, batch in (("image", pixels), ("text", tokens)):
        assert error(encode(inference, kind, batch, 8), encode(train, kind, batch, 8)) < 1e-4


@on_one
@pytest.mark.torch
@pytest.mark.parametrize("layout", ["apple", "timm"])
def test_it_is_written_back_bit_for_bit(folder: Path, tmp_path: Path, layout: str) -> None:
    from safetensors.numpy import load_file

    to_torch(folder, layout, tmp_path / "back.safetensors")
    back = load_file(tmp_path / "back.safetensors")
    if layout == "apple":
        assert_same_bits(back, read_checkpoint())
    else:
        from mobileclip_keras.verify.torch_models.towers import new_image_tower

        state = new_image_tower("mci_shapes").state_dict()
        assert {name: array.shape for name, array in back.items()} == {n: tuple(t.shape) for n, t in state.items()}


@pytest.mark.nightly
@pytest.mark.torch
def test_it_may_be_published_under_our_licence(folder: Path) -> None:
    assert (folder / "LICENSE").read_text(encoding="utf-8") == OUR_OWN.text
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "license: apache-2.0\n" in card and "not made by Apple" in card
    # On PyTorch, what is published was compiled too.
    assert keras.backend.backend() == "torch" or find_problems(folder) == []


@on_one
@pytest.mark.torch
def test_its_licence_cannot_be_swapped(folder: Path, tmp_path: Path) -> None:
    import shutil

    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / "LICENSE").write_text("Do what you like.")
    assert "its LICENSE is not this project's licence of the weights, word for word" in find_problems(copy)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a Hub that answers nobody."""
    monkeypatch.setenv("MOBILECLIP_KERAS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    return tmp_path / "home"


@on_each
@pytest.mark.parametrize("name", ["shapes", pytest.param("mobileclip_shapes", marks=pytest.mark.nightly)])
def test_by_name_it_comes_from_the_package(name: str, home: Path) -> None:
    model = mk.MobileClipModel.from_pretrained(name, form="train", towers="image", local_files_only=True)
    assert model.image_encoder.tower == "mci_shapes" and (home / "mobileclip_shapes-keras").is_dir()
    assert mk.ImagePreprocessor.from_pretrained(name).image_size == 64


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@on_one
def test_the_commands_know_it_by_name(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "converted"
    done = run("convert", "--variant", "shapes", "--out", out, "--no-verify")
    assert done.exit_code == 0 and "mobileclip_shapes" in done.output, done.output
    seen = run("inspect", "shapes", "--json")
    assert json.loads(seen.stdout)["variant"] == ["mobileclip_shapes"], seen.output
    example_pictures()[0].save(tmp_path / "picture.png")
    said = run("classify", tmp_path / "picture.png", "--labels", "red circles,blue stars", "--model", out, "--json")
    assert said.exit_code == 0, said.output
    assert json.loads(said.stdout)["results"][0]["predictions"][0]["label"] == "red circles"
    back = run("to-torch", out, "--layout", "apple", "--out", tmp_path / "back.safetensors")
    assert back.exit_code == 0, back.output


def test_other_variants_need_a_source() -> None:
    with (
        pytest.raises(SourceError, match=r"Say with --src .* Only shapes can be converted without"),
        resolved(None, "s2"),
    ):
        pass
    done = run("convert", "--variant", "s2")
    assert done.exit_code == 1 and "Only shapes" in " ".join(done.stderr.split())


def test_a_file_of_that_name_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("shapes").write_bytes(b"mine")
    with resolved("shapes", None) as path:
        assert path.read_bytes() == b"mine"


@pytest.mark.torch
@pytest.mark.nightly
def test_training_repeats_itself(tmp_path: Path) -> None:
    def made(name: str, *more: str) -> bytes:
        command = [sys.executable, str(ROOT / "examples" / "train_shapes.py"), "--out", str(tmp_path / name)]
        sizes = ("--alone", "1", "--together", "2", "--batch", "16", "--pictures", "32", "--asked", "2")
        subprocess.run([*command, *sizes, *more], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
        return (tmp_path / name / PACKED.name).read_bytes()

    assert made("one") == made("two") != made("three", "--seed", "1")


@pytest.mark.torch
@pytest.mark.nightly
def test_a_short_training_learns(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "examples" / "train_shapes.py"), "--out", str(tmp_path)]
    sizes = ("--alone", "50", "--together", "1", "--batch", "64", "--pictures", "1600", "--asked", "2")
    done = subprocess.run(
        [*command, *sizes], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    first, last = (float(loss) for loss in re.findall(r"Step (?:0|49) of 51: loss (\S+)", done.stdout))
    assert last < 0.7 * first, "the image tower reads easy pictures"
