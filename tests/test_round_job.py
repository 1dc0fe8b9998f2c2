"""The job that rounds: what it measures on, what it makes of biases, and that it judges plans as files compute."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from mobileclip_keras.converters.deploy.quantize import planning, round_job
from mobileclip_keras.converters.deploy.quantize.means import Means, measuring
from mobileclip_keras.converters.deploy.quantize.measured_rows import measured_rows
from mobileclip_keras.converters.deploy.quantize.options import PRECISIONS, Option, option
from mobileclip_keras.converters.deploy.quantize.planning import Judge, search_integers
from mobileclip_keras.converters.deploy.quantize.recipes import PLANNED
from mobileclip_keras.converters.deploy.quantize.rounded_inputs import rounded_inputs
from mobileclip_keras.converters.deploy.quantize.shares import Measured
from mobileclip_keras.converters.deploy.quantize.weights import Weight, weights_of
from mobileclip_keras.converters.deploy.request import make_request
from mobileclip_keras.converters.deploy.runtimes.registry import RUNTIMES
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
    rows = np.eye(3)
    judge = Judge([weight], options, lambda: rows, rows, None, 0.98)
    return planning.search_plan(judge, shares, RUNTIMES[to])


@pytest.mark.parametrize(("to", "steps"), [("litert", 0), ("onnx", planning.MORE_STEPS)])
def test_the_last_steps_are_for_plans_that_compute_with_floats(
    to: str, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LiteRT computes dense layers in integers, and ONNX Runtime does not."""
    asked = []

    def smallest(plans: list[Any], holds: Any, more: int) -> Any:
        asked.append(more)
        return plans[0]

    monkeypatch.setattr(planning, "smallest_that_holds", smallest)
    layer = Linear(8, name="fc1")
    layer.build((None, 64))
    searched(layer, to)
    assert asked == [steps] and planning.MORE_STEPS > 0


def judged(monkeypatch: pytest.MonkeyPatch, cosines: np.ndarray, agreement: float) -> None:
    """Lets all features come out so near."""
    monkeypatch.setattr(planning, "cosines", lambda *_: cosines)
    monkeypatch.setattr(planning, "agreement", lambda *_: agreement)


