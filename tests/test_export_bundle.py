"""Bundles of small towers: what lies in them, that they are proven, and that what is wrong is refused."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from typer.testing import CliRunner

from mobileclip_keras.converters.cli import app as cli
from mobileclip_keras.converters.cli.evaluated import check_request, open_model
from mobileclip_keras.converters.deploy import export as export_module
from mobileclip_keras.converters.deploy import jobs, processes
from mobileclip_keras.converters.deploy.contents.bundle import read_bundle
from mobileclip_keras.converters.deploy.contents.golden import read_golden
from mobileclip_keras.converters.deploy.export import Exported, export
from mobileclip_keras.converters.deploy.processes import in_own_process
from mobileclip_keras.converters.deploy.proofs import reference
from mobileclip_keras.converters.deploy.proofs.verify_bundle import verify_bundle
from mobileclip_keras.converters.deploy.request import DeployError, Request, make_request
from mobileclip_keras.converters.deploy.runtimes.lint import lint
from mobileclip_keras.converters.deploy.runtimes.operation import Operation, TensorInfo
from mobileclip_keras.keras_models.errors import MissingPackageError, MobileClipError
from mobileclip_keras.keras_models.inputs.preprocessing import ImagePreprocessor
from mobileclip_keras.keras_models.store.writing.own_files import sha256
from mobileclip_keras.verify.criteria import MAX_RATIO, RMS_RATIO
from mobileclip_keras.verify.evaluation.data.open_data import open_dataset
from mobileclip_keras.verify.evaluation.evaluate import evaluate

from .converted import write_converted
from .datasets import CLASSES, rows, write_webdataset
from .small import small_model, small_variant
from .small_verified import MCI, build, rows_of
from .small_verified import reference as small_reference

pytestmark = [
    pytest.mark.usefixtures("small_towers"),
    pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="every route goes through TensorFlow"),
]

VARIANT = "mobileclip_s0"
NIGHTLY = pytest.mark.nightly
"""A commit's run proves the same on less."""
ROOT = Path(__file__).parents[1]


def here(job: str, spec: dict[str, Any], backend: str) -> dict[str, Any]:
    """A job in this process, where the small towers are known."""
    return jobs.JOBS[job](json.loads(json.dumps(spec)))


@pytest.fixture(scope="module")
def small() -> Iterator[None]:
    """The variant is small, and PyTorch's towers are."""
    with small_variant(VARIANT), pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "reference_of_folder", lambda folder: small_reference(MCI))
        yield


