"""The programs that people run a Keras model by, each from the fixed inputs to features."""

import hashlib
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from ...keras_models import kernels
from ...keras_models.models.features import FeatureModel
from ..compare import Features
from ..data.inputs import Inputs

if TYPE_CHECKING:
    from ...keras_models.models.model import MobileClipModel

DIRECT = "encode"
"""The name of what runs when `encode_image` and `encode_text` are called."""

COMPILED = {"tensorflow": ("predict",), "jax": ("predict",), "torch": ("graph", "compile")}
"""What each backend's compiled program is called; of several, one suffices."""

COMPILE_EACH_FORM = ("tensorflow", "jax")
"""The backends that compile every form. The others compile the first one of a folder: see COMPILES_IN_SECONDS."""

DIRECT_BATCH = 4
"""As many as the inputs that are compared stage by stage: a backend that compiles each operation for each shape then
compiles it once. Where none is compiled, the last of them run one by one."""

Encode = Callable[[np.ndarray], np.ndarray]


def programs(model: "MobileClipModel", compiled: bool = True, thorough: bool = False) -> dict[str, dict[str, Encode]]:
    """The programs of a model, by what people call them; each gives the encoder of each tower, "image" and "text".

    Features are of length 1.

    Args:
        model: to be run.
        compiled: whether what the backend compiles is among them.
        thorough: whether the backend may take minutes to compile.
    """
    towers = _towers(model)
    methods = {"image": model.encode_image, "text": model.encode_text}
    found = {DIRECT: {tower: _directly(methods[tower], DIRECT_BATCH) for tower in towers}}
    made = kernels.compiled(model.feature_model(), thorough) if compiled else None
    if made is not None:
        name, program = made
        found[name] = {tower: _by_program(program, tower) for tower in towers}
    return found


def unnormalised(model: "MobileClipModel") -> dict[str, Encode]:
    """The encoder of each tower, to features before normalisation, by the quickest way to run a model once."""
    if kernels.COMPILES_EACH_OPERATION:
        program = FeatureModel(model, normalize=False).predict_on_batch
        return {tower: _by_program(program, tower) for tower in _towers(model)}
    methods = {"image": model.encode_image, "text": model.encode_text}
    return {tower: _directly(partial(methods[tower], normalize=False), None) for tower in _towers(model)}


def inputs_of(tower: str, inputs: Inputs) -> np.ndarray:
    """What a tower takes of the fixed inputs."""
    return inputs.images if tower == "image" else inputs.tokens


def fingerprint(model: "MobileClipModel", tower: str) -> str:
    """The same for two towers that compute the same: of as many variables, with the same names and numbers."""
    digest = hashlib.sha256()
    for variable in _towers(model)[tower].weights:
        array = np.ascontiguousarray(keras.ops.convert_to_numpy(variable))
        digest.update(f"{variable.path} {array.dtype} {array.shape}".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _towers(model: "MobileClipModel") -> dict[str, keras.Model]:
    towers = {"image": model.image_encoder, "text": model.text_encoder}
    return {name: tower for name, tower in towers.items() if tower is not None}


def _directly(method: Callable[..., Any], batch: int | None) -> Encode:
    def encode(rows: np.ndarray) -> np.ndarray:
        starts = list(range(0, len(rows), batch or len(rows)))
        if batch and not kernels.COMPILES_EACH_OPERATION:  # one alone runs in another way on PyTorch, so some do
            starts += range(starts[-1] + 1, len(rows))
        parts = np.split(rows, starts[1:])
        return np.concatenate([keras.ops.convert_to_numpy(method(part)) for part in parts])

    return encode


def _by_program(program: Callable[[dict[str, np.ndarray]], dict[str, Any]], tower: str) -> Encode:
    return lambda rows: np.asarray(program({tower: rows})[f"{tower}_features"])


def features_of(encoders: dict[str, Encode], inputs: Inputs) -> Features:
    """The features of all fixed inputs."""
    found = {tower: encode(inputs_of(tower, inputs)) for tower, encode in encoders.items()}
    return Features(found.get("image"), found.get("text"))
