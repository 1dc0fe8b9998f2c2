"""Models in Keras' own unzipped layout, written and read with fewer copies and look-ups than Keras makes."""

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
from keras.src.backend.common import global_state
from keras.src.saving import saving_lib

from ..kernels import memory
from .file_names import CONFIG, METADATA, WEIGHTS
from .variables import variables_by_name

VARIABLES = b"vars"
HDF5_OVERHEAD = 2048  # bytes beside each array, about; its groups are most of it


@memory.no_collection()
def save_model(model: keras.Model, folder: Path) -> None:
    """What `keras.saving.save_model(model, folder, zipped=False)` writes for a model with no files of its own.

    Keras copies each array twice on its way into the file, which for the token embedding alone takes 200 MB.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _check_room(model, folder)
    metadata = {"keras_version": keras.__version__, "date_saved": datetime.now().strftime("%Y-%m-%d@%H:%M:%S")}
    (folder / CONFIG).write_text(json.dumps(keras.saving.serialize_keras_object(model)))
    (folder / METADATA).write_text(json.dumps(metadata))
    # Keras keeps this set under one name and looks for it under another, and so makes it anew for each layer.
    global_state.set_global_attribute("saving_attr_skiplist_Layer", saving_lib.get_attr_skipset("Layer"))
    walk = saving_lib._walk_saveable
    views = {id(variable): memory.view(variable) for variable in model.variables}
    store = _Store(folder / WEIGHTS, mode="w")
    store.views = views
    try:
        saving_lib._walk_saveable = _attributes
        saving_lib._save_state(model, store, None, "", set())
    finally:
        saving_lib._walk_saveable = walk
        store.close()


def _attributes(saveable: Any) -> Iterator[tuple[str, Any]]:
    """What Keras' own walk gives, which sorts the hundreds of names of a layer before it passes over nearly all."""
    kind = saveable._obj_type()
    skipped = saving_lib.get_attr_skipset(kind)
    if kind in ("Sequential", "Functional"):
        yield "layers", saveable.layers
    names = (name for name in set(dir(saveable)) - skipped if not name.startswith("__"))
    for name in sorted(names, key=saving_lib._name_key):
        try:
            value = getattr(saveable, name)
        except Exception:  # as Keras does: some properties raise before a model is compiled, each its own error
            continue
        yield name, value


def _check_room(model: keras.Model, folder: Path) -> None:
    """Raises what the system would: where HDF5 itself finds a disk full, it crashes the process."""
    size = sum(math.prod(v.shape) * np.dtype(v.dtype).itemsize + HDF5_OVERHEAD for v in model.variables)
    if shutil.disk_usage(folder).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


class _Store(saving_lib.H5IOStore):
    """Keras' HDF5 file, written from the memory of the variables itself.

    Attributes:
        views: of the variables' values, by the variables' id. They are taken one after another: between other work,
            each takes TensorFlow four times as long.
    """

    views: dict[int, np.ndarray | None]

    def __setitem__(self, key: str, value: Any) -> None:
        array = self.views.get(id(value))
        if array is None or not array.size or array.dtype.kind not in "fiu":  # bfloat16 is of no kind of NumPy's
            super().__setitem__(key, value)
            return
        if not self._h5_entry_initialized:
            self._create_h5_group(self._h5_entry_path)
        # As `create_dataset` does, which takes as long for what it could be asked beyond that.
        space = h5py.h5s.create_simple(array.shape) if array.ndim else h5py.h5s.create(h5py.h5s.SCALAR)
        number = h5py.h5t.py_create(array.dtype, logical=True)
        made = h5py.h5d.create(self._h5_entry_group.id, key.encode(), number, space)
        made.write(h5py.h5s.ALL, h5py.h5s.ALL, np.ascontiguousarray(array))


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
        # By h5py's lower level: for the thousands of arrays, the upper one takes as long as reading them.
        found = {
            name: [h5py.h5d.open(group, b"%d" % index) for index in range(group.get_num_objs())]
            for name, group in _layers(file.id, "", _above(layers))
            if name in layers
        }
        if all(_fits(variables, found.get(name)) for name, variables in layers.items()):
            pairs = [pair for name, held in layers.items() for pair in zip(held, found[name], strict=True)]
            arrays = [(variable, _read(dataset)) for variable, dataset in pairs]
            for variable, array in arrays:  # apart, for between reading each takes TensorFlow four times as long
                memory.hand_over(variable, array)
            return
    model.load_weights(path)


def _above(layers: Iterable[str]) -> set[str]:
    """The paths of layers and of all that they lie in."""
    parts = (layer.split("/") for layer in layers)
    return {"/".join(names[:count]) for names in parts for count in range(1, len(names) + 1)}


def _layers(group: Any, path: str, wanted: set[str]) -> Iterator[tuple[str, Any]]:
    """The weights of each layer by the layer's path, below a group that belongs to the layer at `path`."""
    if VARIABLES in group:
        yield path, h5py.h5g.open(group, VARIABLES)
    for key in group:
        if key == VARIABLES:
            continue
        child = h5py.h5g.open(group, key)
        inner = path
        if VARIABLES in child:  # else it is a list of layers, which has no name of its own
            name = h5py.Group(h5py.h5g.open(child, VARIABLES)).attrs.get("name", key.decode())
            inner = f"{path}/{name}".removeprefix("/")
            if inner not in wanted:
                continue
        yield from _layers(child, inner, wanted)


def _fits(variables: list[keras.Variable], datasets: list[Any] | None) -> bool:
    """Whether a layer's weights in the file are as many as its variables, in the same shapes."""
    if datasets is None or len(datasets) != len(variables):
        return False
    return all(dataset.shape == tuple(v.shape) for dataset, v in zip(datasets, variables, strict=True))


def _read(dataset: Any) -> np.ndarray:
    """An array of a file; bfloat16, which HDF5 does not know, is marked by Keras."""
    if h5py.h5a.exists(dataset, b"dtype"):
        return np.array(h5py.Dataset(dataset), dtype=ml_dtypes.bfloat16)
    array = memory.empty(dataset.shape, dataset.dtype.name)
    dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, array)
    return array
