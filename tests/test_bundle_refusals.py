"""What cannot be exported is refused in one sentence, and leaves nothing."""

import json
import shutil
from pathlib import Path
from typing import Any

import keras
import pytest

from mobileclip_keras.converters.deploy.export import Exported, export
from mobileclip_keras.converters.deploy.request import DeployError, make_request
from mobileclip_keras.keras_models.errors import MissingPackageError, MobileClipError

from .bundle_support import here

pytestmark = [
    pytest.mark.usefixtures("small_bundles"),
    pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="every route goes through TensorFlow"),
]


def test_a_variant_and_a_repository_stand_for_folders(
    small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program's own copy of a variant was not compared with PyTorch before: the bundle's proof does that."""
    from mobileclip_keras.converters.deploy import sources

    copy = Path(shutil.copytree(small_folder, tmp_path / "copy"))
    (copy / "verification.json").write_text('{"passed": false}')
    monkeypatch.setattr(sources, "converted_folder", lambda variant: copy)
    monkeypatch.setattr(sources, "download_snapshot", {"user/small-keras": small_folder}.__getitem__)
    assert sources.find_source("s0", None).folder == copy
    found = sources.find_source("hf://user/small-keras", None)
    assert (found.folder, found.name, found.held) == (small_folder, "small-keras", ("image", "text"))


def test_an_unverified_folder_is_refused(small_folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(small_folder, tmp_path / "copy"))
    (copy / "verification.json").write_text('{"passed": false}')
    refuse("is not verified", copy, tmp_path)
    (copy / "verification.json").unlink()
    refuse("is not verified", copy, tmp_path)


def test_half_precision_and_lone_inference_folders_are_refused(small_folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(small_folder, tmp_path / "copy"))
    record = json.loads((copy / "conversion.json").read_text())
    (copy / "conversion.json").write_text(json.dumps({**record, "dtype": "float16"}))
    refuse("holds float16 weights", copy, tmp_path)
    (copy / "conversion.json").write_text(json.dumps(record))
    shutil.rmtree(copy / "train")
    refuse("holds the inference form alone", copy, tmp_path)


def test_changed_weights_are_refused(small_folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(small_folder, tmp_path / "copy"))
    with open(copy / "model.weights.h5", "ab") as file:
        file.write(b"more")
    refuse("model.weights.h5 has changed", copy, tmp_path)


def refuse(said: str, small_folder: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(MobileClipError, match=said) as caught:
        export(str(small_folder), "litert", out=tmp_path / "out", run_job=here)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("to", "options", "said"),
    [
        ("coreml", {}, "There is no runtime 'coreml'"),
        ("litert", {"batch": "0"}, "whole numbers from 1 to 1024"),
        ("litert", {"batch": "any"}, "batches of fixed sizes"),
        ("onnx", {"batch": "1,2"}, "takes one batch, or --batch any"),
        ("litert", {"towers": "audio"}, "--towers takes image, text or image,text"),
        ("litert", {"preprocess": True}, "takes images of one size"),
        ("litert", {"preprocess": True, "pixels": "0x5"}, "--pixels takes height x width"),
        ("onnx", {"pixels": "5x5"}, "Give both, or neither"),
        ("onnx", {"preprocess": True, "batch": "8"}, "one by one"),
        ("litert", {"towers": "image", "embed_outside": True}, "--embed-outside is about texts"),
    ],
)
def test_what_cannot_be_had_is_refused(to: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(DeployError, match=said):
        make_request(to, ("image", "text"), **options)


def test_a_tower_that_is_not_there_is_refused() -> None:
    with pytest.raises(DeployError, match="holds no text tower, only the image tower"):
        make_request("litert", ("image",), towers="text")


def test_a_runtime_that_is_not_installed(small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mobileclip_keras.converters.deploy.runtimes import registry

    monkeypatch.setattr(registry, "find_spec", lambda name: None if name == "ai_edge_litert" else object())
    with pytest.raises(MissingPackageError, match=r"LiteRT needs ai-edge-litert.*mobileclip-keras\[litert\]"):
        export(str(small_folder), "litert", out=tmp_path / "out", run_job=here)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing(small_folder: Path, tmp_path: Path) -> None:
    def full(job: str, spec: dict[str, Any], backend: str) -> dict[str, Any]:
        Path(spec["candidates"][0]["out"], "image.tflite").write_bytes(b"some")
        raise OSError(28, "No space left on device")

    with pytest.raises(MobileClipError, match="no space left on device"):
        export(str(small_folder), "litert", out=tmp_path / "out", run_job=full)
    assert list(tmp_path.iterdir()) == []


def test_another_folder_is_not_replaced(litert_bundle: Exported, small_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    for force, said in ((False, "exists already"), (True, "is not a bundle")):
        with pytest.raises(MobileClipError, match=said):
            export(str(small_folder), "litert", out=tmp_path / "out", force=force, run_job=here)
