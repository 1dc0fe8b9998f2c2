"""LoRA adapters and int8 weights in the dense layers and the token embedding of a tower.

Keras has both for its own layers: `enable_lora(rank)` and `quantize("int8")`. Its subclasses it does not quantise. Its
files hold no adapters: they are merged when a model is saved. Here adapters are saved as they are, so that training
goes on, and are merged where a plain model is asked for. Source of LoRA: arXiv 2106.09685.
"""

import logging
from typing import Any, ClassVar

import keras
import numpy as np
from keras.ops import convert_to_numpy

from ..errors import MobileClipError
from ..kernels.memory import quick_collections
from .paths import layers_by_path

logger = logging.getLogger("mobileclip_keras")

QUANTIZATION_MODE = "int8"


class QuantizationError(MobileClipError, ValueError):
    """A model cannot be quantised in this way, or a quantised one cannot do this; also a ValueError."""


class Adaptable:
    """Mixed into a layer of Keras' kinds that has one matrix: keeps adapters in files, and is quantised to int8."""

    MATRIX: ClassVar[str]
    """Name of the matrix, "kernel" or "embeddings"."""
    SCALED_AXIS: ClassVar[int]
    """The axis of the matrix that has one scale for all its numbers when quantised."""

    def save_own_variables(self, store: Any) -> None:
        """As Keras, but adapters stay adapters: A, B and alpha come last."""
        layer: Any = self
        if not layer.lora_enabled:
            super().save_own_variables(store)  # type: ignore[misc]
            return
        values = [*plain_variables(layer), *adapters_of(layer), np.asarray(layer.lora_alpha, "float32")]
        for key, value in _numbered(values).items():
            store[key] = value

    def load_own_variables(self, store: Any) -> None:
        """As Keras. Adapters in the file are merged into the matrix where the layer has none.

        Raises:
            ValueError: where the file is of another kind of layer, or its adapters have another rank.
        """
        layer: Any = self
        plain = plain_variables(layer)
        if len(store.keys()) == len(plain):
            super().load_own_variables(store)  # type: ignore[misc]
            return
        if len(store.keys()) != len(plain) + 3:
            raise ValueError(self._refused(len(plain), len(store.keys())))
        *values, a, b, alpha = (np.asarray(store[str(index)]) for index in range(len(plain) + 3))
        if not layer.lora_enabled:
            logger.warning("%s has no LoRA adapters. Those in the file were merged into its weights.", layer.path)
            super().load_own_variables(_numbered(_merged(layer, values, a, b, float(alpha))))  # type: ignore[misc]
            return
        if a.shape[-1] != layer.lora_rank:
            self._refusal = (
                f"The LoRA adapters of {layer.path} have rank {layer.lora_rank}, those in the file {a.shape[-1]}."
            )
            raise ValueError(self._refusal)
        for variable, value in zip([*plain, *adapters_of(layer)], [*values, a, b], strict=True):
            variable.assign(value)
        layer.lora_alpha = float(alpha)

    _refusal = ""

    def _refused(self, own: int, stored: int) -> str:
        """Why the file does not fit. Keras tries again under the layer's other names, and shows the last message."""
        layer: Any = self
        if stored:
            self._refusal = (
                f"{layer.path} has {own} weights, and the file has {stored} for it. One of the two may be quantised."
            )
        return self._refusal or f"The file has no weights for {layer.path}."

    def quantize(self, mode: str | None = None, type_check: bool = True, config: Any = None) -> None:
        """As Keras does with its own layers, in int8 alone.

        Raises:
            QuantizationError: for another mode, or for quantizers of the user's own.
        """
        check_quantization(mode, config)
        with quick_collections():
            super().quantize(mode, type_check=False, config=config)  # type: ignore[misc]


