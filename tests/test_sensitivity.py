"""Tables of embeddings: how much features depend on what they give, and how rounding makes up for itself by it."""

from typing import Any

import keras
import numpy as np
import pytest

from mobileclip_keras.converters.deploy.quantize.options import option
from mobileclip_keras.converters.deploy.quantize.rounding import how_stored
from mobileclip_keras.converters.deploy.quantize.sensitivity import DIRECTIONS, sensitivity
from mobileclip_keras.converters.deploy.quantize.weights import Weight, described

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow decides for every runtime")

LENGTH = 5


def table(width: int, rows: int = 300) -> Weight:
    """With numbers of heavy tails."""
    layer = keras.layers.Embedding(rows, width, name="words")
    layer.build()
    layer.embeddings.assign(np.random.default_rng(0).standard_t(4, (rows, width)))
    about = described(layer)
    assert about is not None
    return Weight("text_encoder/words/embeddings", "embedding", layer, layer.embeddings, None, about[2])


def tower(weight: Weight, into: np.ndarray) -> Any:
    """Features that are a product of each token's row, added up."""
    return lambda ids: keras.ops.sum(keras.ops.matmul(weight.layer(ids), keras.ops.convert_to_tensor(into)), 1)


def batches() -> list[np.ndarray]:
    return [np.random.default_rng(1).integers(0, 300, (rows, LENGTH)).astype(np.int32) for rows in (3, 2)]


def test_it_is_the_products_of_derivatives_over_tokens_and_directions() -> None:
    weight = table(16)
    into = np.random.default_rng(2).normal(size=(16, 4)).astype(np.float32)
    made = sensitivity(tower(weight, into), batches(), weight)
    chance = np.random.default_rng(0)
    directions = np.concatenate([chance.standard_normal((rows, 4)) for rows in (3, 2) for _ in range(DIRECTIONS)])
    slopes = directions @ into.T
    assert made.dtype == np.float64
    assert np.allclose(made, LENGTH * slopes.T @ slopes, rtol=1e-4, atol=1e-4 * np.abs(made).max())


def test_the_layer_is_left_as_it_was_also_after_an_error() -> None:
    weight = table(16)

    def broken(ids: Any) -> Any:
        weight.layer(ids)
        raise KeyError

    with pytest.raises(KeyError):
        sensitivity(broken, batches(), weight)
    assert "call" not in vars(weight.layer)


@pytest.mark.parametrize("width", [64, 160])
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_what_features_depend_on_much_is_rounded_with_less_error(width: int, precision: str) -> None:
    """For rows that have a scale each in the file, and for those that have factors."""
    weight, chance = table(width), np.random.default_rng(3)
    seen, unseen = (chance.normal(size=(400, width // 4)) for _ in range(2))
    into = chance.normal(size=(width // 4, width)) * np.geomspace(1, 30, width // 4)[:, None]
    moment = (seen @ into).T @ (seen @ into)
    errors = []
    for sensitive in (None, moment):
        made = option(weight, precision, {}, sensitive)
        stored, axes = (made.kernel, (0,)) if made.stored is None else (made.stored[0], ())
        assert how_stored(stored, (0,)) == (precision, axes)
        errors.append(np.square(unseen @ into @ (made.kernel - weight.value()).T).mean())
    assert errors[1] < 0.3 * errors[0]


def test_an_empty_table_stays_empty() -> None:
    for width in (64, 160):
        weight = table(width)
        weight.variable.assign(np.zeros((300, width)))
        assert not option(weight, "int8", {}, np.eye(width)).kernel.any()
