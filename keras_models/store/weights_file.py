"""Models in Keras' own unzipped layout, written and read with fewer copies and look-ups than Keras makes.

Keras' layout (read in Keras 3.12 to 3.15): an HDF5 group for each layer, at the path of attributes that leads to it;
in it a group "vars" with the layer's name and its weights, numbered. Layers that an attribute lists are named by their
class, in snake case, and numbered where several are of one class. tests/test_weights_file.py compares what is written
here with what `keras.saving.save_model` writes.
"""

import errno
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import h5py
import keras
import ml_dtypes
import numpy as np

from .. import kernels
from ..kernels import memory
from ..layers.paths import layers_by_path
from .file_names import CONFIG, METADATA, WEIGHTS
from .foreign.hdf5_file import WeightsFileError, check_dataset, check_everything, check_finite, child, open_hdf5
from .variables import logit_variables, variables_by_name

VARIABLES = b"vars"
HDF5_OVERHEAD = 2048  # bytes beside each array, roughly; most of it is groups


@memory.no_collection()
def save_model(model: keras.Model, folder: Path) -> None:
    """What `keras.saving.save_model(model, folder, zipped=False)` writes, from the memory of the variables themselves.

    Keras copies each array twice on its way into the file, which for the token embedding alone takes 200 MB.
    Models with layers that are models of their own, such as another image backbone, are left to Keras.

    Raises:
        OSError: where the disk has no room.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _check_room(model, folder)
    layers = list(layers_by_path(model))
    if not can_write(model, layers):
        save_by_keras(model, folder)
        return
    metadata = {"keras_version": keras.__version__, "date_saved": datetime.now().strftime("%Y-%m-%d@%H:%M:%S")}
    (folder / CONFIG).write_text(json.dumps(keras.saving.serialize_keras_object(model)))
    (folder / METADATA).write_text(json.dumps(metadata))
    # All views are taken at once. With other work in between, each takes TensorFlow four times as long.
    views = {id(variable): kernels.view(variable) for variable in model.variables}
    with h5py.File(folder / WEIGHTS, "w") as file:
        for path, layer in layers:
            _write(file.create_group(f"{path}/vars"), layer, views)


def save_by_keras(model: keras.Model, folder: Path) -> None:
    """As `save_model`, by Keras' own means."""
    keras.saving.save_model(model, folder, zipped=False)
    shutil.rmtree(folder / "assets", ignore_errors=True)  # for layers with files of their own; ours have none


def can_write(model: keras.Model, layers: Iterable[tuple[str, keras.layers.Layer]]) -> bool:
    """Whether the layout of a model's weights is known here: its towers hold plain layers and no models.

    Args:
        model: to be written.
        layers: those of the model, as `layers_by_path` gives them.
    """
    known = {id(model), *map(id, model.layers)}
    return not any(isinstance(layer, keras.Model) and id(layer) not in known for _, layer in layers)


def _write(group: h5py.Group, layer: keras.layers.Layer, views: dict[int, np.ndarray | None]) -> None:
    """A layer's name and weights."""
    group.attrs["name"] = layer.name
    weights: dict[str, Any] = {}
    layer.save_own_variables(weights)
    for key, value in weights.items():
        array = views.get(id(value))
        if array is None:
            array = keras.ops.convert_to_numpy(value)
        if array.dtype == ml_dtypes.bfloat16:  # HDF5 has no such type, and Keras marks it
            group.create_dataset(key, data=array).attrs["dtype"] = "bfloat16"
            continue
        # What `create_dataset` does. Its other options take as long as the writing itself.
        space = h5py.h5s.create_simple(array.shape) if array.ndim else h5py.h5s.create(h5py.h5s.SCALAR)
        made = h5py.h5d.create(group.id, key.encode(), h5py.h5t.py_create(array.dtype, logical=True), space)
        if array.size:
            made.write(h5py.h5s.ALL, h5py.h5s.ALL, np.ascontiguousarray(array))


def _check_room(model: keras.Model, folder: Path) -> None:
    """Raises what the system would: where HDF5 itself finds a disk full, it crashes the process."""
    size = sum(math.prod(v.shape) * np.dtype(v.dtype).itemsize + HDF5_OVERHEAD for v in model.variables)
    if shutil.disk_usage(folder).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