@pytest.mark.parametrize(
    ("cosine", "agreement", "holds"),
    [
        (0.983, 0.98, True),
        (0.981, 1.0, False),  # the runtime rounds, too, and then it might not hold
        (1.0, 0.9799, False),
        (float("nan"), 1.0, False),
    ],
)
def test_a_plan_holds_with_room_for_the_runtime(
    cosine: float, agreement: float, holds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = Linear(24, use_bias=False, name="fc1")
    layer.build((None, 160))
    judged(monkeypatch, np.full(3, cosine), agreement)
    (precision,) = searched(layer, "litert").values()
    assert precision == ("int4" if holds else "float32")


@pytest.mark.parametrize(("apart", "holds"), [(0.0005, True), (0.006, False)])
def test_a_plan_whose_ways_to_round_are_far_apart_does_not_hold(
    apart: float, holds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is within the budget, and the next may not be."""
    ways = iter(0.984 + apart * np.array([[0, 1], [1, 0], [0, 1], [1, 0]]))
    monkeypatch.setattr(planning, "cosines", lambda *_: next(ways))
    monkeypatch.setattr(planning, "agreement", lambda *_: 1.0)
    layer = Linear(24, name="fc1")
    layer.build((None, 160))
    weight = Weight("text_encoder/fc1/kernel", "dense", layer, layer.kernel, None, (1,))
    options = {weight.name: {"int8": option(weight, "int8", {})}}
    judge = Judge([weight], options, lambda: np.eye(2), np.eye(2), None, 0.98)
    assert judge.holds({weight.name: "int8"}, [weight]) == holds


@pytest.mark.parametrize("worst", [None, 0, 1, 2, 3])
def test_a_plan_of_integers_holds_in_several_ways_to_round(worst: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = Linear(24, use_bias=False, name="fc1")
    layer.build((None, 160))
    weight = Weight("text_encoder/fc1/kernel", "dense", layer, layer.kernel, None, (1,))
    rows = np.random.default_rng(0).normal(size=(3, 160)).astype(np.float32)
    seen: list[np.ndarray] = []

    def compute() -> np.ndarray:
        seen.append(keras.ops.convert_to_numpy(layer(keras.ops.convert_to_tensor(rows))))
        return seen[-1]

    cosines = iter([np.array([0.999, 0.98 if each == worst else 0.999, 0.999]) for each in range(4)])
    monkeypatch.setattr(planning, "cosines", lambda *_: next(cosines))
    monkeypatch.setattr(planning, "agreement", lambda *_: 1.0)
    options = {weight.name: {"int8": option(weight, "int8", {})}}
    judge = Judge([weight], options, compute, rows, None, 0.98)
    assert judge.holds({weight.name: "int8"}, [weight]) == (worst is None)
    if worst is None:
        exact = rows @ options[weight.name]["int8"].kernel
        errors = np.stack([np.ravel(each - exact) for each in seen])
        assert np.all(np.abs(np.corrcoef(errors) - np.eye(4)) < 0.5)  # of 72 numbers each: 4 times what chance gives
        assert np.all(np.abs(np.linalg.norm(errors, axis=1) / np.linalg.norm(errors[0]) - 1) < 0.35)  # the same


def test_a_plan_of_floats_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    judged(monkeypatch, np.full(3, 0.9803), 0.98)
    computed: list[int] = []
    judge = Judge([], {}, lambda: computed.append(1) or np.eye(3), np.eye(3), None, 0.98)  # type: ignore[func-returns-value]
    assert judge.holds({}, []) and computed == [1]


class Budget:
    """Judges by what layers cost, all together."""

    def __init__(self, weights: list[Weight], costs: dict[str, float]) -> None:
        self.weights, self.costs, self.tried = weights, costs, 0

    def holds(self, plan: Mapping[str, str], computed: list[Weight]) -> bool:
        self.tried += 1
        return sum(self.costs[each.name] for each in computed) <= 1


def computing_in_integers(costs: dict[str, float], products: dict[str, int], plan: dict[str, str]) -> list[str]:
    nothing: Any = None
    budget: Any = Budget([Weight(name, "dense", nothing, nothing, None, (1,)) for name in plan], costs)
    measured = Measured({}, {name: cost**2 for name, cost in costs.items()}, products)
    found = [each.name for each in search_integers(budget, plan, measured)]
    assert budget.tried <= 1 + np.log2(len(plan) + 1) + planning.MORE_LAYERS
    return found


def test_layers_that_save_most_for_their_cost_compute_in_integers() -> None:
    """As far as the budget goes; one that is too large for what is left does not stop those behind it."""
    plan = dict.fromkeys(("a", "b", "c", "d", "e"), "int8")
    costs = {"a": 0.5, "b": 0.1, "c": 0.6, "d": 0.3, "e": 2.0}
    equal = dict.fromkeys(plan, 100)
    assert computing_in_integers(costs, equal, plan) == ["b", "d", "a"]
    assert computing_in_integers(costs, equal | {"c": 10_000}, plan) == ["c", "b", "d"]
    assert computing_in_integers(costs | {"d": 0.95}, equal, plan) == ["b", "a"]
    assert computing_in_integers(costs, equal | {"d": 10_000, "c": 5000, "a": 1000}, plan) == ["d", "c", "b"]
    assert computing_in_integers(costs, equal | {"a": 10_000, "c": 10_000}, plan) == ["a", "b", "d"]
    assert computing_in_integers(dict.fromkeys(plan, 2.0), equal, plan) == []


SIZES = {"int8": 100.0, "float16": 200.0, "float32": 400.0}


def test_the_smallest_plan_is_left_for_one_that_has_room_for_integers() -> None:
    options = {
        name: {key: Option(np.zeros(0), None, part * size) for key, size in SIZES.items()}
        for name, part in {"large": 10.0, "touchy": 0.18, "small": 0.1}.items()
    }
    shares = {name: {"int8": 1.0, "float16": 0.1, "float32": 0.0} for name in options}
    shares["touchy"]["int8"] = 8.0
    smallest = dict.fromkeys(options, "int8")
    # What costs most error for its bytes gets them first; both would be 2.7 % more.
    roomy = planning.with_room(options, shares, smallest)
    assert roomy == smallest | {"touchy": "float16"}
    del shares["touchy"]["float16"]
    assert planning.with_room(options, shares, smallest) == smallest
    assert planning.with_room(options, shares, dict.fromkeys(options, "float32")) == dict.fromkeys(options, "float32")


def test_room_is_never_given_to_a_plan_of_more_error() -> None:
    """A plan that passed over one step and took a later one is on no list of plans."""
    options = {name: {key: Option(np.zeros(0), None, size) for key, size in SIZES.items()} for name in ("a", "b")}
    shares = {"a": {"int8": 1.0, "float32": 0.0}, "b": {"int8": 1.2, "float32": 0.0}}
    held = {"a": "float32", "b": "int8"}  # because of what "a" does with the budget's own texts
    assert planning.with_room(options, shares, held) == {"a": "int8", "b": "float32"}
    shares["a"]["int8"], shares["b"]["int8"] = 1.2, 1.0
    options["b"]["int8"] = Option(np.zeros(0), None, 250.0)
    assert planning.with_room(options, shares, held) == held


def test_layers_of_floats_compute_with_floats() -> None:
    plan = {"a": "float16", "b": "int8", "c": "float32"}
    assert computing_in_integers(dict.fromkeys(plan, 0.1), dict.fromkeys(plan, 1), plan) == ["b"]


@pytest.fixture
def spied(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the job measured means on, and which plans it computed features of, with which layers in integers."""
    found: dict[str, Any] = {"rows": set(), "computed": []}

    def own_option(weight: Weight, precision: str, means: Means) -> Option:
        found["rows"] |= {given.rows for given in means.values()}
        return option(weight, precision, means)

    def own_rounded_inputs(weights: Any, **options: Any) -> Any:
        found["computed"].append([weight.name for weight in weights])
        return rounded_inputs(weights, **options)

    monkeypatch.setattr(round_job, "option", own_option)
    monkeypatch.setattr(planning, "rounded_inputs", own_rounded_inputs)
    return found


def rounded(recipe: str, out: Path, to: str = "litert", **options: Any) -> tuple[dict[str, Any], Mapping[str, Any]]:
    request = make_request(to, ("text",), quantize=recipe, **options)
    model = small_model(None, "small_mct", form="inference")
    made = round_job.round_weights(model, request, ROWS, out)
    return made, {name: dict(np.load(out / f"{name}.npz")) for name in made["sets"]}


def test_means_are_measured_on_rows_made_of_every_other_one(spied: dict[str, Any], tmp_path: Path) -> None:
    made, _ = rounded("int8-weights", tmp_path)
    assert made["sets"] == ["int8"] and made["layers"] == {}
    assert spied["rows"] == {len(measured_rows("text", ROWS["text"]))} and spied["computed"] == []


@pytest.mark.parametrize(("to", "in_integers"), [("litert", ["text_encoder/fc1/kernel"]), ("onnx", [])])
def test_plans_are_judged_as_the_file_will_compute(to: str, in_integers: list[str], spied: dict[str, Any]) -> None:
    layer = Linear(24, use_bias=False, name="fc1")
    layer.build((None, 160))
    assert list(searched(layer, to).values()) == ["int4"] and spied["computed"][-1] == in_integers


@pytest.mark.parametrize(("to", "dense"), [("litert", True), ("onnx", False)])
def test_inputs_of_layers_are_measured_where_the_runtime_computes_in_integers(
    to: str, dense: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:

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
    weights = weights_of(small_model(None, "small_mct", form="inference"))
    dense = {each.layer_name for each in weights if each.kind == "dense"}
    made, arrays = rounded("auto", tmp_path, budget=0.9)
    assert set(arrays) == {"int8", "int4", *PLANNED}
    small = made["layers"]["mixed-small"]["text"]
    # LiteRT computes from 4 bits in integers, so layers that may compute with floats have 8 at least.
    assert "int4" not in {each["precision"] for each in small if not each["layer"].endswith("embedding")}
    assert made["floats"]["mixed"] == []
    could = [each for each in small if each["precision"] == "int8" and each["layer"] in dense]
    assert made["floats"]["mixed-small"] == [each["layer"] for each in could if each["computes_in"] == "floats"]
    layers = made["layers"]["mixed"]["text"]
    assert "int4" in {each["precision"] for each in layers}
    assert sum(each["share_of_error"] for each in layers) == pytest.approx(1)
