"""Copies of a model: in its own dtype or another, with its LoRA adapters or with them merged."""

from typing import TYPE_CHECKING, Any

import keras

from .. import kernels
from ..kernels.memory import no_collection
from ..layers.adapters import adapted_pairs, has_adapters, logger, merged_weights, other_variables
from ..layers.initializers import to_be_overwritten
from ..layers.paths import layers_by_path
from ..store.model_config import set_dtype
from .own_state import drop_adapters

if TYPE_CHECKING:
    from .model import MobileClipModel


def copy_model(model: "MobileClipModel", dtype: str | None = None) -> "MobileClipModel":
    """A new model with the same weights, not compiled.

    Args:
        model: in any form.
        dtype: dtype policy of every layer of the copy; None for the model's own.
    """
    config = model.get_config()
    if dtype is not None:
        set_dtype(config, dtype)
    copy = _from_config(model, config)
    for source, target in zip(model.weights, copy.weights, strict=True):
        kernels.copy_value(source, target)
    return copy


def adapted_layers(model: keras.Model) -> list[Any]:
    """The layers of a model that have LoRA adapters."""
    return [layer for _, layer in layers_by_path(model) if has_adapters(layer)]


def merged_copy(model: "MobileClipModel") -> "MobileClipModel":
    """A new model that computes the same without LoRA adapters, which a log message says. `model` keeps its own."""
    config = model.get_config()
    drop_adapters(config)
    copy = _from_config(model, config)
    adapted = adapted_pairs(model, copy)
    for source, target in other_variables(model, copy, adapted):
        kernels.copy_value(source, target)
    for source, target in adapted:
        target.load_own_variables(merged_weights(source))
    logger.warning("The LoRA adapters of %d layers were merged into the weights of what is written.", len(adapted))
    return copy


def _from_config(model: "MobileClipModel", config: dict[str, Any]) -> "MobileClipModel":
    with to_be_overwritten(), no_collection():
        return type(model).from_config(config)
