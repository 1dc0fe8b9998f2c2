"""Converting: what a folder holds, what is refused, and that nothing half-made is ever left."""

import json
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
import torch

from mobileclip_keras.converters.checkpoints.checkpoint import open_checkpoint
from mobileclip_keras.converters.checkpoints.identify import CheckpointFormat, WrongVariantError, identify
from mobileclip_keras.converters.conversion import convert as module
from mobileclip_keras.converters.conversion.build import build_model
from mobileclip_keras.converters.conversion.convert import Conversion, convert
from mobileclip_keras.converters.conversion.mapping import MappingError, load_into, read_from
from mobileclip_keras.keras_models.errors import MissingPackageError, MobileClipError
from mobileclip_keras.keras_models.models.model import MobileClipModel
from mobileclip_keras.keras_models.registry import get_variant
from mobileclip_keras.keras_models.store import weights_file
from mobileclip_keras.keras_models.store.load import load_folder
from mobileclip_keras.keras_models.store.variables import variables_by_name
from mobileclip_keras.keras_models.store.writing.output_errors import OutputError
from tests.converter_support import ROOT, S0, TIMM, arrays, left_in, python, write

FILES = {
    "config.json",
    "metadata.json",
    "model.weights.h5",
    "preprocessor_config.json",
    "conversion.json",
    "verification.json",
    "README.md",
    "LICENSE",
    "files.json",
}
TEXT_FILES = {"tokenizer.json", "tokenizer_config.json"}
HEAVY = next(name for name, shape in TIMM.shapes.items() if shape == (512, 1024))


