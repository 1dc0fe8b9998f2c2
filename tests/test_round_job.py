"""The job that rounds: what it measures on, what it makes of biases, and that it judges plans as files compute."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from mobileclip_keras.converters.deploy.quantize import round_job
from mobileclip_keras.converters.deploy.quantize.means import Means, measuring
from mobileclip_keras.converters.deploy.quantize.options import Option, option
from mobileclip_keras.converters.deploy.quantize.rounded_inputs import rounded_inputs
from mobileclip_keras.converters.deploy.quantize.weights import Weight
from mobileclip_keras.converters.deploy.request import make_request
from mobileclip_keras.keras_models.layers.dense import Linear

from .small import small_model
from .support import TOKENS

pytestmark = [
    pytest.mark.usefixtures("small_towers"),
    pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow decides for every runtime"),
]

ROWS = {"text": TOKENS[:6].astype(np.int32)}


def test_biases_take_back_what_rounding_adds_to_the_mean() -> None:
    layer = Linear(24, name="fc1")
    layer.build((None, 160))
    chance = np.random.default_rng(0)
    layer.kernel.assign(chance.standard_t(4, (160, 24)))
    layer.bias.assign(chance.normal(size=24))
    weight = Weight("text_encoder/fc1/kernel", "dense", layer, layer.kernel, layer.bias, (1,))
    seen = chance.normal(1, 1, (500, 160)).astype(np.float32)
    with measuring([weight]) as means:
        layer(seen)
    for precision in ("int4", "int8"):
        made = option(weight, precision, means)
        assert made.bias is not None
        error = (seen @ made.kernel + made.bias - seen @ weight.value() - weight.bias_value()).mean(0)
        plain = (seen @ (made.kernel - weight.value())).mean(0)
        assert np.abs(error).max() < 1e-3 * np.abs(plain).max()


@pytest.fixture
def spied(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the job measured means on, and which plans it computed features of, with which layers in integers."""
    found: dict[str, Any] = {"rows": set(), "computed": []}

    def own_option(weight: Weight, precision: str, means: Means) -> Option:
        found["rows"] |= {given.rows for given in means.values()}
        return option(weight, precision, means)

    def own_rounded_inputs(weights: Any) -> Any:
        found["computed"].append([weight.name for weight in weights])
        return rounded_inputs(weights)

    monkeypatch.setattr(round_job, "option", own_option)
    monkeypatch.setattr(round_job, "rounded_inputs", own_rounded_inputs)
    return found


def rounded(recipe: str, out: Path, to: str = "litert", **options: Any) -> tuple[dict[str, Any], Mapping[str, Any]]:
    request = make_request(to, ("text",), quantize=recipe, **options)
    model = small_model(None, "small_mct", form="inference")
    made = round_job.round_weights(model, request, ROWS, out)
    return made, {name: dict(np.load(out / f"{name}.npz")) for name in made["sets"]}


def test_means_are_measured_on_half_of_the_rows(spied: dict[str, Any], tmp_path: Path) -> None:
    """Else the other half could not show whether the plan holds for what is unseen."""
    made, _ = rounded("int8-weights", tmp_path)
    assert made["sets"] == ["int8"] and made["layers"] == {}
    assert spied["rows"] == {len(ROWS["text"]) // 2} and spied["computed"] == []


def test_plans_are_judged_as_the_file_will_compute(spied: dict[str, Any], tmp_path: Path) -> None:
    made, arrays = rounded("auto", tmp_path, budget=0.9)
    precisions = {each["layer"]: each["precision"] for each in made["layers"]["text"]}
    in_integers = {name.rpartition("/")[0] for name in spied["computed"][-1]}
    assert in_integers <= set(precisions) and any(spied["computed"])
    assert "int4" in precisions.values() and set(arrays) == {"int8", "int4", "mixed"}
    rounded("auto", tmp_path, to="onnx", budget=0.9)
    assert spied["computed"][-1] == []
