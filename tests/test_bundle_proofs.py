"""Bundles are proven, refused where they were changed, and evaluated in their own runtime."""

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from mobileclip_keras.converters.cli.evaluated import check_request, open_model
from mobileclip_keras.converters.deploy.contents.golden import read_golden
from mobileclip_keras.converters.deploy.export import Exported, export
from mobileclip_keras.converters.deploy.proofs.verify_bundle import verify_bundle
from mobileclip_keras.converters.deploy.request import DeployError, Request
from mobileclip_keras.keras_models.errors import MobileClipError
from mobileclip_keras.keras_models.store.writing.own_files import sha256
from mobileclip_keras.verify.evaluation.data.open_data import open_dataset
from mobileclip_keras.verify.evaluation.evaluate import evaluate

from .bundle_support import here, run
from .datasets import CLASSES, rows, write_webdataset

pytestmark = [
    pytest.mark.usefixtures("small_bundles"),
    pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="every route goes through TensorFlow"),
]

NIGHTLY = pytest.mark.nightly


def test_a_bundle_is_proven_again_by_itself(litert_bundle: Exported) -> None:
    proof = verify_bundle(litert_bundle.folder)
    assert proof.passed and [check.batch for check in proof.checks] == [1, 4]


def test_a_bundle_is_evaluated_in_its_own_runtime(litert_bundle: Exported, small_folder: Path, tmp_path: Path) -> None:
    data = open_dataset(str(write_webdataset(tmp_path / "data", rows(9))))
    encoders = [open_model(str(each), None) for each in (litert_bundle.folder, small_folder)]
    bundle, original = (evaluate(encoder, data, tmp_path / "work") for encoder in encoders)
    assert encoders[0].identity["kind"] == "bundle for LiteRT"
    assert bundle.figures == original.figures and bundle.images == 9


def test_what_of_a_bundle_is_not_evaluated(bundle_copy: Path) -> None:
    (bundle_copy / "text.tflite").write_bytes(b"")
    with pytest.raises(DeployError, match=r"is not as it was exported: text\.tflite"):
        open_model(str(bundle_copy), None)
    for request, said in (
        (Request("litert", ("image",), (1,)), "holds one tower alone"),
        (
            Request("litert", ("image", "text"), (1,), preprocess=True, pixels=(48, 64)),
            "pictures of 48 x 64 pixels alone",
        ),
    ):
        with pytest.raises(DeployError, match=said):
            check_request(bundle_copy, request)


@NIGHTLY
@pytest.mark.parametrize("options", [{"preprocess": True}, {"embed_outside": True}])
def test_other_bundles_are_evaluated_too(options: dict[str, Any], small_folder: Path, tmp_path: Path) -> None:
    done = export(str(small_folder), "saved-model", out=tmp_path / "bundle", run_job=here, **options)
    bundle, original = (open_model(str(each), None) for each in (done.folder, small_folder))
    images = [image for image, _ in rows(5)]
    for kind in ("images", "texts"):
        found, expected = (
            each.encode_images([each.prepare(image) for image in images])
            if kind == "images"
            else each.encode_texts(CLASSES)
            for each in (bundle, original)
        )
        assert (found * expected).sum(axis=-1).min() > 1 - 1e-4


def test_a_wrong_tower_is_not_written(small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mobileclip_keras.keras_models import kernels

    right = kernels.layer_norm
    monkeypatch.setattr(kernels, "layer_norm", lambda x, g, b, epsilon: right(x, g, b, 10 * epsilon))
    with pytest.raises(DeployError, match="do not compute what PyTorch computes"):
        export(str(small_folder), "litert", out=tmp_path / "out", run_job=here, towers="text")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda path: (path / "image.tflite").write_bytes(b"other"), "image.tflite has changed"),
        (lambda path: (path / "golden" / "image.bin").unlink(), "golden/image.bin is missing"),
        (lambda path: (path / "mine.txt").write_text("mine"), "mine.txt was added"),
        (lambda path: (path / "verification.json").write_text("{}"), "is not about this bundle.json"),
    ],
)
def test_a_bundle_that_was_changed_is_refused(bundle_copy: Path, change: Any, said: str) -> None:
    change(bundle_copy)
    with pytest.raises(MobileClipError, match=said):
        verify_bundle(bundle_copy)


def test_a_bundle_that_computes_something_else_fails(bundle_copy: Path) -> None:
    """Also where every record of it was made anew."""
    golden = bundle_copy / "golden" / "image_features.bin"
    features = np.fromfile(golden).reshape(8, -1)
    np.roll(features, 1, axis=0).tofile(golden)
    about, proof = (json.loads((bundle_copy / name).read_text()) for name in ("bundle.json", "verification.json"))
    about["files"]["golden/image_features.bin"] = sha256(golden)
    (bundle_copy / "bundle.json").write_text(json.dumps(about))
    proof["files_sha256"]["bundle.json"] = sha256(bundle_copy / "bundle.json")
    (bundle_copy / "verification.json").write_text(json.dumps(proof))
    assert not verify_bundle(bundle_copy).passed
    assert "differs from the golden outputs" in run("verify", bundle_copy, status=1)[0]


def test_golden_files_of_strangers_stay_inside(bundle_copy: Path) -> None:
    path = bundle_copy / "golden" / "golden.json"
    about = json.loads(path.read_text())
    about["arrays"]["image"]["file"] = "../../secret"
    path.write_text(json.dumps(about))
    (bundle_copy.parent / "secret").write_bytes(b"1234")
    with pytest.raises(MobileClipError, match="secret"):
        read_golden(bundle_copy / "golden")
    about["arrays"]["image"] = {"file": "image.bin", "shape": [-1], "dtype": "object"}
    path.write_text(json.dumps(about))
    with pytest.raises(DeployError, match=r"arrays\.image\.shape\[0\].*arrays\.image\.dtype"):
        read_golden(bundle_copy / "golden")


def test_an_old_bundle_is_refused(bundle_copy: Path) -> None:
    about = json.loads((bundle_copy / "bundle.json").read_text())
    for old in (0, 1):
        (bundle_copy / "bundle.json").write_text(json.dumps({**about, "format": old}))
        with pytest.raises(DeployError, match=f"has the format {old}, and this version reads 2: export"):
            verify_bundle(bundle_copy)