@pytest.fixture(scope="module")
def folder(small: None, small_towers: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A converted folder that is verified. Not to be changed."""
    model = build(MCI, rows_of(MCI))
    model.variant = VARIANT
    place = tmp_path_factory.mktemp("converted") / "small-keras"
    return write_converted(model, place, VARIANT, ImagePreprocessor(64))


@pytest.fixture(scope="module")
def litert(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A bundle for LiteRT of two batches. Not to be changed."""
    out = tmp_path_factory.mktemp("bundles") / "litert"
    return export(str(folder), "litert", out=out, run_job=here, batch="1,4")


@pytest.fixture
def bundle(litert: Exported, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return Path(shutil.copytree(litert.folder, tmp_path / "bundle"))


def check_proof(done: Exported) -> None:
    judged = [check for check in done.checks if check.judged]
    assert judged and all(check.passed for check in judged)
    for check in judged:
        assert check.rounding.rms_ratio <= RMS_RATIO and check.rounding.max_ratio <= MAX_RATIO
    record = json.loads((done.folder / "verification.json").read_text())
    assert record["passed"] and len(record["checks"]) == len(done.checks)


def run_readme(folder: Path, language: str = "python") -> str:
    """Runs the program of a bundle's README as it stands there."""
    program = (folder / "README.md").read_text().split(f"```{language}\n")[1].split("```")[0]
    command = [sys.executable, "-c", program]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- What lies in a bundle ---


def test_a_bundle_says_what_it_is(litert: Exported) -> None:
    check_proof(litert)
    assert [check.batch for check in litert.checks] == [1, 4]
    about = read_bundle(litert.folder)
    assert about["format"] == 1 and about["runtime"] == "LiteRT" and about["model"]["variant"] == VARIANT
    assert about["towers"]["image"]["inputs"]["image"]["shape"] == ["batch", 64, 64, 3]
    assert about["towers"]["text"]["inputs"]["tokens"]["dtype"] == "int32"
    assert about["towers"]["image"]["signatures"] == {"batch_1": 1, "batch_4": 4}
    assert about["images"]["mean"] == [0, 0, 0] and about["images"]["image_size"] == 64
    assert about["texts"]["padding_id"] == 0 and about["texts"]["context_length"] == 77
    assert about["scores"]["logit_scale"] > 1
    assert "apple" in about["licence"]["name"] and "Apple" in (litert.folder / "LICENSE").read_text()
    present = {p.relative_to(litert.folder).as_posix() for p in litert.folder.rglob("*") if p.is_file()}
    assert present == {*about["files"], "bundle.json", "verification.json", "files.json"}


def test_batches_share_their_weights(litert: Exported) -> None:
    """A batch more adds what it computes, not its weights: the table alone is 3.2 MB."""
    assert (litert.folder / "text.tflite").stat().st_size < 4e6


def test_a_litert_file_names_its_inputs_and_says_what_it_is(litert: Exported) -> None:
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_litert.tools import flatbuffer_utils

    signatures = Interpreter(model_path=str(litert.folder / "image.tflite")).get_signature_list()
    assert signatures["batch_1"] == {"inputs": ["image"], "outputs": ["image_features"]}
    model = flatbuffer_utils.read_model(str(litert.folder / "image.tflite"))
    assert b"MobileCLIP" in (model.description if isinstance(model.description, bytes) else model.description.encode())
    about = next(entry for entry in model.metadata if entry.name in (b"mobileclip_keras", "mobileclip_keras"))
    content = json.loads(bytes(model.buffers[about.buffer].data))
    assert content["input.image"] == "float32 (batch, 64, 64, 3)" and "apple-amlr" in content["license"]


def test_golden_outputs_are_those_of_pytorch(litert: Exported) -> None:
    inputs, truth, _ = read_golden(litert.folder / "golden")
    assert inputs.fixed.images.shape == (8, 64, 64, 3) and inputs.fixed.tokens.shape == (8, 77)
    expected = small_reference(MCI).encode_image(inputs.fixed.images)
    expected /= np.linalg.norm(expected, axis=-1, keepdims=True)
    assert truth.image is not None and np.abs(truth.image - expected).max() < 1e-12
    logits = np.fromfile(litert.folder / "golden" / "logits.bin", "<f8").reshape(8, 8)
    scale = litert.about["scores"]["logit_scale"]
    assert np.abs(logits - scale * truth.image @ truth.text.T).max() < 1e-9


def test_the_program_in_the_readme_runs(litert: Exported) -> None:
    printed = run_readme(litert.folder)
    assert printed.startswith("[[") and len(printed.split()) >= 4


def test_the_readme_has_no_gaps(litert: Exported) -> None:
    text = (litert.folder / "README.md").read_text()
    assert not any(gap in text for gap in ("$title", "${", "<given>", "<call>"))


# --- Proofs ---


def test_a_bundle_is_proven_again_by_itself(litert: Exported) -> None:
    proof = verify_bundle(litert.folder)
    assert proof.passed and [check.batch for check in proof.checks] == [1, 4]


def test_a_bundle_is_evaluated_in_its_own_runtime(litert: Exported, folder: Path, tmp_path: Path) -> None:
    data = open_dataset(str(write_webdataset(tmp_path / "data", rows(9))))
    encoders = [open_model(str(each), None) for each in (litert.folder, folder)]
    bundle, original = (evaluate(encoder, data, tmp_path / "work") for encoder in encoders)
    assert encoders[0].identity["kind"] == "bundle for LiteRT"
    assert bundle.figures == original.figures and bundle.images == 9


def test_what_of_a_bundle_is_not_evaluated(bundle: Path) -> None:
    (bundle / "text.tflite").write_bytes(b"")
    with pytest.raises(DeployError, match=r"is not as it was exported: text\.tflite"):
        open_model(str(bundle), None)
    for request, said in (
        (Request("litert", ("image",), (1,)), "holds one tower alone"),
        (
            Request("litert", ("image", "text"), (1,), preprocess=True, pixels=(48, 64)),
            "pictures of 48 x 64 pixels alone",
        ),
    ):
        with pytest.raises(DeployError, match=said):
            check_request(bundle, request)


@NIGHTLY
@pytest.mark.parametrize("options", [{"preprocess": True}, {"embed_outside": True}])
def test_other_bundles_are_evaluated_too(options: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    done = export(str(folder), "saved-model", out=tmp_path / "bundle", run_job=here, **options)
    bundle, original = (open_model(str(each), None) for each in (done.folder, folder))
    images = [image for image, _ in rows(5)]
    for kind in ("images", "texts"):
        found, expected = (
            each.encode_images([each.prepare(image) for image in images])
            if kind == "images"
            else each.encode_texts(CLASSES)
            for each in (bundle, original)
        )
        assert (found * expected).sum(axis=-1).min() > 1 - 1e-4


def test_a_wrong_tower_is_not_written(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mobileclip_keras.keras_models import kernels

    right = kernels.layer_norm
    monkeypatch.setattr(kernels, "layer_norm", lambda x, g, b, epsilon: right(x, g, b, 10 * epsilon))
    with pytest.raises(DeployError, match="do not compute what PyTorch computes"):
        export(str(folder), "litert", out=tmp_path / "out", run_job=here, towers="text")
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
def test_a_bundle_that_was_changed_is_refused(bundle: Path, change: Any, said: str) -> None:
    change(bundle)
    with pytest.raises(MobileClipError, match=said):
        verify_bundle(bundle)


def test_a_bundle_that_computes_something_else_fails(bundle: Path) -> None:
    """Also where every record of it was made anew."""
    golden = bundle / "golden" / "image_features.bin"
    features = np.fromfile(golden).reshape(8, -1)
    np.roll(features, 1, axis=0).tofile(golden)
    about, proof = (json.loads((bundle / name).read_text()) for name in ("bundle.json", "verification.json"))
    about["files"]["golden/image_features.bin"] = sha256(golden)
    (bundle / "bundle.json").write_text(json.dumps(about))
    proof["files_sha256"]["bundle.json"] = sha256(bundle / "bundle.json")
    (bundle / "verification.json").write_text(json.dumps(proof))
    assert not verify_bundle(bundle).passed
    assert "differs from the golden outputs" in run("verify", bundle, status=1)[0]


def test_golden_files_of_strangers_stay_inside(bundle: Path) -> None:
    path = bundle / "golden" / "golden.json"
    about = json.loads(path.read_text())
    about["arrays"]["image"]["file"] = "../../secret"
    path.write_text(json.dumps(about))
    (bundle.parent / "secret").write_bytes(b"1234")
    with pytest.raises(MobileClipError, match="secret"):
        read_golden(bundle / "golden")
    about["arrays"]["image"] = {"file": "image.bin", "shape": [-1], "dtype": "object"}
    path.write_text(json.dumps(about))
    with pytest.raises(DeployError, match=r"arrays\.image\.shape\[0\].*arrays\.image\.dtype"):
        read_golden(bundle / "golden")


def test_an_old_bundle_is_refused(bundle: Path) -> None:
    about = json.loads((bundle / "bundle.json").read_text())
    (bundle / "bundle.json").write_text(json.dumps({**about, "format": 0}))
    with pytest.raises(DeployError, match="has the format 0, and this version reads 1"):
        verify_bundle(bundle)


# --- The other runtimes ---


@pytest.mark.parametrize(
    "runtime", ["onnx", *(pytest.param(name, marks=NIGHTLY) for name in ("openvino", "saved-model"))]
)
def test_a_bundle_for_another_runtime(runtime: str, folder: Path, tmp_path: Path) -> None:
    done = export(str(folder), runtime, out=tmp_path / "out", run_job=here)
    check_proof(done)
    ways = [check.way for check in done.checks]
    assert ways == (["float32", "default"] if runtime == "openvino" else [""])
    assert verify_bundle(done.folder).passed
    assert run_readme(done.folder).startswith("[[")


def test_the_look_up_of_ids_outside(folder: Path, tmp_path: Path) -> None:
    done = export(str(folder), "litert", out=tmp_path / "out", run_job=here, towers="text", embed_outside=True)
    check_proof(done)
    assert set(done.about["towers"]) == {"text_lookup", "text"}
    assert done.about["towers"]["text"]["not_for_gpu_delegates"] == []
    assert "(1, 16)" in run_readme(done.folder) or "(2, 16)" in run_readme(done.folder)


@pytest.mark.nightly
@pytest.mark.parametrize(("runtime", "pixels"), [("litert", "96x120"), ("onnx", None)])
def test_preprocessing_inside_the_graph(runtime: str, pixels: str | None, folder: Path, tmp_path: Path) -> None:
    options = {"towers": "image", "preprocess": True, "pixels": pixels}
    done = export(str(folder), runtime, out=tmp_path / "out", run_job=here, **options)
    check_proof(done)
    distance = done.about["images"]["distance_from_pillow"]
    assert 0 <= distance["mean"] <= distance["maximum"] < 1e-6
    assert done.about["towers"]["image"]["inputs"]["pixels"]["dtype"] == "uint8"
    run_readme(done.folder)


@pytest.mark.nightly
@pytest.mark.parametrize("runtime", ["litert", "onnx"])
def test_float16_halves_a_file(runtime: str, folder: Path, litert: Exported, tmp_path: Path) -> None:
    done = export(str(folder), runtime, out=tmp_path / "out", run_job=here, quantize="fp16")
    check_half = [check for check in done.checks if check.judged]
    assert check_half and all(check.passed and check.cost.smallest_cosine > 0.999 for check in check_half)
    assert done.about["float16"]["image"]["kept_in_float32"] == []
    size = (done.folder / f"text{done.request.how.suffix}").stat().st_size
    assert size < 0.56 * (litert.folder / "text.tflite").stat().st_size


def test_layers_that_leave_the_range_of_float16_stay_float32(
    folder: Path, litert: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the numbers of every fc1 left it. Where they do is found by running the file."""
    from mobileclip_keras.converters.deploy.runtimes import litert as code
    from mobileclip_keras.converters.deploy.runtimes.lint import layer_of

    right = code.largest_activations

    def larger(path: Path, batches: list[Any]) -> dict[str, float]:
        found = right(path, batches)
        assert 0.01 < max(found.values()) < 1000
        return {name: 70_000.0 if layer_of(name).endswith("fc1") else value for name, value in found.items()}

    monkeypatch.setattr(code, "largest_activations", larger)
    done = export(
        str(folder), "litert", out=tmp_path / "out", run_job=here, towers="image", quantize="fp16", batch="1,2"
    )
    kept = done.about["float16"]["image"]["kept_in_float32"]
    assert kept and all(layer.endswith("fc1") for layer in kept)
    assert done.about["float16"]["image"]["largest_activation"] == 70_000
    plain, half_way = (f / "image.tflite" for f in (litert.folder, done.folder))
    weights = {kind: float32_weights(path) for kind, path in (("plain", plain), ("half", half_way))}
    assert 0 < weights["half"] < weights["plain"]


def float32_weights(path: Path) -> int:
    """How many constants of float32 the dense layers and convolutions of a file have."""
    from mobileclip_keras.converters.deploy.runtimes.litert import operations

    products = ("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D")
    made = {tensor.index for each in operations(path) for tensor in each.outputs}
    given = [each.inputs[1] for each in operations(path) if each.kind in products]
    return sum(tensor.dtype == "FLOAT32" and tensor.index not in made for tensor in given)


def test_a_variant_and_a_repository_stand_for_folders(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program's own copy of a variant was not compared with PyTorch before: the bundle's proof does that."""
    from mobileclip_keras.converters.deploy import sources

    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / "verification.json").write_text('{"passed": false}')
    monkeypatch.setattr(sources, "converted_folder", lambda variant: copy)
    monkeypatch.setattr(sources, "download_snapshot", {"user/small-keras": folder}.__getitem__)
    assert sources.find_source("s0", None).folder == copy
    found = sources.find_source("hf://user/small-keras", None)
    assert (found.folder, found.name, found.held) == (folder, "small-keras", ("image", "text"))


# --- What is refused ---


def test_an_unverified_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / "verification.json").write_text('{"passed": false}')
    refuse("is not verified", copy, tmp_path)
    (copy / "verification.json").unlink()
    refuse("is not verified", copy, tmp_path)


def test_half_precision_and_lone_inference_folders_are_refused(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    record = json.loads((copy / "conversion.json").read_text())
    (copy / "conversion.json").write_text(json.dumps({**record, "dtype": "float16"}))
    refuse("holds float16 weights", copy, tmp_path)
    (copy / "conversion.json").write_text(json.dumps(record))
    shutil.rmtree(copy / "train")
    refuse("holds the inference form alone", copy, tmp_path)


def test_changed_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    with open(copy / "model.weights.h5", "ab") as file:
        file.write(b"more")
    refuse("model.weights.h5 has changed", copy, tmp_path)


def refuse(said: str, folder: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(MobileClipError, match=said) as caught:
        export(str(folder), "litert", out=tmp_path / "out", run_job=here)
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


def test_a_runtime_that_is_not_installed(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mobileclip_keras.converters.deploy.runtimes import registry

    monkeypatch.setattr(registry, "find_spec", lambda name: None if name == "ai_edge_litert" else object())
    with pytest.raises(MissingPackageError, match=r"LiteRT needs ai-edge-litert.*mobileclip-keras\[litert\]"):
        export(str(folder), "litert", out=tmp_path / "out", run_job=here)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    def full(job: str, spec: dict[str, Any], backend: str) -> dict[str, Any]:
        Path(spec["candidates"][0]["out"], "image.tflite").write_bytes(b"some")
        raise OSError(28, "No space left on device")

    with pytest.raises(MobileClipError, match="no space left on device"):
        export(str(folder), "litert", out=tmp_path / "out", run_job=full)
    assert list(tmp_path.iterdir()) == []


def test_another_folder_is_not_replaced(litert: Exported, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    for force, said in ((False, "exists already"), (True, "is not a bundle")):
        with pytest.raises(MobileClipError, match=said):
            export(str(folder), "litert", out=tmp_path / "out", force=force, run_job=here)


# --- The lint ---


def test_image_towers_are_clean_for_gpu_delegates(litert: Exported) -> None:
    assert litert.about["towers"]["image"]["not_for_gpu_delegates"] == []


def test_the_lint_names_operation_and_layer(litert: Exported) -> None:
    from mobileclip_keras.converters.deploy.runtimes.litert import operations

    found = lint(operations(litert.folder / "text.tflite"))
    assert {finding.kind for finding in found} >= {"EMBEDDING_LOOKUP"}
    assert any("token_embedding" in finding.layer for finding in found)
    assert not {"ARG_MAX", "GATHER", "GATHER_ND", "BROADCAST_TO", "SELECT_V2"} & {finding.kind for finding in found}
    assert not any("dimensions" in finding.reason or "int64" in finding.reason for finding in found)


@pytest.mark.parametrize("tower", ["small_mci_layer", "small_vit", pytest.param("small_vit_clip", marks=NIGHTLY)])
def test_every_kind_of_image_tower_is_clean(tower: str, tmp_path: Path) -> None:
    """As are mci0, mci1 and mci2, of which the bundle above is."""
    from mobileclip_keras.converters.deploy.runtimes import litert, saved_model
    from mobileclip_keras.converters.deploy.runtimes.parts import parts_of

    request = make_request("litert", ("image",))
    model = small_model(tower, None, form="inference")
    (part,) = parts_of(model, request, None)
    saved_model.save(part, request.batches, tmp_path / "saved")
    litert.write(tmp_path / "saved", tmp_path / "image.tflite", request.batches)
    assert [finding.to_json() for finding in lint(litert.operations(tmp_path / "image.tflite"))] == []


@pytest.mark.parametrize(
    ("kind", "shapes", "said"),
    [
        ("RESHAPE", [((1, 2, 3, 4, 5), "FLOAT32")], "5 dimensions"),
        ("CAST", [((1, 77), "INT64")], "int64"),
        ("GATHER_ND", [((1, 77), "FLOAT32")], "no GPU delegate"),
        ("ADD", [((1, 77), "INT32")], "int32"),
        ("ADD", [((1, 77), "FLOAT32")], None),
    ],
)
def test_the_rules_of_the_lint(kind: str, shapes: Any, said: str | None) -> None:
    tensors = tuple(TensorInfo(0, *shape) for shape in shapes)
    found = lint(
        [Operation(kind, "image_encoder_3/backbone_1/stages_0_1/blocks_1/mlp_1/fc1_1/add;more", tensors, tensors)]
    )
    assert len(found) == (said is not None)
    for finding in found:
        assert said in finding.reason and finding.layer == "image_encoder/backbone/stages_0/blocks_1/mlp/fc1"


# --- The command line, and processes ---


def run(*arguments: Any, status: int = 0) -> tuple[str, str]:
    done = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    assert done.exit_code == status, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout, done.stderr


def test_the_commands(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_module, "export", partial(export, run_job=here))
    out = tmp_path / "out"
    said, _ = run("export", folder, "--to", "litert", "--towers", "image", "--out", out)
    assert f"Wrote {out} (" in said.replace("\n", "") and "proven)." in said
    said, _ = run("verify", out, "--json")
    facts = json.loads(said)
    assert facts["passed"] and facts["checks"][0]["rms_ratio"] <= RMS_RATIO
    assert "(1, 16)" in run_readme(out) or "(2, 16)" in run_readme(out)
    _, error = run("export", folder, "--to", "litert", "--out", out, status=1)
    assert error.startswith("Error: ") and "exists already" in error
    _, error = run("export", tmp_path / "nothing", "--to", "litert", status=1)
    assert error.startswith("Error: There is no ")
    _, error = run("verify", folder, status=1)
    assert "give the checkpoint that it comes from by --src" in error.replace("\n", " ")


def test_a_job_says_in_words_what_went_wrong(tmp_path: Path) -> None:
    with pytest.raises(DeployError, match="cannot be converted: KeyError"):
        in_own_process("nothing", {}, "tensorflow")


def test_a_process_that_is_killed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes.sys, "executable", shutil.which("false"))
    with pytest.raises(DeployError, match="ended with status 1"):
        in_own_process("nothing", {}, "tensorflow")


@pytest.mark.nightly
@pytest.mark.real
def test_s0_is_exported_by_processes_of_its_own(tmp_path: Path) -> None:
    """From another backend, as a user does it, with the checkpoint and without."""
    environment = {**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": str(ROOT)}

    def command(*arguments: Any) -> str:
        program = "from mobileclip_keras.converters.cli.app import main; main()"
        line = [sys.executable, "-c", program, *map(str, arguments)]
        done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    command("convert", "--src", "synthetic", "--variant", "s0", "--out", "s0-keras")
    for runtime in ("litert", "onnx", "openvino", "saved-model"):
        said = json.loads(command("export", "s0-keras", "--to", runtime, "--json"))
        assert all(check["passed"] for check in said["checks"] if check["judged"])
        assert json.loads(command("verify", f"s0-{runtime}", "--json"))["passed"]
    assert said["towers"].keys() == {"image", "text"}
