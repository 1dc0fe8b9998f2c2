"""Bundles of small towers: exported in this process, where the small towers are known, and run as pasted."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import pytest
from typer.testing import CliRunner

from mobileclip_keras.converters.cli import app as cli
from mobileclip_keras.converters.deploy import jobs
from mobileclip_keras.converters.deploy.export import Exported, export
from mobileclip_keras.converters.deploy.proofs import reference
from mobileclip_keras.keras_models.architectures import IMAGE_TOWERS, TEXT_TOWERS
from mobileclip_keras.keras_models.inputs.preprocessing import ImagePreprocessor
from mobileclip_keras.keras_models.layers.paths import layers_by_path
from mobileclip_keras.verify.criteria import MAX_RATIO, RMS_RATIO

from .converted import write_converted
from .small import KNOWN_IMAGE_TOWERS, KNOWN_TEXT_TOWERS, small_variant
from .small_verified import MCI, build, rows_of
from .small_verified import reference as small_reference

VARIANT = "mobileclip_s0"


def here(job: str, spec: dict[str, Any], backend: str) -> dict[str, Any]:
    """A job in this process, its answer as JSON has it."""
    return json.loads(json.dumps(jobs.JOBS[job](json.loads(json.dumps(spec)))))


@contextmanager
def small_everywhere() -> Iterator[None]:
    """The variant is small, and PyTorch's towers are."""
    with pytest.MonkeyPatch.context() as patch, small_variant(VARIANT):
        for known, small in ((IMAGE_TOWERS, KNOWN_IMAGE_TOWERS), (TEXT_TOWERS, KNOWN_TEXT_TOWERS)):
            for name, config in small.items():
                patch.setitem(known, name, config)
        patch.setattr(reference, "reference_of_folder", lambda folder: small_reference(MCI))
        yield


def write_small_folder(place: Path) -> Path:
    """A converted folder of small towers that is verified."""
    with small_everywhere():
        model = build(MCI, rows_of(MCI))
        model.variant = VARIANT
        return write_converted(model, place, VARIANT, ImagePreprocessor(64))


def export_small(folder: Path, runtime: str, out: Path, **options: Any) -> Exported:
    """A bundle of it."""
    with small_everywhere():
        return export(str(folder), runtime, out=out, run_job=here, **options)


def check_proof(done: Exported) -> None:
    """Asserts that a bundle of float32 is as near to PyTorch as it must be, and says so."""
    judged = [check for check in done.checks if check.judged]
    assert judged and all(check.passed for check in judged)
    for check in judged:
        assert check.rounding.rms_ratio <= RMS_RATIO and check.rounding.max_ratio <= MAX_RATIO
    record = json.loads((done.folder / "verification.json").read_text())
    assert record["passed"] and len(record["checks"]) == len(done.checks)


def program_of(folder: Path, language: str) -> str:
    """The program of a bundle's README, as it stands there."""
    return (folder / "README.md").read_text().split(f"```{language}\n")[1].split("```")[0]


def run_readme(folder: Path) -> str:
    """Runs the Python program of a bundle's README as pasted. Returns what it prints."""
    command = [sys.executable, "-c", program_of(folder, "python")]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run(*arguments: Any, status: int = 0) -> tuple[str, str]:
    """Runs a command. Returns what it prints on both outputs."""
    done = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    assert done.exit_code == status, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout, done.stderr


def scale_values(model: Any, by: float) -> int:
    """Makes the values of every attention larger by a power of two, and takes that back behind it: the same function.

    Returns:
        How many there were.
    """
    layers = dict(layers_by_path(model))
    found = [path.removesuffix("qkv") for path in layers if path.endswith("/qkv")]
    for path in found:
        qkv, proj = layers[f"{path}qkv"], layers[f"{path}proj"]
        for variable in [each for each in (qkv.kernel, qkv.bias) if each is not None]:
            array = keras.ops.convert_to_numpy(variable).copy()
            array[..., 2 * array.shape[-1] // 3 :] *= by
            variable.assign(array)
        proj.kernel.assign(keras.ops.convert_to_numpy(proj.kernel) / by)
    return len(found)
