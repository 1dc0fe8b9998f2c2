"""The command line: what it prints, how it ends, and that nobody ever reads a traceback."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from mobileclip_keras.converters.checkpoints import inspection
from mobileclip_keras.converters.cli import app as cli
from mobileclip_keras.converters.hub.records import RecordError, read_record
from mobileclip_keras.keras_models import kernels
from mobileclip_keras.keras_models.registry import VARIANTS
from tests.converter_support import ROOT, S0, TIMM, arrays, as_torch, left_in, python, write

RUNNER = CliRunner()


def run(*arguments, status: int = 0) -> str:
    """What a command prints, on both streams, after checking how it ends."""
    done = RUNNER.invoke(cli.app, [str(argument) for argument in arguments])
    text = done.stdout + done.stderr
    assert done.exit_code == status, text
    assert "Traceback" not in text
    if status == 1:
        assert done.stdout == "" or "Error" not in done.stdout
        assert done.stderr.startswith("Error: ")
    return text


@pytest.fixture(scope="module")
def image_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(arrays(TIMM), tmp_path_factory.mktemp("files") / "mobileclip2_s0.safetensors")


@pytest.fixture(scope="module")
def folder(image_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "folder"
    text = run("convert", "--src", image_file, "--out", out, "--form", "train", "--no-verify")
    assert f"Wrote {out} (mobileclip2_s0, train form, not verified)." in text
    assert "Note: the timm layout holds the image tower alone" in text
    return out


def test_help_and_usage() -> None:
    assert "to-torch" in run("--help")
    assert "--variant" in run("convert", "--help")
    for arguments in (
        (),
        ("nothing",),
        ("convert", "--src", "a", "--what"),
        ("inspect",),
        ("to-torch", "a"),
    ):
        run(*arguments, status=2)
    assert "Say with --src what to convert" in run("convert", status=1)


def test_an_unknown_variant_lists_the_nearest_first() -> None:
    text = run("convert", "--src", "synthetic", "--variant", "mobileclip_s9", status=1)
    assert text.startswith("Error: There is no variant 'mobileclip_s9'. The variants, nearest first: ")
    first = text.split("nearest first: ")[1].split(",")[0]
    assert first in {f"s{i} (mobileclip_s{i})" for i in range(5)} and text.count("(mobileclip") == len(VARIANTS)


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_reader_that_has_seen_enough(image_file: Path, options: Any) -> None:
    program = "from mobileclip_keras.converters.cli.app import main; main()"
    reader, writer = os.pipe()
    os.close(reader)
    try:
        ran = subprocess.run(
            [sys.executable, "-c", program, "inspect", image_file, *options],
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    finally:
        os.close(writer)
    assert ran.returncode == 1 and "roken pipe" not in ran.stderr and "Traceback" not in ran.stderr


def test_synthetic_needs_a_variant() -> None:
    assert run("convert", "--src", "synthetic", status=1) == "Error: A synthetic checkpoint needs a --variant.\n"


def test_bad_sources_and_targets(tmp_path: Path, image_file: Path, folder: Path) -> None:
    (tmp_path / "a.pt").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert "is a Git LFS pointer" in run("convert", "--src", tmp_path / "a.pt", status=1)
    assert "There is no file" in run("convert", "--src", tmp_path / "b.pt", status=1)
    assert "is a folder. Give a checkpoint file" in run("convert", "--src", tmp_path, status=1)
    assert "exists already" in run("convert", "--src", image_file, "--out", folder, status=1)
    assert "form is one of" in run("convert", "--src", image_file, "--form", "fast", status=1)
    assert "not mobileclip_s2" in run("convert", "--src", image_file, "--variant", "s2", status=1)
    assert left_in(tmp_path) == {"a.pt"}


def test_convert_as_json(tmp_path: Path, image_file: Path) -> None:
    arguments = [
        "convert",
        "--src",
        image_file,
        "--out",
        tmp_path / "out",
        "--form",
        "inference",
        "--no-verify",
        "--json",
    ]
    done = RUNNER.invoke(cli.app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout) == {
        "folder": str(tmp_path / "out"),
        "variant": "mobileclip2_s0",
        "layout": "timm",
        "source_form": "train",
        "forms": ["inference"],
        "dtype": "float32",
        "notes": ["the timm layout holds the image tower alone: there is no text tower"],
        "verified": False,
    }
    failed = RUNNER.invoke(cli.app, [str(argument) for argument in arguments])
    assert failed.exit_code == 1 and failed.stdout == "" and "exists already" in failed.stderr


def test_inspect(tmp_path: Path, image_file: Path) -> None:
    facts = json.loads(run("inspect", image_file, "--json"))
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    size = sum(array.size for name, array in arrays(TIMM).items() if not name.endswith(statistics))
    assert facts["variant"] == ["mobileclip_s0", "mobileclip2_s0"]
    assert (facts["layout"], facts["form"], facts["tensors"]) == ("timm", "train", len(TIMM.shapes))
    assert facts["parameters"] == size and facts["bytes"] == image_file.stat().st_size
    assert len(facts["sha256"]) == 64 and facts["towers"] == "image" and facts["problems"] == []
    assert facts["notes"] == ["the timm layout holds the image tower alone: there is no text tower"]
    assert [text.split(" x ")[0] for text in facts["dtypes"]] == ["float32", "int64"]
    assert "timm" in run("inspect", image_file)

    name = "head.fc.bias"
    damaged = arrays(TIMM)[name] / 0
    write({**arrays(TIMM), name: damaged}, tmp_path / "nan.pt")
    text = run("inspect", tmp_path / "nan.pt", status=1)
    assert f"  {name} 512 of 512 numbers are NaN, infinite or too large" in text
    write({"a": damaged}, tmp_path / "other.pt")
    assert "This is no checkpoint of MobileCLIP" in run("inspect", tmp_path / "other.pt", status=1)
    assert "There is no file" in run("inspect", tmp_path / "none.pt", status=1)


def test_names_that_look_like_markup(tmp_path: Path) -> None:
    """Square brackets are the terminal library's own language."""
    source, out, made = (tmp_path / "a[" / name for name in ("[red]a].pt", "out]", "made].safetensors"))
    source.parent.mkdir()
    torch.save({"state_dict": as_torch(arrays(TIMM)), "[/epoch]": 1}, source)
    text = run("convert", "--src", source, "--out", out, "--variant", "2-s0", "--form", "train", "--no-verify")
    assert "Reading [red]a].pt" in text and "[/epoch]" in text
    assert f"Wrote {out} (mobileclip2_s0, train form, not verified)." in text
    assert "[/epoch]" in "".join(run("inspect", source).split())
    assert f"to {made}." in run("to-torch", out, "--layout", "timm", "--out", made)
    write({**arrays(TIMM), "[/x]": np.zeros(1, np.float32)}, source)
    assert "[/x]" in run("inspect", source, status=1)


