"""The job that rounds: what it measures on, what it makes of biases, and that it judges plans as files compute."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from mobileclip_keras.converters.deploy.quantize import round_job
from mobileclip_keras.converters.deploy.quantize.means import Means, measuring
from mobileclip_keras.converters.deploy.quantize.options import PRECISIONS, Option, option
from mobileclip_keras.converters.deploy.quantize.ranking import Nearness
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


def searched(layer: Linear, to: str) -> Mapping[str, str]:
    """The plan of a model of one layer, all of whose precisions cost nothing."""
    weight = Weight("text_encoder/fc1/kernel", "dense", layer, layer.kernel, None, (1,))
    options = {weight.name: {name: option(weight, name, {}) for name in PRECISIONS}}
    shares = {weight.name: dict.fromkeys(PRECISIONS, 0.0)}
    request = make_request(to, ("text",), quantize="auto", budget=0.98)
    rows = np.eye(3)
    return round_job.search_plan([weight], options, shares, lambda: rows, rows, None, request, request.how)


@pytest.mark.parametrize(("to", "steps"), [("litert", 0), ("onnx", round_job.MORE_STEPS)])
def test_the_last_steps_are_for_plans_that_compute_with_floats(
    to: str, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LiteRT computes dense layers in integers, and ONNX Runtime does not."""
    asked = []

    def smallest(plans: list[Any], holds: Any, more: int) -> Any:
        asked.append(more)
        return plans[0]

    monkeypatch.setattr(round_job, "smallest_that_holds", smallest)
    layer = Linear(8, name="fc1")
    layer.build((None, 64))
    searched(layer, to)
    assert asked == [steps] and round_job.MORE_STEPS > 0


@pytest.mark.parametrize(
    ("cosine", "agreement", "holds"),
    [
        (0.981, 0.98, True),
        (0.98, 1.0, False),  # the runtime rounds, too, and then it would not hold
        (1.0, 0.9799, False),
        (float("nan"), 1.0, False),
    ],
)
def test_a_plan_holds_with_room_for_the_runtime(
    cosine: float, agreement: float, holds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = Linear(24, use_bias=False, name="fc1")
    layer.build((None, 160))
    monkeypatch.setattr(round_job, "nearness", lambda *_: Nearness(cosine, agreement))
    (precision,) = searched(layer, "litert").values()
    assert precision == ("int4" if holds else "float32")


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


@pytest.mark.parametrize(("to", "in_integers"), [("litert", ["text_encoder/fc1/kernel"]), ("onnx", [])])
def test_plans_are_judged_as_the_file_will_compute(to: str, in_integers: list[str], spied: dict[str, Any]) -> None:
    layer = Linear(24, use_bias=False, name="fc1")
    layer.build((None, 160))
    assert list(searched(layer, to).values()) == ["int4"] and spied["computed"][-1] == in_integers


@pytest.mark.parametrize(("to", "dense"), [("litert", True), ("onnx", False)])
def test_shares_are_measured_as_the_file_will_compute(
    to: str, dense: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With the rounding of inputs of dense layers, where the runtime computes in integers."""

    class Measured(Exception):
        pass

    def measure(*given: Any) -> Any:
        raise Measured({weight.kind for weight in given[5]}, len(given[5]))

    monkeypatch.setattr(round_job, "measure_shares", measure)
    with pytest.raises(Measured) as caught:
        rounded("auto", tmp_path, to)
    kinds, count = caught.value.args
    assert kinds == ({"dense"} if dense else set()) and (count > 0) == dense


@pytest.mark.nightly
def test_a_plan_for_each_layer(tmp_path: Path) -> None:
    made, arrays = rounded("auto", tmp_path, budget=0.9)
    assert set(arrays) == {"int8", "int4", "mixed", "mixed-floats"}
    in_floats = made["layers"]["mixed-floats"]["text"]
    # LiteRT computes from 4 bits in integers, so these layers have 8 at least.
    assert "int4" not in {each["precision"] for each in in_floats if not each["layer"].endswith("embedding")}
    layers = made["layers"]["mixed"]["text"]
    assert "int4" in {each["precision"] for each in layers}
    assert sum(each["share_of_error"] for each in layers) == pytest.approx(1)
