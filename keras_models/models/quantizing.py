"""Models whose dense layers and token embedding can be made int8."""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import keras

from .. import kernels
from ..layers.adapters import QUANTIZATION_MODE, QuantizationError, check_quantization, is_quantized, logger
from ..layers.paths import layers_by_path

Filters = str | Sequence[str] | Callable[[Any], bool] | None


class Quantizable:
    """Mixed into a model: `quantize` makes int8 what Keras can, and says what it made and what it left."""

    def quantize(self, mode: str | None = None, config: Any = None, filters: Filters = None, **kwargs: Any) -> None:
        """Makes the matrices of dense layers and of the token embedding 8-bit integers, in place.

        Everything else keeps its floats: convolutions, norms, position embeddings and the image projection. The
        weights file becomes about a quarter as large. Saving and loading keep the integers. Folding and the way
        back to PyTorch do not take them, so fold first.

        Images suffer more than texts. On s0 with synthetic weights, the cosine between features before and after
        is 0.9996 or more for texts and 0.998 for images. Measure on your own data; a tower's own `quantize` leaves
        the other one alone.

        Args:
            mode: "int8". Keras' other modes are refused.
            config: None, or `keras.quantizers.Int8QuantizationConfig()` without quantizers of your own.
            filters: of which layers, as in Keras: a regular expression for their names or paths, a list of such,
                or a function that takes a layer. None for all.
            kwargs: `type_check`, which Keras takes, means nothing here.

        Raises:
            QuantizationError: for another mode, own quantizers, or where there is nothing to quantise.
            ValueError: for a model that computes in float16.
        """
        check_quantization(mode, config)
        model: Any = self
        floats = [layer for _, layer in layers_by_path(model) if _is_matrix(layer) and not is_quantized(layer)]
        made = [layer for layer in floats if _wanted(layer, filters) and _quantized(layer)]
        if not made:
            raise QuantizationError("There is nothing to quantise: no dense layer or embedding that is still float.")
        # What Keras compiled reads the variables that there were before.
        model.train_function = model.test_function = model.predict_function = None
        kernels.variables_changed(model)
        logger.warning("%s", _report(model, made, [layer for layer in floats if layer not in made]))

    def quantized_layers(self) -> list[str]:
        """The layers whose weights are integers, by path."""
        layers: Any = layers_by_path(self)
        return [layer.path for _, layer in layers if is_quantized(layer)]


def _is_matrix(layer: Any) -> bool:
    return isinstance(layer, keras.layers.Dense | keras.layers.EinsumDense | keras.layers.Embedding)


def _wanted(layer: Any, filters: Filters) -> bool:
    if filters is None or callable(filters):
        return filters is None or bool(filters(layer))
    patterns = [filters] if isinstance(filters, str) else filters
    return any(re.search(pattern, name) for pattern in patterns for name in (layer.name, layer.path))


def _quantized(layer: Any) -> bool:
    """Quantises a layer, unless it is of a kind of the user's own that Keras does not quantise."""
    try:
        layer.quantize(QUANTIZATION_MODE)
    except NotImplementedError:  # so Keras says it; the report names the layer among those that stay floats
        return False
    return True


def _report(model: Any, made: list[Any], left: list[Any]) -> str:
    whole = sum(math.prod(variable.shape) for variable in model.weights)
    numbers = sum(math.prod(variable.shape) for layer in made for variable in layer.weights if variable.dtype == "int8")
    parts = [
        f"{len(made)} layers of {model.name} are int8 now, with {numbers / whole:.1%} of its numbers; "
        "`quantized_layers()` lists them.",
        "Convolutions, norms, position embeddings and the image projection stay floats.",
    ]
    if left:
        parts.append(f"So do these dense layers: {', '.join(layer.path for layer in left)}.")
    return " ".join(parts)