def test_inspect_a_sharded_checkpoint(tmp_path: Path) -> None:
    names = list(TIMM.shapes)
    parts = {"a.safetensors": names[:300], "b.safetensors": names[300:]}
    for file, part in parts.items():
        write({name: arrays(TIMM)[name] for name in part}, tmp_path / file)
    weight_map = {name: file for file, part in parts.items() for name in part}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    facts = json.loads(run("inspect", tmp_path, "--json"))
    assert facts["tensors"] == len(names) and "sharded over 2 files" in facts["notes"]
    assert facts["bytes"] == sum((tmp_path / file).stat().st_size for file in parts)


def test_to_torch(tmp_path: Path, folder: Path) -> None:
    text = run("to-torch", folder, "--layout", "timm", "--out", tmp_path / "a.safetensors")
    assert f"Wrote {len(TIMM.shapes)} tensors in the timm layout" in text
    assert "exists already" in run(
        "to-torch", folder, "--layout", "timm", "--out", tmp_path / "a.safetensors", status=1
    )
    run("to-torch", folder, "--layout", "timm", "--out", tmp_path / "a.safetensors", "--force")
    assert "'tf' is no layout" in run("to-torch", folder, "--layout", "tf", "--out", tmp_path / "b.pt", status=1)
    assert "this layout has no tensor for it" in run(
        "to-torch", folder, "--layout", "apple", "--out", tmp_path / "b.pt", status=1
    )
    assert "holds no converted model" in run("to-torch", tmp_path, "--out", tmp_path / "b.pt", status=1)
    assert left_in(tmp_path) == {"a.safetensors"}


def test_verify_refuses_what_was_not_converted(tmp_path: Path, image_file: Path) -> None:
    text = run("verify", tmp_path, "--src", image_file, status=1)
    assert "has no conversion.json: it was not written by convert" in text
    text = run("verify", tmp_path / "nowhere", "--src", image_file, status=1)
    assert f"There is no folder {tmp_path / 'nowhere'}" in text


