"""Keras' side of a verification: a form of the model, in float64 and by every program in float32."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import keras
import numpy as np

from ...keras_models import kernels
from ...keras_models.models.features import logit_bias, logit_scale
from ..compare import ExactCheck, Features, check_exact
from ..data.inputs import Inputs
from .alongside import Once
from .programs import Encode, fingerprint, inputs_of, programs, unnormalised
from .stages import named

if TYPE_CHECKING:
    from ...keras_models.models.model import MobileClipModel
    from ..torch_models import TorchReference

MakeModel = Callable[[str, str], "MobileClipModel"]
"""(form, dtype) -> the converted model in that form, computing in that dtype."""


@dataclass
class KerasSide:
    """What Keras computed of a form."""

    model: "MobileClipModel | None"
    """In float32; None where nothing more is asked of it."""
    float64: Features
    """Not normalised."""
    logit_scale: float
    logit_bias: float | None
    programs: dict[str, Features]
    """In float32, by the program's name; the compiled one stands last."""
    stages: dict[str, np.ndarray]
    """In float32, of the sample."""

    def check(self, form: str, truth: Features, reference: "TorchReference") -> ExactCheck:
        whole = reference.has_image and reference.has_text
        scales = (self.logit_scale, reference.logit_scale()) if whole else None
        return check_exact(form, self.float64, truth, scales, (self.logit_bias, reference.logit_bias))


def run_keras(
    make_model: MakeModel,
    form: str,
    inputs: Inputs,
    known: Once[tuple[str, str], np.ndarray],
    compile_it: bool,
    thorough: bool,
    progress: Callable[[str], None],
) -> KerasSide:
    """Keras' side of a form, in float64 and by every program in float32. `known` is as for `_features`."""
    progress(f"{form} form float64")
    with kernels.float64_enabled(), kernels.without_gradients():
        keras64, scale, bias = _in_float64(make_model(form, "float64"), inputs, known)
    model = make_model(form, "float32")
    found = {}
    for program, encoders in programs(model, compile_it, thorough).items():
        progress(f"{form} form {program}")
        found[program] = _features(model, program, encoders, inputs, known)
    with kernels.without_gradients():
        stages = _keras_stages(model, inputs.sample())
    return KerasSide(model, keras64, scale, bias, found, stages)


def _in_float64(
    model: "MobileClipModel", inputs: Inputs, known: Once[tuple[str, str], np.ndarray]
) -> tuple[Features, float, float | None]:
    """The features of all inputs, not normalised, the factor of the logits, and what is added to them."""
    return _features(model, "float64", unnormalised(model), inputs, known), logit_scale(model), logit_bias(model)


def _keras_stages(model: "MobileClipModel", sample: Inputs) -> dict[str, np.ndarray]:
    image = {} if model.image_encoder is None else model.image_encoder.stage_outputs(sample.images)
    text = {} if model.text_encoder is None else model.text_encoder.stage_outputs(sample.tokens)
    return {name: keras.ops.convert_to_numpy(value) for name, value in named(image, text).items()}


def _features(
    model: "MobileClipModel",
    program: str,
    encoders: dict[str, Encode],
    inputs: Inputs,
    known: Once[tuple[str, str], np.ndarray],
) -> Features:
    """A program's features of all inputs. A tower that is the same in another form is not run again.

    Args:
        model: whose features.
        program: its name, and the dtype where that differs.
        encoders: the program's, by tower.
        inputs: the fixed inputs.
        known: what was computed so far, by program and the tower's fingerprint.
    """
    found = {
        tower: known.of((program, fingerprint(model, tower)), partial(encode, inputs_of(tower, inputs)))
        for tower, encode in encoders.items()
    }
    return Features(found.get("image"), found.get("text"))
