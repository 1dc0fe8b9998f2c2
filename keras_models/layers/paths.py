"""The layers of a model by path, as Keras names them in the files that it writes."""

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import keras


def layers_by_path(model: keras.Model) -> Iterator[tuple[str, keras.layers.Layer]]:
    """Each layer of a model once, by its path in the file, in Keras' order; the model itself by ""."""
    seen: set[int] = set()

    def walk(layer: keras.layers.Layer, path: str) -> Iterator[tuple[str, keras.layers.Layer]]:
        if id(layer) in seen:
            return
        seen.add(id(layer))
        yield path, layer
        for name, value in _attributes(layer):
            inner = f"{path}/{name}".removeprefix("/")
            if isinstance(value, keras.layers.Layer):
                yield from walk(value, inner)
            else:
                for key, listed in _numbered(value):
                    yield from walk(listed, f"{inner}/{key}")

    return walk(model, "")


def _attributes(layer: keras.layers.Layer) -> Iterator[tuple[str, Any]]:
    """The attributes in which a layer keeps layers, or lists of them, private ones last."""
    names = set(dir(layer)) - _attributes_of_any_layer()
    for name in sorted(names, key=lambda name: (name.startswith("_"), name)):
        try:
            value = getattr(layer, name)
        except Exception:  # as Keras does: some properties raise before a model is compiled, each its own error
            continue
        if isinstance(value, keras.layers.Layer | list | tuple | dict):
            yield name, value


@cache
def _attributes_of_any_layer() -> frozenset[str]:
    return frozenset(dir(keras.layers.Layer()))


def _numbered(container: Any) -> Iterator[tuple[str, keras.layers.Layer]]:
    """The layers in a list by their class: "rep_mixer_block", "rep_mixer_block_1"."""
    counts: dict[str, int] = {}
    for value in container.values() if isinstance(container, dict) else container:
        if isinstance(value, keras.layers.Layer):
            name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", type(value).__name__).lower()
            number = counts[name] = counts.get(name, -1) + 1
            yield f"{name}_{number}" if number else name, value