def check_quantization(mode: str | None, config: Any = None) -> None:
    """Raises QuantizationError unless int8 is asked for, by Keras' default quantizers. Saved models keep no others."""
    mode = getattr(config, "mode", None) if mode is None else mode
    if mode != QUANTIZATION_MODE:
        raise QuantizationError(f"MobileCLIP's layers can be quantised to {QUANTIZATION_MODE!r}, not to {mode!r}.")
    if config is not None and _quantizers(config) != _quantizers(type(config)()):
        raise QuantizationError("MobileCLIP's layers are quantised by Keras' default quantizers. Leave `config` out.")


def _quantizers(config: Any) -> list[tuple[type, Any]]:
    quantizers = [getattr(config, f"{kind}_quantizer", None) for kind in ("weight", "activation")]
    return [(type(quantizer), quantizer and quantizer.get_config()) for quantizer in quantizers]


def is_quantized(layer: Any) -> bool:
    """Whether a layer's matrix holds whole numbers."""
    return getattr(layer, "quantization_mode", None) is not None


def has_adapters(layer: Any) -> bool:
    """Whether a layer of a tower has LoRA adapters."""
    return isinstance(layer, Adaptable) and bool(getattr(layer, "lora_enabled", False))


def adapters_of(layer: Any) -> list[keras.Variable]:
    """A, (inputs, rank), and B, (rank, outputs), of a layer that has adapters."""
    return [getattr(layer, f"lora_{layer.MATRIX}_{name}") for name in "ab"]


def plain_variables(layer: Any) -> list[keras.Variable]:
    """The weights of an `Adaptable` layer without its adapters, in the order of Keras' files."""
    named = {variable.name: variable for variable in layer.weights}
    return [named[name] for name in (layer.MATRIX, "bias", f"{layer.MATRIX}_scale") if name in named]


def matrix_of(layer: Any) -> np.ndarray:
    """The matrix of a layer that is not quantised, in float64, with its adapters merged."""
    return convert_to_numpy(merged_weights(layer)["0"]).astype(np.float64)


def merged_weights(layer: Any) -> dict[str, Any]:
    """What `load_own_variables` takes to make a layer without adapters compute what this one does."""
    plain = [convert_to_numpy(variable) for variable in plain_variables(layer)]
    if has_adapters(layer):
        a, b = map(convert_to_numpy, adapters_of(layer))
        plain = _merged(layer, plain, a, b, layer.lora_alpha)
    return _numbered(plain)


def adapted_pairs(source: Any, target: Any) -> list[tuple[Any, Any]]:
    """The layers of `source` that have adapters, each with its counterpart in `target`, which is built like it."""
    pairs = zip(layers_by_path(source), layers_by_path(target), strict=True)
    return [(one, other) for (_, one), (_, other) in pairs if has_adapters(one)]


def other_variables(
    source: Any, target: Any, adapted: list[tuple[Any, Any]]
) -> list[tuple[keras.Variable, keras.Variable]]:
    """The variables of all layers but those, in pairs."""
    apart = {id(variable) for pair in adapted for layer in pair for variable in layer.weights}
    weights = ([v for v in whole.weights if id(v) not in apart] for whole in (source, target))
    return list(zip(*weights, strict=True))


def _merged(layer: Any, plain: list[np.ndarray], a: np.ndarray, b: np.ndarray, alpha: float) -> list[np.ndarray]:
    """The plain weights with A and B added to the matrix, in float64 unless the layer is quantised."""
    matrix, *others = plain
    added = alpha / a.shape[-1] * (a.astype(np.float64) @ b.astype(np.float64))
    if not is_quantized(layer):
        return [matrix.astype(np.float64) + added, *others]
    *others, scale = others
    exact = matrix / np.expand_dims(scale.astype(np.float64), layer.SCALED_AXIS) + added
    quantizer = keras.quantizers.AbsMaxQuantizer(axis=layer.SCALED_AXIS)
    matrix, scale = map(convert_to_numpy, quantizer(exact.astype(np.float32)))
    return [matrix, *others, scale.squeeze(layer.SCALED_AXIS)]


def _numbered(values: list[Any]) -> dict[str, Any]:
    return {str(index): value for index, value in enumerate(values)}
