"""What became of a tower's layers: frozen parts, LoRA adapters, int8 weights.

A tower is rebuilt from its hyperparameters, which know of none of these. So its config says them beside those, by the
paths of the weights file, and only where there are any.
"""

import math
from typing import Any

import keras

from .. import kernels
from ..config_keys import ADAPTERS, OWN_STATE, QUANTIZED, TRAINABLE, TRAINABLE_PARTS
from ..layers.adapters import (
    QUANTIZATION_MODE,
    Adaptable,
    QuantizationError,
    has_adapters,
    is_quantized,
    plain_variables,
)
from ..layers.paths import layers_by_path
from ..store.model_config import TOWERS
from .trainable import set_trainable, trainable_config


def own_config(model: keras.Model) -> dict[str, Any]:
    """The entries of a config that say what became of the layers of a tower or model."""
    config = trainable_config(model)
    if any(variable.name.startswith("lora_") or variable.dtype == "int8" for variable in model.weights):
        layers = _adaptable(model)
        lora = {path: [layer.lora_rank, layer.lora_alpha] for path, layer in layers.items() if has_adapters(layer)}
        quantized = [path for path, layer in layers.items() if is_quantized(layer)]
        config |= {key: value for key, value in ((ADAPTERS, lora), (QUANTIZED, quantized)) if value}
    return config


def split_config(config: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A config's hyperparameters, and what `restore` takes."""
    own = {key: config[key] for key in OWN_STATE if key in config}
    return {key: value for key, value in config.items() if key not in own}, own


def restore(model: keras.Model, own: dict[str, Any]) -> None:
    """Makes a new model what `own_config` said. Its weights are assigned afterwards.

    Raises:
        QuantizationError: where it is quantised and in a dtype that does not go with it.
        ValueError: where the model has no such part.
    """
    _check(own)
    quantized, lora = own.get(QUANTIZED, []), own.get(ADAPTERS, {})
    layers = _adaptable(model) if quantized or lora else {}
    if unknown := {*quantized, *lora} - layers.keys():
        raise ValueError(f"The config speaks of layers that the model does not have: {', '.join(sorted(unknown))}.")
    for path in quantized:
        if layers[path].compute_dtype == "float16":
            raise QuantizationError("A model of int8 weights does not go with float16. Use float32 or bfloat16.")
        layers[path].quantize(QUANTIZATION_MODE)
    for path, (rank, alpha) in lora.items():
        if not 1 <= rank <= max(plain_variables(layers[path])[0].shape):
            raise ValueError(f"The config gives {path} LoRA adapters of rank {rank}, which is larger than the layer.")
        layers[path].enable_lora(rank, lora_alpha=alpha)
    if layers:
        kernels.variables_changed(model)
    set_trainable(model, own)


def _check(own: dict[str, Any]) -> None:
    """Raises ValueError where entries that may come from a stranger's file are of the wrong kinds."""
    quantized, lora, parts = own.get(QUANTIZED, []), own.get(ADAPTERS, {}), own.get(TRAINABLE_PARTS, {})
    right = isinstance(own.get(TRAINABLE, True), bool)
    right &= isinstance(quantized, list) and all(isinstance(path, str) for path in quantized)
    right &= isinstance(parts, dict) and all(isinstance(flag, bool) for flag in parts.values())
    right &= isinstance(lora, dict) and all(map(_is_rank_and_alpha, lora.values()))
    if not right:
        raise ValueError("The config's entries on frozen, quantised or adapted layers are malformed.")


def _is_rank_and_alpha(value: Any) -> bool:
    if not isinstance(value, list | tuple) or len(value) != 2:
        return False
    rank, alpha = value
    return type(rank) is int and isinstance(alpha, int | float) and math.isfinite(alpha)


def drop_adapters(config: dict[str, Any]) -> None:
    """Takes the adapters out of a MobileClipModel's config. Their layers are then as trainable as their flags say.

    Args:
        config: changed in place.
    """
    for tower in TOWERS:
        encoder = config[f"{tower}_encoder"]
        lora = encoder["config"].pop(ADAPTERS, {}) if encoder else {}
        for part, prefix in ((encoder and encoder["config"], ""), (config, f"{tower}_encoder/")):
            for path in [*part.get(TRAINABLE_PARTS, ())] if lora else ():
                layer, _, name = path.removeprefix(prefix).rpartition("/")
                if layer in lora and name != "bias":
                    del part[TRAINABLE_PARTS][path]


def _adaptable(model: keras.Model) -> dict[str, Any]:
    return {path: layer for path, layer in layers_by_path(model) if isinstance(layer, Adaptable)}
