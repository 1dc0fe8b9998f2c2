"""Which candidates a bundle keeps, tower by tower, and what they are held to ever after."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mobileclip_keras.converters.conversion.progress import silent
from mobileclip_keras.converters.deploy.proofs.proof import Check, Stored
from mobileclip_keras.converters.deploy.quantize import choosing
from mobileclip_keras.converters.deploy.quantize.certificate import bound_of
from mobileclip_keras.converters.deploy.quantize.choosing import Tried, round_and_choose, try_recipes
from mobileclip_keras.converters.deploy.quantize.ranking import Nearness
from mobileclip_keras.converters.deploy.quantize.recipes import in_words
from mobileclip_keras.converters.deploy.quantize.trial import TowerTrial, Trial, check_trial, choose
from mobileclip_keras.converters.deploy.request import DeployError, make_request


def trial(name: str, size: int, cosine: float, agreement: float = 1.0, latency: float = 1.0) -> Trial:
    return Trial(name, {"image": TowerTrial(size, size / 400, latency, Nearness(cosine, agreement))})


def chosen(trials: list[Trial], budget: float) -> str:
    """Of the only tower."""
    return choose(trials, budget)["image"]


def test_the_smallest_candidate_that_holds_is_chosen_and_the_fastest_of_its_size() -> None:
    plain, half = trial("float32", 400, 0.5), trial("fp16", 200, 0.9999)
    int8, quick = trial("int8-weights", 100, 0.998), trial("int8", 100, 0.997, latency=0.7)
    assert chosen([plain, half, int8, quick], 0.9975) == "int8-weights"
    assert chosen([plain, half, int8, quick], 0.995) == "int8"
    assert chosen([plain, half, trial("int8", 100, 0.999, 0.9)], 0.995) == "fp16"
    assert chosen([plain, trial("fp16", 200, float("nan"))], 0.1) == "float32"


def test_a_candidate_that_is_slower_than_float32_is_not_chosen() -> None:
    plain, int8 = trial("float32", 400, 1), trial("int8", 100, 0.999, latency=0.8)
    assert chosen([plain, int8, trial("mixed", 80, 0.999, latency=1.6)], 0.995) == "int8"
    assert chosen([plain, int8, trial("mixed", 80, 0.999, latency=1.05)], 0.995) == "mixed"


def test_each_tower_gets_the_candidate_that_is_best_for_it() -> None:
    """One that serves the image tower may be too slow, too large or too far from float32 for the text tower."""

    def both(name: str, image: TowerTrial, text: TowerTrial) -> Trial:
        return Trial(name, {"image": image, "text": text})

    def cost(size: int, cosine: float = 0.999, latency: float = 1.0) -> TowerTrial:
        return TowerTrial(size, size / 400, latency, Nearness(cosine, 1.0))

    plain = both("float32", cost(400), cost(400))
    for worse in (cost(80, latency=3.0), cost(120), cost(80, cosine=0.9)):
        trials = [plain, both("mixed", cost(90), worse), both("int8", cost(100), cost(100))]
        assert choose(trials, 0.995) == {"image": "mixed", "text": "int8"}


def test_a_candidate_holds_at_the_budget_itself() -> None:
    plain = trial("float32", 400, 1)
    assert chosen([plain, trial("int8", 100, 0.995, 1.0)], 0.995) == "int8"
    assert chosen([plain, trial("int8", 100, 1.0, 0.995)], 0.995) == "int8"
    below = np.nextafter(0.995, 0)
    for worse in (trial("int8", 100, below), trial("int8", 100, 1.0, below)):
        assert chosen([plain, worse], 0.995) == "float32"
        with pytest.raises(DeployError, match="below the budget"):
            check_trial(worse, 0.995)


def test_a_recipe_that_breaks_its_budget_or_gives_no_numbers_is_refused() -> None:
    check_trial(trial("int8", 100, 0.9), None)
    with pytest.raises(DeployError, match=r"smallest cosine is 0\.9000 and 100\.0% of its best matches stay, below"):
        check_trial(trial("int8", 100, 0.9), 0.95)
    with pytest.raises(DeployError, match="no numbers"):
        check_trial(trial("int8", 100, float("nan")), None)


@pytest.fixture
def tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tried:
    """Two candidates, each the better one for one tower, with files that say whose they are."""
    folders, made = {}, {}
    for name in ("float32", "fp16", "mixed"):
        folders[name] = tmp_path / name
        folders[name].mkdir()
        for part in ("image", "text", "text_lookup"):
            (folders[name] / f"{part}.tflite").write_text(name)
        parts = {part: {"from": name} for part in ("image", "text", "text_lookup")}
        float16 = {part: {"kept_in_float32": [part]} for part in parts} if name == "fp16" else {}
        made[name] = {"embed_dim": 512, "parts": parts, "float16": float16}
    good, bad = (TowerTrial(100, 0.25, 1.0, Nearness(cosine, 1.0)) for cosine in (0.999, 0.5))
    float32 = TowerTrial(400, 1.0, 1.0, Nearness(1.0, 1.0))
    trials = [
        Trial("float32", {"image": float32, "text": float32}),
        Trial("fp16", {"image": bad, "text": good}),
        Trial("mixed", {"image": good, "text": bad}),
    ]
    found = Tried(folders, made, {"mixed": {"image": [{"layer": "stem"}], "text": [{"layer": "fc1"}]}}, trials)
    monkeypatch.setattr(choosing, "try_recipes", lambda *_: found)
    return found


def test_a_bundle_takes_each_tower_from_its_own_candidate(tried: Tried, tmp_path: Path) -> None:
    request = make_request("litert", ("image", "text"), quantize="auto")
    (staged := tmp_path / "staged").mkdir()
    unused: Any = None
    made, rounded = round_and_choose(request, unused, staged, unused, unused, {}, unused)
    assert rounded.chosen == {"image": "mixed", "text": "fp16"}
    files = {path.name: path.read_text() for path in staged.iterdir()}
    assert files == {"image.tflite": "mixed", "text.tflite": "fp16", "text_lookup.tflite": "fp16"}
    assert {part: facts["from"] for part, facts in made["parts"].items()} == {
        name.removesuffix(".tflite"): whose for name, whose in files.items()
    }
    assert set(made["float16"]) == {"text", "text_lookup"} and made["embed_dim"] == 512
    assert rounded.layers == {"image": [{"layer": "stem"}]}


def check(cosines: dict[str, float], judged: bool = True, bound: dict[str, float] | None = None) -> Check:
    rounding: Any = SimpleNamespace(length_error=0.0)
    cost: Any = None
    return Check("", 1, rounding, cost, judged, "int8", cosines, bound)


def test_the_bound_leaves_half_as_much_again_to_other_processors() -> None:
    """Of the worst way that is judged, by tower."""
    checks = [
        check({"image": 0.99, "text": 0.999}),
        check({"image": 0.995, "text": 0.998}),
        check({"image": 0.5}, False),
    ]
    assert bound_of(checks) == {"image": pytest.approx(0.985, abs=1e-12), "text": pytest.approx(0.997, abs=1e-12)}


def test_a_bundle_must_reach_its_bound_in_every_tower() -> None:
    bound = {"image": 0.985, "text": 0.997}
    assert check({"image": 0.985, "text": 0.997}, bound=bound).passed
    for tower in bound:
        assert not check(bound | {tower: bound[tower] - 1e-9}, bound=bound).passed
        assert not check(bound | {tower: float("nan")}, bound=bound).passed


@pytest.mark.parametrize(
    ("stored", "judged_as"),
    [
        ({"image": "float32", "text": "float32"}, "float32"),
        ({"image": "float32", "text": "fp16"}, "fp16"),
        ({"image": "fp16", "text": "mixed"}, "mixed"),
        ({"image": "int8", "text": "float32"}, "int8"),
        ({"text": "fp16"}, "fp16"),
    ],
)
def test_towers_together_are_held_to_what_the_coarsest_can_keep(stored: dict[str, str], judged_as: str) -> None:
    assert Stored(stored).coarsest == judged_as


def test_words_name_towers_that_differ() -> None:
    assert in_words({"image": "mixed", "text": "mixed"}) == "a precision for each layer"
    assert in_words({"image": "mixed", "text": "fp16"}) == "image tower: a precision for each layer; text tower: fp16"


def test_each_candidate_is_told_which_layers_compute_with_floats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them where its recipe says so; of the smallest plan those that the job of rounding names."""
    given: dict[str, Any] = {}

    def convert(candidates: list[dict[str, Any]]) -> list[dict[str, Any]]:
        given.update({each["recipe"]: each for each in candidates})
        return [{} for _ in candidates]

    monkeypatch.setattr(choosing, "save_rows", lambda *_: None)
    monkeypatch.setattr(choosing, "try_all", lambda *_: [])
    request = make_request("litert", ("image", "text"), quantize="auto")
    found = {"layers": {}, "floats": {"mixed": [], "mixed-small": ["image_encoder/fc1"]}}
    unused: Any = None
    try_recipes(request, unused, tmp_path, convert, lambda *_: found, silent)
    assert {name: each["floats"] for name, each in given.items()} == {
        **dict.fromkeys(("float32", "fp16", "int8-weights", "int4-weights")),
        **{"int8": [], "mixed": [], "mixed-small": ["image_encoder/fc1"]},
    }
