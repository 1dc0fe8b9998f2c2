"""Towers as TensorFlow's SavedModels: a target of its own, and what the other runtimes' converters read."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ....keras_models.formulation import TENSORFLOW, Formulation, formulated
from .registry import Arrays, Run

if TYPE_CHECKING:  # who opens a file needs no Keras
    from .parts import Part

SIGNATURE = "serving_default"
WEIGHT = "weight_"
"""The beginning of the names of inputs that are weights."""
WEIGHTS_FILE = "weights.npz"


def signature_name(batch: int | None, batches: tuple[int, ...]) -> str:
    """The signature for a batch: the usual name where there is one alone."""
    return SIGNATURE if len(batches) < 2 else f"batch_{batch}"


def save(part: "Part", batches: tuple[int, ...], folder: Path, formulation: Formulation = TENSORFLOW) -> None:
    """Writes a part with a signature for each batch. Every variable is stored once.

    `keras.Model.export` stores each twice: by its own name and as what the traced function holds.

    Args:
        part: a function, and what it takes and gives.
        batches: rows of each signature; empty for one of any number.
        folder: to be written.
        formulation: what the runtime that will run it is fast at.
    """
    import tensorflow as tf

    module = tf.Module()
    module.weights = [variable.value for variable in part.variables]
    with formulated(formulation):
        signatures = {
            signature_name(batch, batches): _traced(part.function, part, batch) for batch in batches or (None,)
        }
    tf.saved_model.save(module, str(folder), signatures=signatures)


def save_without_weights(
    part: "Part", batches: tuple[int, ...], folder: Path, formulation: Formulation = TENSORFLOW
) -> None:
    """Writes a part whose signature takes the weights as inputs, `weight_0` and so on, and their values beside it.

    A converter that copies its graph many times then copies no weights.

    Args:
        part: a function, and what it takes and gives.
        batches: one, or empty for any number.
        folder: to be written.
        formulation: what the runtime that will run it is fast at.
    """
    import keras
    import tensorflow as tf

    weights = {f"{WEIGHT}{place}": variable for place, variable in enumerate(part.variables)}

    def run(given: dict[str, Any]) -> dict[str, Any]:
        held = [(variable, given.pop(name)) for name, variable in weights.items()]
        with keras.StatelessScope(state_mapping=held):
            return part.function(given)

    specs = {name: tf.TensorSpec(each.shape, each.dtype, name) for name, each in weights.items()}
    with formulated(formulation):
        traced = _traced(run, part, batches[0] if batches else None, specs)
    tf.saved_model.save(tf.Module(), str(folder), signatures={SIGNATURE: traced})
    np.savez(folder / WEIGHTS_FILE, **{name: keras.ops.convert_to_numpy(each) for name, each in weights.items()})


def _traced(function: Any, part: "Part", batch: int | None, more: dict[str, Any] | None = None) -> Any:
    """A function of a part's inputs, by name, as TensorFlow's program for a batch."""
    import tensorflow as tf

    from ....keras_models.layers.base import named_layers

    def run(**given: Any) -> dict[str, Any]:
        return function(given)

    specs = {name: tf.TensorSpec((batch, *shape), dtype, name) for name, (shape, dtype) in part.inputs.items()}
    with named_layers():
        return tf.function(run, autograph=False).get_concrete_function(**specs, **(more or {}))


def write(saved: Path, out: Path, batches: tuple[int, ...]) -> None:
    """The target is what was saved."""
    saved.rename(out)


def describe(path: Path, about: dict[str, str]) -> None:
    """Writes metadata where TensorFlow Serving looks for what it does not read itself."""
    extra = path / "assets.extra"
    extra.mkdir()
    (extra / "about.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def open_tower(path: Path, batch: int | None, way: str = "") -> Run:
    """Runs a SavedModel by the signature that TensorFlow Serving takes."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    signature = loaded.signatures[SIGNATURE]

    def run(given: Arrays) -> Arrays:
        tensors = {name: tf.constant(array) for name, array in given.items()}
        return {name: value.numpy() for name, value in signature(**tensors).items()}

    run.loaded = loaded  # type: ignore[attr-defined]  # its variables live as long as what was loaded
    return run


def operations(path: Path) -> Iterator[tuple[str, str, list[tuple[list[int], str]]]]:
    """Nothing: TensorFlow has every operation."""
    yield from ()
