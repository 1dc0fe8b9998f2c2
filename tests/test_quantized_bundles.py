"""Bundles of rounded weights: what is stored, what it costs, and that the bundle is held to what it states."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from typer.testing import CliRunner

from mobileclip_keras.converters.cli import app as cli
from mobileclip_keras.converters.deploy import jobs
from mobileclip_keras.converters.deploy.contents.bundle import read_bundle
from mobileclip_keras.converters.deploy.export import Exported, export
from mobileclip_keras.converters.deploy.half import store_rounded
from mobileclip_keras.converters.deploy.proofs import reference
from mobileclip_keras.converters.deploy.proofs.verify_bundle import verify_bundle
from mobileclip_keras.converters.deploy.quantize.calibration import find_calibration
from mobileclip_keras.converters.deploy.quantize.changing import changed, changes
from mobileclip_keras.converters.deploy.quantize.options import option
from mobileclip_keras.converters.deploy.quantize.recipes import PLANNED
from mobileclip_keras.converters.deploy.quantize.rounding import SMALLEST
from mobileclip_keras.converters.deploy.quantize.trial import SLOWER
from mobileclip_keras.converters.deploy.quantize.weights import weights_of
from mobileclip_keras.converters.deploy.request import DeployError, make_request
from mobileclip_keras.converters.deploy.runtimes.parts import parts_of
from mobileclip_keras.converters.deploy.runtimes.registry import open_tower
from mobileclip_keras.keras_models.errors import MobileClipError
from mobileclip_keras.keras_models.inputs.preprocessing import ImagePreprocessor
from mobileclip_keras.keras_models.store.writing.own_files import sha256
from mobileclip_keras.verify.data.inputs import PHOTOS

from .converted import write_converted
from .small import small_model, small_variant
from .small_verified import MCI, build, rows_of
from .small_verified import reference as small_reference
from .support import TOKENS
from .support import images as small_images

pytestmark = [
    pytest.mark.usefixtures("small_towers"),
    pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="every route goes through TensorFlow"),
]

VARIANT = "mobileclip_s0"
KIND = "heavy tails"
NIGHTLY = pytest.mark.nightly


def here(job: str, spec: dict[str, Any], backend: str) -> dict[str, Any]:
    """A job in this process, where the small towers are known."""
    return json.loads(json.dumps(jobs.JOBS[job](json.loads(json.dumps(spec)))))


@pytest.fixture(scope="module")
def heavy_folder(small_towers: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A converted folder of small towers whose weights have heavy tails. Not to be changed."""
    with small_variant(VARIANT), pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "reference_of_folder", lambda folder: small_reference(MCI, KIND))
        model = build(MCI, rows_of(MCI), KIND)
        model.variant = VARIANT
        place = tmp_path_factory.mktemp("converted") / "heavy-keras"
        yield write_converted(model, place, VARIANT, ImagePreprocessor(64))


