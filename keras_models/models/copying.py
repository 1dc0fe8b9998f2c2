"""Copies of a model that compute in another dtype."""

from typing import Any

import keras

from ..kernels.memory import no_collection
from ..layers.initializers import to_be_overwritten
from .model import MobileClipModel


def copy_model(model: MobileClipModel, dtype: str | None = None) -> MobileClipModel:
    """A new model with the same weights.

    Args:
        model: a MobileClipModel in any form.
        dtype: dtype policy of every layer of the copy; None for the model's own.
    """
    config = model.get_config()
    if dtype is not None:
        set_dtype(config, dtype)
    with to_be_overwritten(), no_collection():
        copy = MobileClipModel.from_config(config)
    for source, target in zip(model.weights, copy.weights, strict=True):
        target.assign(source)
    return copy


def set_dtype(config: dict[str, Any], dtype: str) -> None:
    """Sets the dtype policy of a MobileClipModel's config and of its towers'.

    Raises:
        ValueError: where Keras knows no such policy.
    """
    policy = keras.saving.serialize_keras_object(keras.dtype_policies.get(dtype))
    towers = [config[key]["config"] for key in ("image_encoder", "text_encoder") if config[key]]
    for part in (config, *towers):
        part["dtype"] = policy
