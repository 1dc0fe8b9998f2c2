"""One step of `fit`, and all that it makes of a model."""

from typing import Any

import keras
import numpy as np

from mobileclip_keras.keras_models.models.copying import copy_model
from mobileclip_keras.keras_models.models.model import MobileClipModel
from mobileclip_keras.verify.data import synthetic

TEXT = "small_mct_of_64_words"
ROWS = 7
CHUNK = 3  # chunks of 3, 2 and 2
PAIRS = {"image": synthetic.images(ROWS, 64, seed=0)[:ROWS], "text": synthetic.tokens(ROWS, seed=0)[:ROWS] % 64}


@keras.saving.register_keras_serializable("tests")
class Kept(keras.optimizers.SGD):
    """Puts each gradient in place of its weight."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        self.assign(variable, keras.ops.zeros(variable.shape, variable.dtype))
        self.assign_add(variable, keras.ops.cast(gradient, variable.dtype))


def step(
    model: MobileClipModel,
    chunk_size: int | None = None,
    eager: bool = False,
    order: list[int] | None = None,
    pairs: dict[str, np.ndarray] = PAIRS,
    **options: Any,
) -> dict[str, Any]:
    """The loss of one step of `fit`, what it makes of each variable, and the gradients in place of the weights.

    Args:
        model: left as it is.
        chunk_size, eager: of `compile`.
        order: of the pairs; None for their own.
        pairs: images and texts, which are one batch.
        options: of `fit`.
    """
    copy = copy_model(model)
    copy.compile(Kept(), chunk_size=chunk_size, run_eagerly=eager)
    rows = len(pairs["text"])
    pairs = pairs if order is None else {name: array[order] for name, array in pairs.items()}
    history = copy.fit(pairs, batch_size=rows, shuffle=False, verbose=0, **options).history
    named = {name_of(number, v): v for number, v in enumerate(copy.weights)}
    found = {name: np.array(keras.ops.convert_to_numpy(v), "float64") for name, v in named.items()}
    return {**found, "loss": np.array(history["loss"])}


def name_of(number: int, variable: keras.Variable) -> str:
    return f"{number} {variable.name}{' gradient' if variable.trainable else ''}"


def difference(one: dict[str, Any], other: dict[str, Any], loss: float = 5e-7) -> float:
    """The largest difference, relative to the largest number of that variable; a gradient's is taken for a thousandth
    of the largest gradient at least, as some are zero but for rounding. The losses, of which Keras keeps a mean in
    float32, must be the same to `loss`, its last bits."""
    assert one.keys() == other.keys() and np.allclose(one["loss"], other["loss"], rtol=loss)
    largest = {name: np.abs(value).max(initial=0) for name, value in one.items() if name != "loss"}
    least = 1e-3 * max(size for name, size in largest.items() if name.endswith("gradient"))
    sizes = {name: max(size, least if name.endswith("gradient") else 1e-30) for name, size in largest.items()}
    return max(np.abs(one[name] - other[name]).max(initial=0) / size for name, size in sizes.items())
