"""The verification of a converted model, from fixed inputs to a verdict."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from ..keras_models.kernels import float64_enabled
from .compare import ExactCheck, Features, RoundingCheck, check_exact, check_rounding, stage_errors
from .criteria import FLOAT64_SAMPLE
from .inputs import Inputs

if TYPE_CHECKING:
    from ..keras_models.models.model import MobileClipModel
    from .torch_models import TorchReference

MakeModel = Callable[[str, str], "MobileClipModel"]
"""(form, dtype) -> the converted model in that form, computing in that dtype."""


@dataclass
class Verification:
    """What was compared, and how it came out."""

    variant: str
    backend: str
    exact: list[ExactCheck] = field(default_factory=list)
    rounding: list[RoundingCheck] = field(default_factory=list)
    stages: dict[str, dict[str, float]] = field(default_factory=dict)
    """Relative float32 error of each stage, by form; and of PyTorch's own float32 run, under "torch"."""
    logits: dict[str, np.ndarray] = field(default_factory=dict)
    """Logits at scale 100 of PyTorch in float64 ("torch") and of each form in float32."""
    image_names: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    convention: str | None = None
    """How another implementation of the same checkpoint computes differently, and how far its logits are from the ones
    verified here; None where none does."""

    @property
    def passed(self) -> bool:
        checks: list[ExactCheck | RoundingCheck] = [*self.exact, *self.rounding]
        return bool(checks) and all(check.passed for check in checks)

    def to_json(self) -> dict[str, Any]:
        """The content of verification.json."""
        return {
            "passed": self.passed,
            "variant": self.variant,
            "backend": self.backend,
            "versions": {name: version(name) for name in ("keras", "torch", "timm", "open_clip_torch", "numpy")},
            "inputs": {"images": list(self.image_names), "texts": list(self.texts)},
            "float64": [{**asdict(check), "passed": check.passed} for check in self.exact],
            "float32": [
                {
                    **asdict(check),
                    "rms_ratio": check.rms_ratio,
                    "max_ratio": check.max_ratio,
                    "passed": check.passed,
                }
                for check in self.rounding
            ],
            "stages": self.stages,
            "convention": self.convention,
        }


def verify_model(
    variant: str,
    make_model: MakeModel,
    forms: tuple[str, ...],
    reference: "TorchReference",
    inputs: Inputs,
    progress: Callable[[str], None] = lambda _: None,
) -> Verification:
    """Compares a converted model with PyTorch by the criteria of `criteria`.

    Args:
        variant: its name, for the report.
        make_model: gives the model in a form and a dtype. Called once for each; each model is freed before the next.
        forms: the forms to verify.
        reference: the PyTorch model in float64.
        inputs: of the variant.
        progress: called with the name of each step before it begins.
    """
    verification = Verification(
        variant,
        keras.backend.backend(),
        image_names=inputs.image_names if reference.has_image else (),
        texts=inputs.texts if reference.has_text else (),
    )
    progress("PyTorch in float64")
    torch64 = _torch_features(reference, inputs)
    sample = inputs.sample(FLOAT64_SAMPLE)
    sample_features = _torch_features(reference, sample)
    torch64_stages = _torch_stages(reference, sample)
    progress("PyTorch in float32")
    single = reference.to("float32")
    torch32 = _torch_features(single, inputs)
    verification.stages["torch"] = stage_errors(_torch_stages(single, sample), torch64_stages)
    del single
    verification.logits["torch"] = torch64.logits()
    for form in forms:
        progress(f"Keras in float64, {form} form")
        with float64_enabled():
            features = _keras_features(make_model(form, "float64"), sample)
        verification.exact.append(check_exact(form, features, sample_features))
        progress(f"Keras in float32, {form} form")
        model = make_model(form, "float32")
        keras32 = _keras_features(model, inputs)
        verification.rounding.append(check_rounding(form, keras32, torch32, torch64))
        verification.logits[form] = keras32.logits()
        verification.stages[form] = stage_errors(_keras_stages(model, sample), torch64_stages)
    return verification


def _torch_features(reference: "TorchReference", inputs: Inputs) -> Features:
    image = reference.encode_image(inputs.images) if reference.has_image else None
    text = reference.encode_text(inputs.tokens) if reference.has_text else None
    return Features(image, text)


def _keras_features(model: "MobileClipModel", inputs: Inputs) -> Features:
    image = text = None
    if model.image_encoder is not None:
        image = _in_batches(lambda batch: model.encode_image(batch, normalize=False), inputs.images)
    if model.text_encoder is not None:
        text = _in_batches(lambda batch: model.encode_text(batch, normalize=False), inputs.tokens)
    return Features(image, text)


def _in_batches(encode: Callable[[np.ndarray], Any], array: np.ndarray, size: int = 8) -> np.ndarray:
    parts = (array[start : start + size] for start in range(0, len(array), size))
    return np.concatenate([keras.ops.convert_to_numpy(encode(part)) for part in parts])


def _torch_stages(reference: "TorchReference", inputs: Inputs) -> dict[str, np.ndarray]:
    stages: dict[str, np.ndarray] = {}
    if reference.has_image:
        stages |= {f"image {name}": value for name, value in reference.image_stages(inputs.images).items()}
    if reference.has_text:
        stages |= {f"text {name}": value for name, value in reference.text_stages(inputs.tokens).items()}
    return stages


def _keras_stages(model: "MobileClipModel", inputs: Inputs) -> dict[str, np.ndarray]:
    stages: dict[str, np.ndarray] = {}
    towers = (("image", model.image_encoder, inputs.images), ("text", model.text_encoder, inputs.tokens))
    for kind, encoder, batch in towers:
        if encoder is not None:
            outputs = encoder.stage_outputs(batch)
            stages |= {f"{kind} {name}": keras.ops.convert_to_numpy(value) for name, value in outputs.items()}
    return stages
