"""Freezing whole parts of a model. Layers and variables have Keras' own `trainable` for anything finer."""

import logging
from typing import Any

import keras

from .. import kernels
from ..layers.adapters import has_adapters, plain_variables
from ..layers.paths import layers_by_path
from ..store.variables import logit_variables

logger = logging.getLogger("mobileclip_keras")

NORMS = (
    keras.layers.BatchNormalization,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
)
"""MobileCLIP's own norms are subclasses of these."""


def set_trainable(model: Any, trainable: bool, image: bool, text: bool, norms: bool) -> None:
    """Freezes or thaws towers, the norms of both towers, or, where none of them is named, the whole model.

    Raises:
        ValueError: for a tower that the model does not have.
    """
    set_flags(model, trainable, image, text, norms)
    trained_parts_changed(model)


def set_flags(model: Any, trainable: bool, image: bool = False, text: bool = False, norms: bool = False) -> None:
    """`set_trainable`, of which nobody is told yet.

    Matrices that have LoRA adapters stay frozen.

    Raises:
        ValueError: for a tower that the model does not have.
    """
    towers = {"image": image, "text": text}
    parts = [_tower(model, name) for name, wanted in towers.items() if wanted]
    if norms:
        parts += [layer for _, layer in layers_by_path(model) if isinstance(layer, NORMS)]
    if not model.trainable:  # Keras would ask no further
        model.trainable = True
        for part in _all_parts(model):
            _set(part, False)
    for part in parts or _all_parts(model):
        _set(part, trainable)
    for _, layer in layers_by_path(model) if trainable else ():
        if has_adapters(layer):
            plain_variables(layer)[0].trainable = False


def trained_parts_changed(model: Any) -> None:
    """Forgets what Keras compiled for other variables, and says what is left to do."""
    model.train_function = model.test_function = model.predict_function = None
    kernels.variables_changed(model)
    if model.compiled:
        logger.warning("%s trains other variables now. Call compile again before fit.", model.name)


def _all_parts(model: Any) -> list[Any]:
    towers = [tower for tower in (model.image_encoder, model.text_encoder) if tower is not None]
    return [*towers, *logit_variables(model).values()]


def _set(part: Any, trainable: bool) -> None:
    """Sets the flag of a layer and of all within, or of a variable.

    On TensorFlow, Keras passes over a layer whose flag is set to what it is already, and over all within.
    """
    for layer in [part] if isinstance(part, keras.Variable) else [layer for _, layer in layers_by_path(part)]:
        layer.trainable = not trainable
        layer.trainable = trainable


def _tower(model: Any, name: str) -> Any:
    tower = getattr(model, f"{name}_encoder")
    if tower is None:
        raise ValueError(f"This model has no {name} tower.")
    return tower
