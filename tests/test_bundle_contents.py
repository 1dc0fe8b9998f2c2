"""What lies in a bundle of small towers, and that it is what PyTorch computes."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest

from mobileclip_keras.converters.deploy.contents.bundle import FORMAT, describe, read_bundle
from mobileclip_keras.converters.deploy.contents.golden import read_golden
from mobileclip_keras.converters.deploy.contents.readme import render_readme
from mobileclip_keras.converters.deploy.export import Exported, export
from mobileclip_keras.converters.deploy.proofs.verify_bundle import verify_bundle
from mobileclip_keras.converters.hub.record_fields import FINE_TUNED
from mobileclip_keras.keras_models.registry import get_variant

from .bundle_support import VARIANT, check_proof, here, run_readme
from .small_verified import MCI
from .small_verified import reference as small_reference

pytestmark = [
    pytest.mark.usefixtures("small_bundles"),
    pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="every route goes through TensorFlow"),
]

NIGHTLY = pytest.mark.nightly


def test_a_bundle_says_what_it_is(litert_bundle: Exported) -> None:
    check_proof(litert_bundle)
    assert [check.batch for check in litert_bundle.checks] == [1, 4]
    about = read_bundle(litert_bundle.folder)
    assert about["format"] == FORMAT and about["runtime"] == "LiteRT" and about["model"]["variant"] == VARIANT
    assert about["towers"]["image"]["inputs"]["image"]["shape"] == ["batch", 64, 64, 3]
    assert about["towers"]["text"]["inputs"]["tokens"]["dtype"] == "int32"
    assert about["towers"]["image"]["signatures"] == {"batch_1": 1, "batch_4": 4}
    assert about["images"]["mean"] == [0, 0, 0] and about["images"]["image_size"] == 64
    assert about["texts"]["padding_id"] == 0 and about["texts"]["context_length"] == 77
    assert about["scores"]["logit_scale"] > 1
    assert "apple" in about["licence"]["name"] and "Apple" in (litert_bundle.folder / "LICENSE").read_text()
    present = {p.relative_to(litert_bundle.folder).as_posix() for p in litert_bundle.folder.rglob("*") if p.is_file()}
    assert present == {*about["files"], "bundle.json", "verification.json", "files.json"}


def test_batches_share_their_weights(litert_bundle: Exported) -> None:
    """A batch more adds what it computes, not its weights: the table alone is 3.2 MB."""
    assert (litert_bundle.folder / "text.tflite").stat().st_size < 4e6


def test_a_litert_file_names_its_inputs_and_says_what_it_is(litert_bundle: Exported) -> None:
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_litert.tools import flatbuffer_utils

    signatures = Interpreter(model_path=str(litert_bundle.folder / "image.tflite")).get_signature_list()
    assert signatures["batch_1"] == {"inputs": ["image"], "outputs": ["image_features"]}
    model = flatbuffer_utils.read_model(str(litert_bundle.folder / "image.tflite"))
    assert b"MobileCLIP" in (model.description if isinstance(model.description, bytes) else model.description.encode())
    about = next(entry for entry in model.metadata if entry.name in (b"mobileclip_keras", "mobileclip_keras"))
    assert not any(b";" in bytes(tensor.name) for graph in model.subgraphs for tensor in graph.tensors)
    content = json.loads(bytes(model.buffers[about.buffer].data))
    assert content["input.image"] == "float32 (batch, 64, 64, 3)" and "apple-amlr" in content["license"]


def test_golden_outputs_are_those_of_pytorch(litert_bundle: Exported) -> None:
    inputs, truth, _ = read_golden(litert_bundle.folder / "golden")
    assert inputs.fixed.images.shape == (8, 64, 64, 3) and inputs.fixed.tokens.shape == (8, 77)
    expected = small_reference(MCI).encode_image(inputs.fixed.images)
    expected /= np.linalg.norm(expected, axis=-1, keepdims=True)
    assert truth.image is not None and np.abs(truth.image - expected).max() < 1e-12
    logits = np.fromfile(litert_bundle.folder / "golden" / "logits.bin", "<f8").reshape(8, 8)
    scale = litert_bundle.about["scores"]["logit_scale"]
    assert np.abs(logits - scale * truth.image @ truth.text.T).max() < 1e-9


def test_the_program_in_the_readme_runs(litert_bundle: Exported) -> None:
    printed = run_readme(litert_bundle.folder)
    assert printed.startswith("[[") and len(printed.split()) >= 4


def test_the_readme_has_no_gaps(litert_bundle: Exported) -> None:
    text = (litert_bundle.folder / "README.md").read_text()
    assert not any(gap in text for gap in ("$title", "${", "<given>", "<call>"))


@pytest.mark.parametrize(
    "runtime", ["onnx", *(pytest.param(name, marks=NIGHTLY) for name in ("openvino", "saved-model"))]
)
def test_a_bundle_for_another_runtime(runtime: str, small_folder: Path, tmp_path: Path) -> None:
    done = export(str(small_folder), runtime, out=tmp_path / "out", run_job=here)
    check_proof(done)
    ways = [check.way for check in done.checks]
    assert ways == (["float32", "default"] if runtime == "openvino" else [""])
    assert verify_bundle(done.folder).passed
    assert run_readme(done.folder).startswith("[[")
    if runtime == "onnx":
        check_metadata_of_onnx(done.folder)


def check_metadata_of_onnx(folder: Path) -> None:
    """What is written behind the rest of a file is part of it, for onnx and for the runtime."""
    import onnx
    import onnxruntime

    path = str(folder / "image.onnx")
    onnx.checker.check_model(path)
    said = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).get_modelmeta().custom_metadata_map
    assert said["input.image"] == "float32 (batch, 64, 64, 3)" and "apple-amlr" in said["license"]
    assert said == {each.key: each.value for each in onnx.load(path).metadata_props}


def test_the_look_up_of_ids_outside(small_folder: Path, tmp_path: Path) -> None:
    done = export(str(small_folder), "litert", out=tmp_path / "out", run_job=here, towers="text", embed_outside=True)
    check_proof(done)
    assert set(done.about["towers"]) == {"text_lookup", "text"}
    assert done.about["towers"]["text"]["not_for_gpu_delegates"] == []
    assert "(1, 16)" in run_readme(done.folder) or "(2, 16)" in run_readme(done.folder)


@pytest.mark.nightly
@pytest.mark.parametrize(("runtime", "pixels"), [("litert", "96x120"), ("onnx", None)])
def test_preprocessing_inside_the_graph(runtime: str, pixels: str | None, small_folder: Path, tmp_path: Path) -> None:
    options = {"towers": "image", "preprocess": True, "pixels": pixels}
    done = export(str(small_folder), runtime, out=tmp_path / "out", run_job=here, **options)
    check_proof(done)
    distance = done.about["images"]["distance_from_pillow"]
    assert 0 <= distance["mean"] <= distance["maximum"] < 1e-6
    assert done.about["towers"]["image"]["inputs"]["pixels"]["dtype"] == "uint8"
    run_readme(done.folder)


def test_a_bundle_says_that_its_weights_were_fine_tuned(litert_bundle: Exported) -> None:
    before = {"file": "mobileclip_s0.pt", "sha256": "ab" * 32, "weights_sha256": "cd" * 32, "fine_tuned": False}
    record = {"from": before, "data": "ef", "pairs": 1200, "steps": 300, "alpha": 0.5}
    variant, request = get_variant(VARIANT), litert_bundle.request
    made = {"parts": litert_bundle.about["towers"], "embed_dim": 16, "logit_scale": 100.0, "logit_bias": None}
    conversion = {"weights_sha256": {}, "source": {}}
    plain = describe(request, variant, conversion, made, None, None)
    tuned = describe(request, variant, {**conversion, FINE_TUNED: record}, made, None, None)
    assert plain["model"]["title"] == "MobileCLIP-S0" and "fine_tuned" not in plain["model"]
    assert tuned["model"]["title"] == "MobileCLIP-S0, fine-tuned" and tuned["model"]["fine_tuned"] == record
    about = {**litert_bundle.about, "model": {**litert_bundle.about["model"], **tuned["model"]}}
    readme = render_readme(about, litert_bundle.checks)
    assert readme.startswith("# MobileCLIP-S0, fine-tuned for LiteRT")
    assert "300 steps on 1,200 pairs" in readme and "cd" * 32 in readme and "(WiSE-FT)" in readme
    assert "ine-tuned" not in (litert_bundle.folder / "README.md").read_text()
