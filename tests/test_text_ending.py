"""The last blocks of a text tower, computed for the end of each text alone: as if they were computed everywhere."""

import keras
import numpy as np
import pytest

from .small import small_model

pytestmark = [
    pytest.mark.usefixtures("small_towers"),
    pytest.mark.backend,
    pytest.mark.skipif(keras.backend.backend() == "jax", reason="compiles each operation, and looks nothing up"),
]

LENGTH = 77


@pytest.mark.parametrize("tower", ["small_mct", "small_transformer", "small_transformer_causal"])
def test_one_text_alone_has_the_features_that_it_has_among_others(tower: str) -> None:
    """Of one text, PyTorch looks up where it ends; near either edge, the last blocks see fewer positions."""
    encoder = small_model("small_vit", tower).text_encoder
    tokens = np.random.default_rng(0).integers(1, 40, (6, LENGTH)).astype("int32")
    for row, place in enumerate((0, 1, 5, 40, LENGTH - 2, LENGTH - 1)):
        tokens[row, place] = 49407
    everywhere = keras.ops.convert_to_numpy(encoder.stage_outputs(tokens)["features"])
    together = keras.ops.convert_to_numpy(encoder(tokens))
    alone = np.concatenate([keras.ops.convert_to_numpy(encoder(tokens[row : row + 1])) for row in range(len(tokens))])
    scale = np.abs(everywhere).max()
    assert np.abs(together - everywhere).max() <= 1e-5 * scale
    assert np.abs(alone - everywhere).max() <= 1e-5 * scale