@pytest.fixture(scope="module")
def image_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the smallest image tower."""
    return write(arrays(TIMM), tmp_path_factory.mktemp("files") / "mobileclip2_s0.safetensors")


@pytest.fixture(scope="module")
def s0_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(arrays(S0), tmp_path_factory.mktemp("files") / "weights.safetensors")


@pytest.fixture(scope="module")
def s0(s0_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Conversion:
    return convert(s0_file, tmp_path_factory.mktemp("out") / "new" / "folder", verify=False)


def changed(tmp_path: Path, **tensors) -> Any:
    return write({**arrays(TIMM), **tensors}, tmp_path / "mobileclip2_s0.pt")


def test_a_folder_holds_what_is_needed(s0: Conversion, s0_file: Path) -> None:
    assert left_in(s0.folder) == FILES | TEXT_FILES | {"train"}
    assert left_in(s0.folder / "train") == {"config.json", "metadata.json", "model.weights.h5"}
    assert left_in(s0.folder.parent) == {"folder"}
    assert s0.folder.stat().st_mode & 0o777 == 0o755
    record = json.loads((s0.folder / "conversion.json").read_text())
    assert record["source"] == {
        "file": "weights.safetensors",
        "sha256": sha256(s0_file.read_bytes()).hexdigest(),
        "layout": "apple",
        "form": "train",
        "dtype": "float32",
    }
    assert record["variant"] == "mobileclip_s0" and record["dtype"] == "float32" and record["notes"] == []
    assert set(record["weights_sha256"]) == {"inference", "train"}
    weights = (s0.folder / "model.weights.h5").read_bytes()
    assert record["weights_sha256"]["inference"] == sha256(weights).hexdigest()
    verification = json.loads((s0.folder / "verification.json").read_text())
    assert verification["passed"] is False and "not verified" in verification["why"]
    assert "apple-amlr" in (s0.folder / "README.md").read_text()


def test_every_tensor_arrives(s0: Conversion) -> None:
    model = load_folder(s0.folder, form="train")
    tensors = read_from(model, S0.rows)
    assert tensors.keys() == S0.shapes.keys()
    for name, array in arrays(S0).items():
        assert tensors[name].tobytes() == array.tobytes(), name


def test_keras_alone_opens_a_folder(s0: Conversion) -> None:
    model = keras.saving.load_model(s0.folder)
    assert model.form == "inference" and model.variant == "mobileclip_s0"


@pytest.mark.parametrize("form", ["inference", "train"])
def test_one_form_alone(image_file: Path, tmp_path: Path, form: str) -> None:
    done = convert(image_file, tmp_path / "out", form=form, verify=False)
    assert done.forms == (form,) and done.variant.name == "mobileclip2_s0"
    assert left_in(tmp_path / "out") == FILES  # an image tower needs no tokenizer
    model = load_folder(tmp_path / "out")
    assert model.form == form and model.text_encoder is None
    assert done.notes == ("the timm layout holds the image tower alone: there is no text tower",)


def float64_model(checkpoint_format: CheckpointFormat, variant: str, tensors: Path) -> Any:
    checkpoint = open_checkpoint(tensors)
    found = get_variant(variant)
    model = build_model(found, checkpoint_format, checkpoint_format.layout != "apple", "float64")
    load_into(model, checkpoint, checkpoint_format.rows)
    return model


def assert_is_folded(folder: Path, trained: MobileClipModel) -> None:
    """The folder holds the inference form of a model, whose weights were rounded once on the way."""
    expected = variables_by_name(trained.reparameterize())
    actual = variables_by_name(load_folder(folder))
    assert actual.keys() == expected.keys()
    for name, variable in expected.items():
        ours, theirs = (keras.ops.convert_to_numpy(v).astype(np.float64) for v in (actual[name], variable))
        assert np.abs(ours - theirs).max() <= 1e-6 * np.abs(theirs).max(), name


@pytest.mark.parametrize(
    ("checkpoint_format", "variant"), [pytest.param(TIMM, "2-s0", marks=pytest.mark.nightly), (S0, "s0")], ids=str
)
def test_a_folded_checkpoint_becomes_the_inference_form(
    tmp_path: Path, image_file: Path, s0_file: Path, checkpoint_format: CheckpointFormat, variant: str
) -> None:
    trained = float64_model(checkpoint_format, variant, image_file if checkpoint_format is TIMM else s0_file)
    folded = replace(checkpoint_format, form="reparameterized")
    assert len(folded.rows) < len(checkpoint_format.rows)
    path = write(read_from(trained.reparameterize("reparameterized"), folded.rows), tmp_path / f"{variant}.safetensors")
    done = convert(path, tmp_path / "out", verify=False)
    assert done.format == folded and done.forms == ("inference",)
    assert "reparameterised already" in done.notes[-1]
    assert_is_folded(tmp_path / "out", trained)
    with pytest.raises(MobileClipError, match="its branches are gone, so there is no train form to write"):
        convert(path, tmp_path / "none", form="train", verify=False)
    assert left_in(tmp_path) == {path.name, "out"}


@pytest.mark.nightly
def test_what_timm_folded_becomes_the_inference_form(tmp_path: Path, image_file: Path) -> None:
    import timm
    from timm.utils import reparameterize_model

    model = timm.create_model("fastvit_mci0", num_classes=512).double().eval()
    model.load_state_dict({name: torch.from_numpy(np.array(a)) for name, a in arrays(TIMM).items()}, strict=True)
    folded = reparameterize_model(model)
    torch.save(
        {name: t.float() if t.is_floating_point() else t for name, t in folded.state_dict().items()},
        tmp_path / "2-s0.pt",
    )
    assert convert(tmp_path / "2-s0.pt", tmp_path / "out", verify=False).format.form == "reparameterized"
    assert_is_folded(tmp_path / "out", float64_model(TIMM, "2-s0", image_file))


@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float64", marks=pytest.mark.nightly)])
def test_dtypes_of_files_and_folders(tmp_path: Path, dtype: str) -> None:
    half = {
        name: torch.from_numpy(np.array(array)).to(getattr(torch, dtype) if array.dtype.kind == "f" else torch.int64)
        for name, array in arrays(TIMM).items()
    }
    torch.save(half, tmp_path / "2-s0.pt")
    done = convert(tmp_path / "2-s0.pt", tmp_path / "wide", form="train", verify=False)
    assert done.notes[0] == f"weights are {dtype} in the file and float32 in the folder"
    kept = convert(tmp_path / "2-s0.pt", tmp_path / "kept", form="train", dtype="keep", verify=False)
    assert kept.dtype == dtype
    record = json.loads((tmp_path / "kept" / "conversion.json").read_text())
    assert record["dtype"] == record["source"]["dtype"] == dtype
    for folder, of in ((tmp_path / "wide", "float32"), (tmp_path / "kept", dtype)):
        model = load_folder(folder)
        assert model.image_encoder.projection.kernel.dtype == of
        tensors = read_from(model, TIMM.rows)
        for name, tensor in half.items():
            expected = tensor.float().numpy() if tensor.is_floating_point() else tensor.numpy()
            np.testing.assert_array_equal(tensors[name], expected, err_msg=name)


def test_numbers_that_half_precision_has_not(tmp_path: Path) -> None:
    array = np.array(arrays(TIMM)[HEAVY])
    array[3, 5] = 1e6
    with pytest.raises(MobileClipError, match=r"projection/kernel holds numbers too large for float16"):
        convert(changed(tmp_path, **{HEAVY: array}), tmp_path / "out", dtype="float16", form="train", verify=False)
    assert left_in(tmp_path) == {"mobileclip2_s0.pt"}


def test_values_that_cannot_be_used_are_told_all_at_once(tmp_path: Path) -> None:
    names = [name for name, shape in TIMM.shapes.items() if len(shape) == 4]
    counters = [name for name in TIMM.shapes if name.endswith("num_batches_tracked")]
    values = ((np.nan, "f4"), (-np.inf, "f4"), (1e300, "f8"), (7, "i4"), (7, "c8"))
    bad = {}
    for name, (value, dtype) in zip(names, values, strict=False):
        bad[name] = arrays(TIMM)[name].astype(dtype)
        bad[name].flat[5] = value
    path = changed(tmp_path, **bad, **{counters[0]: np.array(2**63 + 5, "u8"), counters[1]: np.array(3.5)})
    with pytest.raises(MappingError) as error:
        convert(path, tmp_path / "out", verify=False)
    lines = [line.strip() for line in str(error.value).splitlines()]
    for name in names[:3]:
        assert f"{name} 1 of {bad[name].size} numbers are NaN, infinite or too large" in lines
    assert f"{names[3]} holds int32, not floats" in lines
    assert f"{names[4]} holds complex64, not floats" in lines
    assert any(line.startswith(f"{counters[0]} {2**63 + 5} does not fit int") for line in lines)
    assert f"{counters[1]} holds 3.5, which is no whole number" in lines
    assert left_in(tmp_path) == {path.name}


def test_a_variant_that_it_is_not(s0_file: Path, tmp_path: Path) -> None:
    with pytest.raises(WrongVariantError, match="is mobileclip_s0 in the apple layout, not mobileclip_s2"):
        convert(s0_file, tmp_path / "out", variant="s2")
    assert left_in(tmp_path) == set()


@pytest.mark.parametrize("options", [{"form": "folded"}, {"dtype": "int8"}])
def test_options_that_there_are_not(image_file: Path, tmp_path: Path, options: dict[str, str]) -> None:
    with pytest.raises(MobileClipError, match="form is one of both, inference, train, dtype one of float32"):
        convert(image_file, tmp_path / "out", **options)


def refused(source: Path, target: Path, match: str, **options) -> None:
    with pytest.raises(OutputError, match=match):
        convert(source, target, verify=False, **options)


def test_targets_that_are_left_alone(image_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_work(*_, **__):
        raise AssertionError("the target is looked at before any work")

    monkeypatch.setattr(module, "build_model", no_work)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "config.json").write_text('{"model_type": "clip"}')
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("file", "folder", "empty", "link"):
        refused(image_file, tmp_path / name, "exists already. Choose another --out, or replace it with --force")
    refused(image_file, tmp_path / "file", "is not a folder, and is left alone", force=True)
    refused(image_file, tmp_path / "link", "is not a folder, and is left alone", force=True)
    refused(image_file, tmp_path / "dangling", "is not a folder, and is left alone", force=True)
    refused(image_file, tmp_path / "folder", "is not a converted model, and is left alone even", force=True)
    refused(image_file, tmp_path / "file" / "below", "file is not a folder that this user may write to")
    monkeypatch.setattr("os.access", lambda *_: False)
    refused(image_file, tmp_path / "new", "is not a folder that this user may write to")
    assert left_in(tmp_path) == {"file", "folder", "empty", "link", "dangling"}
    assert (tmp_path / "file").read_text() == "mine" and left_in(tmp_path / "folder") == {"config.json"}


def test_force_replaces_a_converted_folder_and_nothing_before_it_is_whole(
    image_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out"
    convert(image_file, target, form="inference", verify=False)

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_verification", fail)
        refused(image_file, target, "no space left on device. Nothing was left behind", force=True, form="train")
    assert load_folder(target).form == "inference" and left_in(tmp_path) == {"out"}
    (target / "extra").write_text("mine")
    refused(image_file, target, r"out holds what this program did not write \(extra\)", force=True, form="train")
    (target / "extra").unlink()
    convert(image_file, target, form="train", verify=False, force=True)
    assert left_in(target) == FILES and left_in(tmp_path) == {"out"}
    assert load_folder(target).form == "train"


def test_a_disk_without_room_is_told_before_weights_are_written(
    image_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HDF5 ends the process where it finds out by itself."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=40_000_000))
    monkeypatch.setattr(weights_file, "_write", None)
    target = tmp_path / "new" / "out"
    message = "out could not be written: no space left on device. Nothing was left behind"
    refused(image_file, target, message, form="train")
    assert left_in(tmp_path) == set()


CONVERT = """
import sys
from mobileclip_keras.converters.cli.app import main
sys.argv = ["mobileclip-keras", "convert", "--src", {source!r}, "--out", {out!r}]
sys.argv += ["--form", "train", "--no-verify"]
main()
"""


def test_a_disk_that_fills_up(image_file: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: HDF5 itself meets it in the middle of the weights."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (5_000_000, 5_000_000))

    code = CONVERT.format(source=str(image_file), out=str(tmp_path / "new" / "out"))
    done = python(code, preexec_fn=limit)
    assert done.returncode == 1, done.stderr
    assert "out could not be written: file too large. Nothing was left behind." in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert left_in(tmp_path) == set()


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.nightly)]
)
def test_killed_while_writing(image_file: Path, tmp_path: Path, number: int, status: int) -> None:
    """The signal comes while the weights are there, under the name of the moment."""
    pause = (
        # Where a shell runs the tests in the background, its children are born deaf to interrupts.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import time, mobileclip_keras.converters.conversion.convert as c\n"
        "def wait(*_): print('written', flush=True); time.sleep(60)\n"
        "c.weight_hashes = wait\n"
    )
    code = pause + CONVERT.format(source=str(image_file), out=str(tmp_path / "out"))
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None and process.stderr is not None
    while "written" not in (line := process.stdout.readline()):
        assert line, process.stderr.read()
    assert {name.removesuffix(".lock") for name in left_in(tmp_path)} == {min(left_in(tmp_path))} != {"out"}
    time.sleep(0.2)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status and "Traceback" not in errors, errors
    assert left_in(tmp_path) == set()


def test_without_pytorch(image_file: Path, tmp_path: Path) -> None:
    """Converting .safetensors needs none of what comparing needs; comparing says so before the work."""
    packages = ("torch", "timm", "open_clip", "matplotlib", "torchvision")
    code = (
        "import sys\n"
        "from mobileclip_keras.converters.conversion import convert as module\n"
        f"source = {str(image_file)!r}\n"
        "print(module.convert(source, 'out', form='inference', verify=False).folder)\n"
        "module.sha256 = None\n"
        "try: module.convert(source, 'other')\n"
        "except Exception as error: print(type(error).__name__, error)\n"
        f"print([name for name in {packages} if name in sys.modules])\n"
    )
    done = python(code, missing=packages, cwd=tmp_path)
    assert done.stdout.splitlines() == [
        "out",
        "MissingPackageError Comparing with PyTorch needs PyTorch and timm and open_clip, not installed "
        'here. Install with: pip install "mobileclip-keras[verify]". '
        "To convert without comparing, use --no-verify.",
        "[]",
    ], done.stderr
    assert left_in(tmp_path) == {"out"} and "model.weights.h5" in left_in(tmp_path / "out")


def test_a_missing_picture_library_is_told_before_the_work(
    image_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mobileclip_keras.converters.conversion import verifying

    monkeypatch.setattr(verifying, "find_spec", lambda _: None)
    monkeypatch.setattr(module, "build_model", None)
    with pytest.raises(MissingPackageError, match=r"needs matplotlib, not installed here.*--no-verify"):
        convert(image_file, tmp_path / "out")


def test_identify_agrees_with_the_files(s0_file: Path, image_file: Path) -> None:
    assert identify(open_checkpoint(s0_file).shapes) == S0
    assert identify(open_checkpoint(image_file).shapes) == TIMM
