"""Tables of embeddings whose rows have factors: what they hold, how near they are, and how files keep them."""

from pathlib import Path

import keras
import numpy as np
import pytest

from mobileclip_keras.converters.deploy.quantize.changing import changed, changes
from mobileclip_keras.converters.deploy.quantize.means import measuring
from mobileclip_keras.converters.deploy.quantize.options import option
from mobileclip_keras.converters.deploy.quantize.rounding import how_stored, rounded
from mobileclip_keras.converters.deploy.quantize.row_scales import by_rows
from mobileclip_keras.converters.deploy.quantize.weights import Weight, described, weights_of

from .small import small_model
from .support import TOKENS

TABLE = np.random.default_rng(0).normal(0, 1, (2000, 16)).astype(np.float32)
TABLE *= np.random.default_rng(1).uniform(0.05, 1, (2000, 1)).astype(np.float32)


def test_a_row_has_the_levels_of_its_own_range() -> None:
    table, factors = by_rows(TABLE, 8)
    error, of_one = (np.linalg.norm(each - TABLE, axis=1) for each in (table * factors, rounded(TABLE, (), 8)))
    assert np.median(error) < 0.3 * np.median(of_one)
    assert (error / np.linalg.norm(TABLE, axis=1)).max() < 0.05
    assert np.abs(table).max() == 1 and factors.min() > 0


def test_both_are_stored_with_one_scale_each() -> None:
    table, factors = by_rows(TABLE, 8)
    assert how_stored(table, (0,)) == how_stored(factors, (0,)) == ("int8", ())
    assert by_rows(np.zeros_like(TABLE), 8)[0].any() == np.False_


@pytest.mark.usefixtures("small_towers")
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="every route goes through TensorFlow")
def test_a_tower_computes_with_both(tmp_path: Path) -> None:
    """Within the context alone, and the same as with the product in the place of the table."""
    model = small_model(None, "small_transformer", form="inference")
    (weight,) = (each for each in weights_of(model) if each.kind == "embedding")
    plan = {each.name: "float32" for each in weights_of(model)} | {weight.name: "int8"}
    options = {weight.name: {"int8": option(weight, "int8", {})}}
    assert options[weight.name]["int8"].bytes == 17 / 16 * weight.value().size

    def features() -> np.ndarray:
        return keras.ops.convert_to_numpy(model.text_encoder(TOKENS))

    before, own = features(), weight.value()
    with changed([weight], changes([weight], options, plan)):
        rounded_features = features()
    assert np.array_equal(features(), before) and np.array_equal(weight.value(), own)
    weight.variable.assign(options[weight.name]["int8"].kernel)
    assert np.abs(rounded_features - before).max() > 0 and np.abs(features() - rounded_features).max() < 1e-5


@pytest.mark.parametrize("width", [64, 160])
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_the_row_that_is_looked_up_most_has_no_error(width: int, precision: str) -> None:
    """The embeddings of positions give back what is taken off; the others' errors are no larger than without."""
    chance = np.random.default_rng(0)
    layer = keras.layers.Embedding(300, width, name="words")
    layer.build()
    layer.embeddings.assign(chance.standard_t(4, (300, width)))
    positions = keras.Variable(chance.normal(size=(77, width)), name="positions")
    about = described(layer)
    assert about is not None
    weight = Weight("text_encoder/words/embeddings", "embedding", layer, layer.embeddings, positions, about[2])
    ids = np.full((2, 77), 7)
    ids[:, :9] = np.arange(18).reshape(2, 9)
    with measuring([weight]) as means:
        layer(ids)
    assert means[weight.name].mean.sum() == pytest.approx(1) and means[weight.name].mean[7] == (154 - 18 + 1) / 154
    plain, made = (option(weight, precision, each) for each in ({}, means))
    assert plain.bias is None and made.bias is not None
    errors = [plain.kernel - weight.value(), made.kernel + (made.bias - weight.bias_value())[0] - weight.value()]
    assert np.abs(errors[0][7]).max() > 0.01 and np.abs(errors[1][7]).max() < 1e-5
    assert np.square(errors[1]).mean() < 1.05 * np.square(errors[0]).mean()
    assert np.allclose(made.bias - weight.bias_value(), errors[0][7] * -1, atol=1e-5)
    stored, axes = (made.kernel, (0,)) if made.stored is None else (made.stored[0], ())
    assert how_stored(stored, (0,)) == (precision, axes)


@pytest.mark.usefixtures("small_towers")
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="every route goes through TensorFlow")
def test_a_text_of_padding_alone_loses_nothing_by_a_rounded_table() -> None:
    model = small_model(None, "small_mct", form="inference")
    weights = weights_of(model)
    (table,) = (each for each in weights if each.kind == "embedding")
    tokens = np.zeros((1, 77), np.int32)

    def features() -> np.ndarray:
        return keras.ops.convert_to_numpy(model.text_encoder(tokens))

    with measuring([table]) as means:
        before = features()
    plan = {table.name: "int4"}
    apart = []
    for found in ({}, means):
        options = {table.name: {"int4": option(table, "int4", found)}}
        with changed([table], changes([table], options, plan)):
            apart.append(np.abs(features() - before).max())
    assert apart[1] < 1e-5 < 1e-3 < apart[0]
    assert np.array_equal(features(), before)
