"""Which parts of a model are trained, said in its config and set again in a new model.

A part is a layer or one variable. Its path is that in the weights file, below its tower, such as
"backbone/blocks/transformer_block_1".
"""

from collections.abc import Iterator
from typing import Any

import keras

from ..config_keys import TRAINABLE, TRAINABLE_PARTS
from ..layers.adapters import Adaptable, has_adapters, is_quantized, plain_variables
from ..layers.base import TowerLayer
from ..layers.paths import layers_by_path
from ..store.model_config import TOWERS

STATISTICS = ("moving_mean", "moving_variance", "num_batches_tracked")


def trainable_config(model: keras.Model) -> dict[str, Any]:
    """ "trainable" of the model itself, and of each part that differs from what it lies in."""
    parts = {} if _all_trainable(model) else _differing_parts(model)
    return {TRAINABLE: model.trainable, **({TRAINABLE_PARTS: parts} if parts else {})}


def set_trainable(model: keras.Model, config: dict[str, Any]) -> None:
    """Does to a new model what `trainable_config` gave.

    Raises:
        ValueError: where the model has no such part.
    """
    trainable, parts = config.get(TRAINABLE, True), config.get(TRAINABLE_PARTS, {})
    if trainable and not parts:
        return
    # A layer's flag goes down to all that it holds, and outer layers come first.
    layers, flags = dict(_layers(model)), dict[str, bool]()
    for path, layer in layers.items():
        flags[path] = parts.get(path, flags[_parent(path, flags)]) if path else trainable
        if layer.trainable != flags[path]:
            layer.trainable = flags[path]
    expected = {path: (variable, flag) for path, variable, flag in _variables(layers)}
    for path, (variable, flag) in expected.items():
        variable.trainable = parts.get(path, flag)
    if unknown := parts.keys() - flags.keys() - expected.keys():
        raise ValueError(f"The config freezes or trains what the model does not have: {', '.join(sorted(unknown))}.")


def freeze(model: keras.Model) -> None:
    """Freezes all parts of a model that was made with `trainable=False`, which Keras takes for its own flag alone."""
    model.trainable = True  # on TensorFlow, Keras passes over an attribute that is set to what it is already
    model.trainable = False


def _layers(model: keras.Model) -> Iterator[tuple[str, keras.layers.Layer]]:
    """Each layer once, outer ones first. The towers of a MobileClipModel go by the same names whichever are there."""
    yield "", model
    seen = {id(model)}
    for tower in TOWERS:
        encoder = getattr(model, f"{tower}_encoder", None)
        for path, layer in () if encoder is None else layers_by_path(encoder):
            seen.add(id(layer))
            yield f"{tower}_encoder/{path}".removesuffix("/"), layer
    yield from ((path, layer) for path, layer in layers_by_path(model) if id(layer) not in seen)


def _all_trainable(model: keras.Model) -> bool:
    """Whether nothing is frozen. A frozen layer shows by its variables, so no layer need be looked at."""
    return model.trainable and all(variable.trainable or variable.name in STATISTICS for variable in model.weights)


def _differing_parts(model: keras.Model) -> dict[str, bool]:
    layers, flags = dict(_layers(model)), dict[str, bool]()
    parts = {}
    for path, layer in layers.items():
        flags[path] = layer.trainable
        if path and layer.trainable != flags[_parent(path, flags)]:
            parts[path] = layer.trainable
    return parts | {path: v.trainable for path, v, expected in _variables(layers) if v.trainable != expected}


def _variables(layers: dict[str, Any]) -> Iterator[tuple[str, keras.Variable, bool]]:
    """Each variable that can be trained, by path, and whether it is where nobody set a flag of its own.

    Layers of other packages are left out: which of their variables are statistics is not known here.
    """
    owners: dict[int, tuple[str, keras.Variable]] = {}
    for path, layer in layers.items():  # outer layers come first, so that the innermost ends up as the owner
        owners |= {id(variable): (path, variable) for variable in layer.weights}
    for path, variable in owners.values():
        layer = layers[path]
        known = not path or isinstance(layer, TowerLayer | Adaptable)
        if known and variable.name not in STATISTICS and not _is_quantized_part(layer, variable):
            adapted = has_adapters(layer) and variable is plain_variables(layer)[0]
            yield f"{path}/{variable.name}".removeprefix("/"), variable, layer.trainable and not adapted


def _is_quantized_part(layer: Any, variable: keras.Variable) -> bool:
    return is_quantized(layer) and variable.name in (layer.MATRIX, f"{layer.MATRIX}_scale")


def _parent(path: str, known: dict[str, bool]) -> str:
    """The path of the layer that a layer lies in."""
    while path := path.rpartition("/")[0]:
        if path in known:
            break
    return path