@pytest.fixture(scope="module")
def int8(heavy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A LiteRT bundle of weights in 8 bits. Not to be changed."""
    out = tmp_path_factory.mktemp("bundles") / "int8"
    return export(str(heavy_folder), "litert", out=out, run_job=here, quantize="int8-weights")


def run(*arguments: Any, status: int = 0) -> tuple[str, str]:
    done = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    assert done.exit_code == status, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout, done.stderr


# --- What is stored ---


def stored_types(path: Path) -> set[str]:
    """Of what the operations with weights of a LiteRT file keep; for floats that are made of integers, of these."""
    from mobileclip_keras.converters.deploy.runtimes.litert import operations

    listed = list(operations(path))
    made = {each.outputs[0].index: each.inputs[0].dtype for each in listed if each.kind == "DEQUANTIZE"}
    products = ("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D", "EMBEDDING_LOOKUP")
    weights = [each.inputs[1] for each in listed if each.kind in products]
    return {made.get(each.index, each.dtype) for each in weights if np.prod(each.shape) >= SMALLEST}


@pytest.mark.parametrize("runtime", ["onnx", *(pytest.param(name, marks=NIGHTLY) for name in ("litert", "openvino"))])
def test_storing_loses_nothing(runtime: str, tmp_path: Path) -> None:
    """The file of rounded weights computes what the float file of the same numbers does, at a quarter of its size."""
    request = make_request(runtime, ("image", "text"), quantize="auto")
    model = small_model(form="inference")
    weights = weights_of(model)
    kinds = dict.fromkeys(("convolution", "depthwise", "dense", "embedding"), "int8")
    plan = {weight.name: kinds[weight.kind] for weight in weights}
    plan[weights[0].name] = "float16"
    options = {weight.name: {plan[weight.name]: option(weight, plan[weight.name], {})} for weight in weights}
    inputs = {"image": small_images(64, 2), "tokens": TOKENS[:2].astype(np.int32)}
    with changed(weights, changes(weights, options, plan)):
        for part in parts_of(model, request, None):
            (name,) = part.inputs
            path, batch = tmp_path / f"{part.name}{request.how.suffix}", (request.batches or (1,))[0]
            jobs.write_part(part, request, path)
            way = request.how.ways[0]
            before, given = size_of(path), {name: inputs[name][:batch]}
            features = [open_tower(runtime, path, batch, way)(given)[f"{part.name}_features"]]
            store_rounded(request.how, path, None)
            features.append(open_tower(runtime, path, batch, way)(given)[f"{part.name}_features"])
            assert np.abs(features[0] - features[1]).max() < 1e-5
            assert size_of(path) < {"image": 0.85, "text": 0.5}[part.name] * before  # rows of 16 have many scales
            assert [each.name for each in tmp_path.iterdir() if each.is_dir()] == []


def size_of(path: Path) -> int:
    """Of the weights. OpenVINO's graph stands in a file of its own, which is the larger one of so small a tower."""
    weights = path.with_suffix(".bin")
    return (weights if weights.exists() else path).stat().st_size


def test_the_bundle_says_what_rounding_cost(int8: Exported) -> None:
    certificate = read_bundle(int8.folder)["quantization"]
    assert certificate["recipe"] == "int8-weights" and certificate["budget"] is None
    assert certificate["stored"] == dict.fromkeys(("image", "text"), "int8-weights")
    assert certificate["measured_on"]["images"] == {"count": 16, "from": "the program"}
    assert [trial["recipe"] for trial in certificate["tried"]] == ["float32", "int8-weights"]
    plain, rounded = (trial["towers"] for trial in certificate["tried"])
    for tower in ("image", "text"):
        assert plain[tower]["size"] == plain[tower]["latency"] == 1 and plain[tower]["smallest_cosine"] > 0.999999
        assert rounded[tower]["bytes"] == (int8.folder / f"{tower}.tflite").stat().st_size
        assert rounded[tower]["size"] == pytest.approx(rounded[tower]["bytes"] / plain[tower]["bytes"])
        assert 0.9 < rounded[tower]["smallest_cosine"] < 0.99999 and 0 < rounded[tower]["agreement"] <= 1
        stored = stored_types(int8.folder / f"{tower}.tflite")
        assert stored == {"INT8"}
        measured = min(check.cosines[tower] for check in int8.checks)
        assert 1 - certificate["bound"][tower] == pytest.approx(1.5 * (1 - measured))
    assert rounded["text"]["size"] < 0.7
    assert (int8.folder / "quantization.png").read_bytes()[:4] == b"\x89PNG"
    readme = (int8.folder / "README.md").read_text()
    assert "| int8-weights | text |" in readme and "stored as int8-weights" in readme and "$" not in readme
    assert "float16" not in int8.about


# --- Proof ---


def test_a_bundle_is_held_to_its_own_bound(int8: Exported, tmp_path: Path) -> None:
    said, _ = run("verify", int8.folder)
    assert "holds rounded weights (int8-weights), whose features are within" in said.replace("\n", " ")
    assert "equal" not in said
    bundle = Path(shutil.copytree(int8.folder, tmp_path / "bundle"))
    about = json.loads((bundle / "bundle.json").read_text())
    about["quantization"]["bound"]["image"] = 0.9999999
    write_described(bundle, about)
    said, _ = run("verify", bundle, status=1)
    assert "features are further than the bundle states" in said.replace("\n", " ")
    about["quantization"]["bound"] = {"image": "much"}
    (bundle / "bundle.json").write_text(json.dumps(about))
    with pytest.raises(DeployError, match=r"quantization\.bound\.image must be a number"):
        verify_bundle(bundle)


def write_described(bundle: Path, about: dict[str, Any]) -> None:
    """Gives a bundle another description, and its proof the description's hash."""
    (bundle / "bundle.json").write_text(json.dumps(about))
    proof = json.loads((bundle / "verification.json").read_text())
    proof["files_sha256"]["bundle.json"] = sha256(bundle / "bundle.json")
    (bundle / "verification.json").write_text(json.dumps(proof))


def test_a_certificate_that_was_changed_is_refused(int8: Exported, tmp_path: Path) -> None:
    """Each number of it by its hash, and sizes also where the hash was made anew."""
    bundle = Path(shutil.copytree(int8.folder, tmp_path / "bundle"))
    about = json.loads((bundle / "bundle.json").read_text())
    towers = about["quantization"]["tried"][1]["towers"]
    towers["image"]["smallest_cosine"] = 1.0
    (bundle / "bundle.json").write_text(json.dumps(about))
    with pytest.raises(DeployError, match=r"verification\.json is not about this bundle\.json"):
        verify_bundle(bundle)
    size = towers["text"]["bytes"]
    towers["text"]["bytes"] = size - 1
    write_described(bundle, about)
    with pytest.raises(DeployError, match=f"its text tower takes {size} bytes, and bundle.json states {size - 1}"):
        verify_bundle(bundle)
    del towers["text"]
    write_described(bundle, about)
    with pytest.raises(DeployError, match=f"its text tower takes {size} bytes, and bundle.json states none"):
        verify_bundle(bundle)
    towers["text"] = {"bytes": "few"}
    write_described(bundle, about)
    with pytest.raises(DeployError, match=r"quantization\.tried\[1\]\.towers\.text\.bytes must be a whole number"):
        verify_bundle(bundle)


def test_the_picture_of_a_certificate_has_a_hash(int8: Exported, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(int8.folder, tmp_path / "bundle"))
    with (bundle / "quantization.png").open("ab") as picture:
        picture.write(b"0")
    with pytest.raises(DeployError, match=r"quantization\.png has changed"):
        verify_bundle(bundle)


# --- A recipe for each layer ---


@pytest.fixture(scope="module")
def auto(heavy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """What "auto" makes of pictures and texts of the user's, for a budget that the smallest recipe breaks."""
    place = tmp_path_factory.mktemp("auto")
    (place / "texts.txt").write_text("a cat\n\na dog\na rocket at night\n a cup of coffee \n", encoding="utf-8")
    return export(
        str(heavy_folder), "litert", out=place / "out", run_job=here, quantize="auto", budget=0.97, batch="1,4",
        calibrate=(PHOTOS, place / "texts.txt"),
    )  # fmt: skip


@NIGHTLY
def test_auto_takes_the_smallest_that_holds(auto: Exported) -> None:
    certificate = auto.about["quantization"]
    tried = {trial["recipe"]: trial["towers"] for trial in certificate["tried"]}
    assert list(tried) == ["float32", "fp16", "int8-weights", "int8", "int4-weights", *PLANNED]
    assert certificate["measured_on"] == {
        "images": {"count": 8, "from": "the user"},
        "texts": {"count": 4, "from": "the user"},
    }

    def holds(cost: Any) -> bool:
        return min(cost["smallest_cosine"], cost["agreement"]) >= 0.97 and cost["latency"] <= SLOWER

    for tower, name in certificate["stored"].items():
        kept = tried[name][tower]
        assert holds(kept) and kept["bytes"] == (auto.folder / f"{tower}.tflite").stat().st_size
        assert kept["bytes"] <= 1.01 * min(each[tower]["bytes"] for each in tried.values() if holds(each[tower]))
        layers = certificate["layers"].get(tower)
        assert (layers is not None) == (name in PLANNED)
        if layers:
            assert {each["precision"] for each in layers} <= {"int4", "int8", "float16", "float32"}
            assert sum(each["share_of_error"] for each in layers) == pytest.approx(1)
    assert verify_bundle(auto.folder).passed


@NIGHTLY
@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_other_runtimes_store_rounded_weights(runtime: str, heavy_folder: Path, tmp_path: Path) -> None:
    for recipe in ("fp16", "int8-weights", "auto"):
        done = export(str(heavy_folder), runtime, out=tmp_path / recipe, run_job=here, quantize=recipe)
        tried = done.about["quantization"]["tried"]
        assert tried[1]["towers"]["text"]["size"] < 0.56
        assert verify_bundle(done.folder).passed


# --- What is refused ---


@pytest.mark.parametrize(
    ("to", "options", "said"),
    [
        ("litert", {"quantize": "int3"}, "There is no recipe 'int3'"),
        ("saved-model", {"quantize": "int8"}, "A SavedModel has no recipe 'int8' here. Give --to litert"),
        ("saved-model", {"quantize": "fp16"}, "A SavedModel has no recipe 'fp16' here"),
        ("openvino", {"quantize": "int4-weights"}, "OpenVINO has no recipe 'int4-weights' here"),
        ("litert", {"quantize": "auto", "budget": 0.0}, "--budget takes a number above 0 and at most 1"),
        ("litert", {"quantize": "auto", "budget": 1.5}, "--budget takes a number above 0 and at most 1"),
        ("litert", {"quantize": "auto", "budget": float("nan")}, "--budget takes a number above 0 and at most 1"),
        ("litert", {"budget": 0.9}, "--budget is about rounded weights"),
        ("litert", {"calibrate": (Path("x"),)}, "--calibrate is about recipes that are measured"),
        ("litert", {"quantize": "fp16", "calibrate": (Path("x"),)}, "--calibrate is about recipes that are measured"),
    ],
)
def test_what_cannot_be_had_is_refused(to: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(DeployError, match=said):
        make_request(to, ("image", "text"), **options)


def test_texts_to_calibrate_with_are_read_as_labels_are(tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_bytes("\ufeffa dog\n\n  a cat \n".encode())
    assert find_calibration([path]).texts == ("a dog", "a cat")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("nothing", "There is no .*nothing to calibrate with"),
        ("empty", "empty holds no pictures to calibrate with"),
        ("blank.txt", r"blank\.txt holds no texts to calibrate with"),
        ("latin.txt", r"latin\.txt is not a text file in UTF-8"),
        ("broken.jpg", "broken.jpg"),
    ],
)
def test_calibration_that_is_none_is_refused(
    given: str, said: str, heavy_folder: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = tmp_path_factory.mktemp("given")
    (place / "empty").mkdir()
    (place / "empty" / "notes.md").write_text("no picture")
    (place / "blank.txt").write_text(" \n\n")
    (place / "latin.txt").write_bytes(b"caf\xe9")
    (place / "broken.jpg").write_bytes(b"no picture")
    with pytest.raises(MobileClipError, match=said) as caught:
        export(
            str(heavy_folder), "litert", out=tmp_path / "out", run_job=here, quantize="auto", calibrate=(place / given,)
        )
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == []


def test_the_command_takes_inputs_and_a_budget(heavy_folder: Path, tmp_path: Path) -> None:
    command = ("export", heavy_folder, "--to", "litert", "--quantize", "auto", "--out", tmp_path / "out")
    _, error = run(*command, "--calibrate", PHOTOS, "--calibrate", tmp_path / "none", status=1)
    assert error.replace("\n", " ").startswith("Error: There is no ") and "none to calibrate with" in error
    _, error = run(*command, "--budget", "2", status=1)
    assert error.replace("\n", " ").startswith("Error: --budget takes a number above 0 and at most 1")
    assert list(tmp_path.iterdir()) == []


def test_inputs_for_a_tower_that_is_left_out_are_refused(heavy_folder: Path, tmp_path: Path) -> None:
    options: Any = {"quantize": "auto", "towers": "text", "calibrate": (PHOTOS,)}
    with pytest.raises(DeployError, match="names pictures, and the image tower is not among --towers"):
        export(str(heavy_folder), "litert", out=tmp_path / "out", run_job=here, **options)
    assert list(tmp_path.iterdir()) == []


@NIGHTLY
def test_a_recipe_below_its_budget_leaves_nothing(heavy_folder: Path, tmp_path: Path) -> None:
    options: Any = {"quantize": "int4-weights", "towers": "text", "budget": 0.9999}
    with pytest.raises(DeployError, match=r"'int4-weights', the text tower's smallest cosine is .* below the budget"):
        export(str(heavy_folder), "litert", out=tmp_path / "out", run_job=here, **options)
    assert list(tmp_path.iterdir()) == []