def test_a_verification_that_fails_ends_with_status_1(
    folder: Path, image_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mobileclip_keras.converters.conversion import verifying
    from mobileclip_keras.verify.verification import Verification

    monkeypatch.setattr(verifying, "verify_folder", lambda *_: Verification("mobileclip2_s0", "tensorflow"))
    done = RUNNER.invoke(cli.app, ["verify", str(folder), "--src", str(image_file)])
    assert done.exit_code == 1 and "Unexpected" not in done.stderr


@pytest.mark.nightly
def test_a_folder_is_verified_again(tmp_path: Path) -> None:
    """Also its inference form, whose numbers were rounded to float32 when they were written."""
    source, place = write(arrays(S0), tmp_path / "s0.safetensors"), tmp_path / "folder"
    run("convert", "--src", source, "--out", place, "--no-verify")
    found = json.loads(RUNNER.invoke(cli.app, ["verify", str(place), "--src", str(source), "--json"]).stdout)
    assert found["passed"] is True and [check["form"] for check in found["float64"]] == ["inference", "train"]
    assert read_record(place, "verification.json")["passed"] is True
    with h5py.File(place / "model.weights.h5", "r+") as file:
        datasets: list[h5py.Dataset] = []
        file.visititems(lambda _, item: datasets.append(item) if isinstance(item, h5py.Dataset) else None)
        changed = max(datasets, key=lambda dataset: dataset.size)
        changed[...] = changed[...] * np.float32(1 + 1e-6)
    done = RUNNER.invoke(cli.app, ["verify", str(place), "--src", str(source)])
    assert done.exit_code == 1 and "NOT equal to PyTorch" in done.stdout
    failed = read_record(place, "verification.json")
    assert [check["passed"] for check in failed["float64"]] == [False, True]


def test_records_that_lack_something(tmp_path: Path, folder: Path) -> None:
    place = Path(shutil.copytree(folder, tmp_path / "folder"))
    for record, missing in (({}, "variant"), ({"variant": "mobileclip2_s0"}, "dtype")):
        (place / "conversion.json").write_text(json.dumps(record))
        text = run("verify", place, "--src", tmp_path / "none.pt", status=1)
        assert text == f"Error: {place / 'conversion.json'} does not say 'what'.\n".replace("what", missing)
    (place / "verification.json").write_text('{"float32": [{}]}')
    with pytest.raises(RecordError, match=r"verification.json does not say 'form'\."):
        read_record(place, "verification.json")["float32"][0]["form"]


@pytest.mark.nightly
def test_a_conversion_that_computes_something_else_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """End to end, with a real tower, whose GELU is another one."""
    monkeypatch.setattr(kernels, "gelu", lambda inputs: keras.ops.gelu(inputs, approximate=True))
    out = tmp_path / "new" / "s0"
    text = run("convert", "--src", "synthetic", "--variant", "s0", "--out", out, status=1)
    assert "FAILED" in text and "NOT equal to PyTorch" in text
    assert "was not converted: the result is not equal to PyTorch." in text
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (KeyError("stage"), 1, "Unexpected KeyError: 'stage'"),
        (MemoryError(), 1, "There is not enough memory."),
        (KeyboardInterrupt(), 130, "Interrupted; nothing was left behind."),
        (OSError(5, "Input/output error", "/disk"), 1, "/disk: input/output error"),
    ],
)
def test_what_nobody_foresaw_reads_as_a_message(
    monkeypatch: pytest.MonkeyPatch, error: Any, status: int, message: str
) -> None:
    def fail(*_):
        raise error

    monkeypatch.setattr(inspection, "inspect_checkpoint", fail)
    assert f"Error: {message}" in run("inspect", "a.pt", status=status)


def test_developers_can_ask_for_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "inspect_checkpoint", lambda *_: 1 / 0)
    monkeypatch.setenv("MOBILECLIP_KERAS_TRACEBACK", "1")
    assert isinstance(RUNNER.invoke(cli.app, ["inspect", "a.pt"]).exception, ZeroDivisionError)


def test_synthetic_without_pytorch(tmp_path: Path) -> None:
    """In a process of its own, through the command that is called `convert`."""
    code = (
        "import sys\n"
        "from mobileclip_keras.converters.cli.app import convert_main\n"
        "sys.argv = ['convert', '--src', 'synthetic', '--variant', 's0', '--no-verify',\n"
        "            '--form', 'inference', '--json']\n"
        "convert_main()\n"
    )
    done = python(code, missing=("torch", "timm", "open_clip", "matplotlib"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["folder"] == "mobileclip_s0-keras"
    assert left_in(tmp_path) == {"mobileclip_s0-keras"}


def test_a_bad_file_in_a_process_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(b"<html>")
    command = [
        sys.executable,
        "-c",
        "from mobileclip_keras.converters.cli.app import main; main()",
        "inspect",
        tmp_path / "a.pt",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 1 and done.stdout == ""
    # Nothing else: what inspects a file starts no framework.
    assert done.stderr.startswith(f"Error: {tmp_path / 'a.pt'} is a web page") and done.stderr.count("\n") == 1


def test_an_output_that_lacks_the_characters() -> None:
    """As on Windows, where what goes to a file has an encoding of some 200 characters."""
    code = "from mobileclip_keras.converters.cli import app, terminal; app._prepare(); terminal.console.print('✓')"
    done = python("import os, sys; sys.stdout.reconfigure(encoding='cp1252', errors='strict')\n" + code)
    assert (done.returncode, done.stdout.strip()[:1]) == (0, "?"), done.stderr
