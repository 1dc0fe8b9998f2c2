"""Files of float16: half as large, and right where numbers leave float16's range."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from mobileclip_keras.converters.deploy import half, jobs
from mobileclip_keras.converters.deploy.export import Exported, export
from mobileclip_keras.converters.deploy.quantize.rounding import fits_half
from mobileclip_keras.converters.deploy.request import make_request
from mobileclip_keras.converters.deploy.runtimes.parts import parts_of
from mobileclip_keras.converters.deploy.runtimes.registry import open_tower

from .bundle_support import here, scale_values
from .small import small_model
from .support import TOKENS

pytestmark = [
    pytest.mark.usefixtures("small_bundles"),
    pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="every route goes through TensorFlow"),
]

NIGHTLY = pytest.mark.nightly
FAR = 2.0**20
"""Times a value of about 1, it leaves float16's range. A weight divided by it is too small for float16."""
RUNTIMES = ["litert", "onnx", pytest.param("openvino", marks=NIGHTLY)]


def error_of_half(runtime: str, folder: Path, by: float) -> tuple[float, list[str]]:
    """How far the features of a text tower's float16 file are from the float file's; the layers that stay float32.

    The tower's values in attention are `by` times as large, and what follows makes them small again.
    """
    model = small_model(None, "small_transformer", form="inference")
    assert scale_values(model, by) == 2
    request = make_request(runtime, ("text",), quantize="fp16")
    (part,) = parts_of(model, request, None)
    path, given = folder / f"text{request.how.suffix}", {"tokens": TOKENS[:1].astype(np.int32)}
    jobs.write_part(part, request, path)

    def features() -> np.ndarray:
        return open_tower(runtime, path, 1, request.how.ways[0])(given)["text_features"]

    before = features()
    facts = half.round_to_half(request.how, path, [given])
    return float(np.abs(features() - before).max()), facts["kept_in_float32"]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_layers_that_leave_the_range_stay_float32(runtime: str, tmp_path: Path) -> None:
    error, kept = error_of_half(runtime, tmp_path, FAR)
    assert error < 2e-3
    assert {f"text_encoder/backbone/blocks_0/attn/{name}" for name in ("qkv", "proj")} <= set(kept)
    assert {layer.split("/")[2] for layer in kept} == {"blocks_0", "blocks_1"}
    assert not any("mlp" in layer for layer in kept)


@pytest.mark.parametrize("runtime", ["litert", "onnx"])
def test_without_looking_the_file_would_be_wrong(runtime: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by what operations put out, nor by the weights."""
    code = make_request(runtime, ("text",)).how.code
    monkeypatch.setattr(code, "largest_activations", lambda path, batches: {})
    monkeypatch.setattr(code, "unfit", lambda path: [])
    error, kept = error_of_half(runtime, tmp_path, FAR)
    assert kept == [] and not error < 2e-3


def test_where_nothing_leaves_it_nothing_stays(tmp_path: Path) -> None:
    error, kept = error_of_half("onnx", tmp_path, 1.0)
    assert kept == [] and 0 < error < 2e-3


def test_weights_that_float16_cannot_hold() -> None:
    array = np.random.default_rng(0).normal(0, 0.02, (64, 64)).astype(np.float32)
    assert fits_half(array) and fits_half(np.zeros((2, 2), np.float32)) and fits_half(array**3)
    assert not fits_half(array / FAR) and not fits_half(array * 1e8)


@NIGHTLY
@pytest.mark.parametrize("runtime", ["litert", "onnx", "openvino"])
def test_float16_halves_a_file(runtime: str, small_folder: Path, litert_bundle: Exported, tmp_path: Path) -> None:
    done = export(str(small_folder), runtime, out=tmp_path / "out", run_job=here, quantize="fp16")
    judged = [check for check in done.checks if check.judged]
    assert judged and all(check.passed and check.cost.smallest_cosine > 0.999 for check in judged)
    assert done.about["float16"]["image"]["kept_in_float32"] == []
    files = list(done.folder.glob("text.*"))
    assert sum(path.stat().st_size for path in files) < 0.6 * (litert_bundle.folder / "text.tflite").stat().st_size


@NIGHTLY
@pytest.mark.parametrize("runtime", ["litert", "onnx", "openvino"])
def test_the_bundle_says_what_stays_float32(
    runtime: str, small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exported, proven against PyTorch with the weights as they were, and verified again."""
    right: Callable[..., Any] = jobs._model

    def scaled(*arguments: Any) -> Any:
        model = right(*arguments)
        assert scale_values(model, FAR) == 2
        return model

    monkeypatch.setattr(jobs, "_model", scaled)
    done = export(str(small_folder), runtime, out=tmp_path / "out", run_job=here, quantize="fp16")
    assert all(check.passed for check in done.checks if check.judged)
    about = json.loads((done.folder / "bundle.json").read_text())["float16"]
    for tower in ("image", "text"):
        assert about[tower]["largest_activation"] > half.LARGEST
        kept = about[tower]["kept_in_float32"]
        assert kept and all("/attn" in layer or "/token_mixer" in layer or "/blocks" in layer for layer in kept), kept
        assert not any("mlp" in layer for layer in kept), kept
