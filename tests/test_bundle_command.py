"""The commands about bundles, and the processes that they start."""

import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import keras
import pytest

from mobileclip_keras.converters.deploy import export as export_module
from mobileclip_keras.converters.deploy import processes
from mobileclip_keras.converters.deploy.export import export
from mobileclip_keras.converters.deploy.processes import in_own_process
from mobileclip_keras.converters.deploy.request import DeployError
from mobileclip_keras.verify.criteria import RMS_RATIO

from .bundle_support import here, run, run_readme

pytestmark = [
    pytest.mark.usefixtures("small_bundles"),
    pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="every route goes through TensorFlow"),
]

ROOT = Path(__file__).parents[1]


def test_the_commands(small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_module, "export", partial(export, run_job=here))
    out = tmp_path / "out"
    said, _ = run("export", small_folder, "--to", "litert", "--towers", "image", "--out", out)
    assert f"Wrote {out} (" in said.replace("\n", "") and "proven)." in said
    said, _ = run("verify", out, "--json")
    facts = json.loads(said)
    assert facts["passed"] and facts["checks"][0]["rms_ratio"] <= RMS_RATIO
    assert "(1, 16)" in run_readme(out) or "(2, 16)" in run_readme(out)
    _, error = run("export", small_folder, "--to", "litert", "--out", out, status=1)
    assert error.startswith("Error: ") and "exists already" in error
    _, error = run("export", tmp_path / "nothing", "--to", "litert", status=1)
    assert error.startswith("Error: There is no ")
    _, error = run("verify", small_folder, status=1)
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
