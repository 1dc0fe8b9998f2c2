"""Reading Keras' HDF5 weights by the names of layers, which takes half the time that Keras takes."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import keras
import ml_dtypes
import numpy as np

from .variables import variables_by_name

VARIABLES = "vars"


def load_weights(model: keras.Model, path: Path) -> None:
    """Assigns the weights in a file to a MobileClipModel, as `model.load_weights(path)` does.

    Keras finds a layer's weights by looking into every attribute of every layer above it. But it also writes
    each layer's name beside its weights, and names are enough for every tower of this package: only what the
    model has is looked for, and read. Models with other layers, where the names do not lead to exactly one
    array for each variable, are left to Keras.

    Raises:
        OSError, ValueError, KeyError: where the file is damaged, or of another model.
    """
    layers: dict[str, list[keras.Variable]] = {}
    # Without both towers, the scale of the logits is not among the named.
    named = {**variables_by_name(model), "logit_scale": model.logit_scale}
    for name, variable in named.items():
        layers.setdefault(name.rpartition("/")[0], []).append(variable)
    with h5py.File(path) as file:
        found = dict(_layers(file, "", set(layers)))
        if all(_fits(variables, found.get(name)) for name, variables in layers.items()):
            for name, variables in layers.items():
                for index, variable in enumerate(variables):
                    variable.assign(_read(found[name][str(index)]))
            return
    model.load_weights(path)


def _layers(group: Any, path: str, wanted: set[str]) -> Iterator[tuple[str, Any]]:
    """The weights of each layer by the layer's path, below a group that belongs to the layer at `path`."""
    if VARIABLES in group:
        yield path, group[VARIABLES]
    for key in group:
        if key == VARIABLES:
            continue
        child = group[key]
        inner = path
        if VARIABLES in child:  # else it is a list of layers, which has no name of its own
            name = child[VARIABLES].attrs.get("name", key)
            inner = f"{path}/{name}".removeprefix("/")
            if not any(layer == inner or layer.startswith(f"{inner}/") for layer in wanted):
                continue
        yield from _layers(child, inner, wanted)


def _fits(variables: list[keras.Variable], group: Mapping[str, Any] | None) -> bool:
    """Whether a layer's weights in the file are as many as its variables, in the same shapes."""
    if group is None or len(group) != len(variables):
        return False
    return all(group[str(index)].shape == tuple(v.shape) for index, v in enumerate(variables))


def _read(dataset: Any) -> np.ndarray:
    """An array; bfloat16, which HDF5 does not know, is marked by Keras."""
    if dataset.attrs.get("dtype") == "bfloat16":
        return np.array(dataset, dtype=ml_dtypes.bfloat16)
    return dataset[()]
