"""Copies of a model, in its own dtype or another."""

from typing import TYPE_CHECKING

from .. import kernels
from ..kernels.memory import no_collection
from ..layers.initializers import to_be_overwritten
from ..store.model_config import set_dtype

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
    with to_be_overwritten(), no_collection():
        copy = type(model).from_config(config)
    for source, target in zip(model.weights, copy.weights, strict=True):
        kernels.copy_value(source, target)
    return copy
