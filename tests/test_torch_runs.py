"""PyTorch's runs in float32: what changes between them, and what they are shared by."""

import numpy as np
import pytest

from mobileclip_keras.verify.torch_models.runs import MORE_RUNS, change_last_bits, run

from .small_verified import MCI, VIT, Pair, inputs, reference

pytestmark = pytest.mark.usefixtures("small_towers")


def ulps(changed: np.ndarray, array: np.ndarray) -> np.ndarray:
    return (changed.astype(np.float64) - array) / np.spacing(np.abs(array)).astype(np.float64)


def test_numbers_move_as_far_as_rounding_moves_them() -> None:
    array = np.random.default_rng(0).normal(size=(300, 400)).astype(np.float32)
    moved = ulps(change_last_bits(array, np.random.default_rng(1)), array)
    assert np.abs(moved).max() <= 1 and abs(moved.mean()) < 2e-3
    assert np.sqrt(np.mean(moved**2)) == pytest.approx(12**-0.5, rel=0.02)


def test_numbers_without_a_neighbour_stay() -> None:
    array = np.tile(np.array([0.0, -0.0, np.inf, -np.inf], np.float32), 200)
    assert np.array_equal(change_last_bits(array, np.random.default_rng(0)), array)


@pytest.mark.torch
@pytest.mark.parametrize("pair", [MCI, VIT], ids=str)
def test_weights_and_statistics_change_for_a_run(pair: Pair) -> None:
    single = reference(pair).to("float32")

    def state() -> dict[str, np.ndarray]:
        return {name: array.numpy().copy() for name, array in single.image_tower.state_dict().items()}

    before = state()
    with pytest.raises(KeyError), single.changed(lambda array: array + 1):
        for name, array in state().items():
            assert np.array_equal(array, before[name] + 1 if array.dtype == np.float32 else before[name]), name
        raise KeyError
    assert all(np.array_equal(array, before[name]) for name, array in state().items())


@pytest.mark.torch
def test_what_follows_from_weights_alone_is_rounded_anew_in_each_run() -> None:
    """The errors of runs that share weights resemble each other: their difference from float64 is partly the same."""
    exact = reference(MCI)
    single, given = exact.to("float32"), inputs(MCI[0])
    truth = exact.encode_image(given.images)

    def errors(way_by_way: list[np.ndarray]) -> float:
        found = [(features - truth).ravel() for features in way_by_way]
        return float(np.mean(np.corrcoef(found)[np.triu_indices(len(found), 1)]))

    pixels = [change_last_bits(given.images, np.random.default_rng(seed)) for seed in range(6)]
    same_weights = errors([single.folded.encode_image(images) for images in pixels])
    assert same_weights > errors([run(single, way, given).image for way in MORE_RUNS[:12:2]]) + 0.05