def load_weights(model: keras.Model, path: Path, folder: Path | None = None) -> None:
    """Assigns the weights in a file to a MobileClipModel, as `model.load_weights(path)` does.

    Keras finds a layer's weights by looking into every attribute of every layer above it. But it also writes
    each layer's name beside its weights, and names are enough for every tower of this package: only what the
    model has is looked for, and read. Models with other layers, where the names do not lead to exactly one
    array for each variable, are left to Keras, once the whole file was checked.

    Args:
        model: that gets the weights.
        path: of the file.
        folder: that the file must lie in, as for `foreign_files.check_regular`.

    Raises:
        MobileClipError: where the file holds anything but finite numbers in the file itself.
        OSError, ValueError, KeyError, RuntimeError: where the file is damaged, or of another model.
    """
    layers: dict[str, list[keras.Variable]] = {}
    # `variables_by_name` leaves the logit scale out where a tower is missing.
    named = {**variables_by_name(model), **logit_variables(model)}
    for name, variable in named.items():
        layers.setdefault(name.rpartition("/")[0], []).append(variable)
    with open_hdf5(path, folder) as file:
        # By h5py's low-level API. The other one takes as long as reading the thousands of arrays.
        found = {
            name: [child(group, b"%d" % index) for index in range(group.get_num_objs())]
            for name, group in _layers(file.id, "", _above(layers), set())
            if name in layers
        }
        if all(_fits(variables, found.get(name)) for name, variables in layers.items()):
            pairs = [pair for name, held in layers.items() for pair in zip(held, found[name], strict=True)]
            for _, dataset in pairs:
                check_dataset(dataset)
            arrays = [(variable, _read(dataset)) for variable, dataset in pairs]
            for variable, array in arrays:
                check_finite(array, variable.dtype, variable.path)
            for variable, array in arrays:  # apart: in between reading, each takes TensorFlow four times as long
                memory.hand_over(variable, array)
            return
        check_everything(file, max(math.prod(variable.shape) for variable in model.variables))
    model.load_weights(path)
    for variable in model.variables:
        check_finite(keras.ops.convert_to_numpy(variable), variable.dtype, variable.path)


def _above(layers: Iterable[str]) -> set[str]:
    """The paths of layers and of all that they lie in."""
    parts = (layer.split("/") for layer in layers)
    return {"/".join(names[:count]) for names in parts for count in range(1, len(names) + 1)}


def _layers(group: Any, path: str, wanted: set[str], seen: set[int]) -> Iterator[tuple[str, Any]]:
    """The weights of each layer by the layer's path, below a group that belongs to the layer at `path`."""
    address = h5py.h5o.get_info(group).addr
    if address in seen:
        raise WeightsFileError(f"{path or '/'} holds itself.")
    seen.add(address)
    if VARIABLES in group:
        yield path, _weights_of(group)
    for key in group:
        if key == VARIABLES:
            continue
        below = child(group, key)
        if not isinstance(below, h5py.h5g.GroupID):
            continue
        inner = path
        if VARIABLES in below:  # otherwise it is a list of layers, which has no name
            name = h5py.Group(_weights_of(below)).attrs.get("name", key.decode())
            inner = f"{path}/{name}".removeprefix("/")
            if inner not in wanted:
                continue
        yield from _layers(below, inner, wanted, seen)


def _weights_of(layer: Any) -> Any:
    """The group of a layer's weights."""
    found = child(layer, VARIABLES)
    if not isinstance(found, h5py.h5g.GroupID):
        raise WeightsFileError(f"{VARIABLES.decode()} is not a group of weights.")
    return found


def _fits(variables: list[keras.Variable], datasets: list[Any] | None) -> bool:
    """Whether a layer's weights in the file are as many as its variables, in the same shapes."""
    if datasets is None or len(datasets) != len(variables):
        return False
    return all(
        isinstance(dataset, h5py.h5d.DatasetID) and dataset.shape == tuple(v.shape)
        for dataset, v in zip(datasets, variables, strict=True)
    )


def _read(dataset: Any) -> np.ndarray:
    """An array of a file; bfloat16, which HDF5 does not know, is marked by Keras."""
    if dataset.dtype.kind == "V":
        return np.array(h5py.Dataset(dataset), dtype=ml_dtypes.bfloat16)
    array = memory.empty(dataset.shape, dataset.dtype.name)
    dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, array)
    return array
