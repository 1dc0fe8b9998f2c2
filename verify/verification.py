"""The verification of a converted model, from fixed inputs to a verdict."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from ..keras_models import kernels
from ..keras_models.kernels.processor import processor_name
from ..keras_models.models.copying import copy_model
from .compare import (
    Cost,
    ExactCheck,
    Features,
    RoundingCheck,
    check_rounding,
    measure_cost,
    stage_errors,
)
from .data.inputs import Inputs
from .data.sample import Sample, take_sample
from .precision import FLOAT32_BITS, full_float32, kept_bits, switches
from .reason import find_reason
from .running.alongside import Once, Steps, each, may_be_at_once, torch_alongside
from .running.keras_side import KerasSide, MakeModel, run_keras
from .running.programs import features_of, unnormalised
from .running.torch_side import TorchSide, run_torch

if TYPE_CHECKING:
    from ..keras_models.models.model import MobileClipModel
    from .torch_models import TorchReference

AT_ONCE = 200e6
"""Both forms of a larger model are verified one after the other: in float64 they would take up 3 GB at once."""

DEFAULT = "float32 as the device computes it by default"


@dataclass
class Verification:
    """What was compared, and how it came out."""

    variant: str
    backend: str
    exact: list[ExactCheck] = field(default_factory=list)
    rounding: list[RoundingCheck] = field(default_factory=list)
    torch_runs: int = 0
    """How many float32 runs of PyTorch the limits are taken from."""
    costs: list[Cost] = field(default_factory=list)
    """What is looser on purpose: measured, not judged."""
    kept_bits: int = FLOAT32_BITS
    """How many bits of what they multiply products and convolutions kept while float32 was verified."""
    device: dict[str, Any] = field(default_factory=dict)
    """Its name, the processor's, and the switches that let float32 be computed with fewer bits: as they were found,
    and as they were set for the verification."""
    stages: dict[str, dict[str, float]] = field(default_factory=dict)
    """Relative float32 error of each stage, by form; and of PyTorch's own float32 run, under "torch"."""
    features: Features = field(default=Features(None, None), repr=False)
    """PyTorch's in float64."""
    logits: dict[str, np.ndarray] = field(default_factory=dict)
    """Logits at scale 100 of PyTorch in float64 ("torch") and of each form in float32, by its compiled program."""
    sample: Sample | None = field(default=None, repr=False)
    """For whoever has the record and the weights, and no PyTorch."""
    image_names: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    convention: str | None = None
    """How another implementation of the same checkpoint computes differently, and how far its logits are from the ones
    verified here; None where none does."""

    @property
    def passed(self) -> bool:
        checks: list[ExactCheck | RoundingCheck] = [*self.exact, *self.rounding]
        return bool(checks) and all(check.passed for check in checks)

    @property
    def reason(self) -> str | None:
        """What a failure says of its cause, in a sentence; None where nothing failed, or nothing can be said."""
        return None if self.passed else find_reason(self.exact, self.rounding, self.kept_bits)

    def to_json(self) -> dict[str, Any]:
        """The content of verification.json."""
        return {
            "passed": self.passed,
            "reason": self.reason,
            "variant": self.variant,
            "backend": self.backend,
            "device": self.device,
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
            "torch_float32_runs": self.torch_runs,
            "measured_not_judged": [cost.to_json() for cost in self.costs],
            "stages": self.stages,
            "sample": None if self.sample is None else self.sample.to_json(),
            "convention": self.convention,
        }


def steps(forms: tuple[str, ...]) -> int:
    """How many steps `verify_model` reports at most."""
    from .torch_models.runs import RUNS

    return 2 + len(RUNS) + len(forms) * 3 + 1 + len(kernels.half_precisions())


def verify_model(
    variant: str,
    make_model: MakeModel,
    forms: tuple[str, ...],
    reference: "TorchReference",
    inputs: Inputs,
    progress: Callable[[str], None] = lambda _: None,
    thorough: bool = False,
) -> Verification:
    """Compares a converted model with PyTorch by the criteria of `criteria`.

    Float32 is computed by every program that people run the model by (see `programs`), on the device in use.

    Args:
        variant: its name, for the report.
        make_model: gives the model in a form and a dtype. Called once for each, by several threads where models are
            small enough (`AT_ONCE`). Of large ones, each is freed before the next, but for the first form in float32.
        forms: the forms to verify. What lower precision costs is measured on the first.
        reference: the PyTorch model in float64.
        inputs: of the variant.
        progress: called with the name of each step before it begins.
        thorough: whether the backend may take minutes to compile, as PyTorch does. If not, PyTorch compiles the first
            form alone, and without Inductor.
    """
    verification = Verification(
        variant,
        keras.backend.backend(),
        image_names=inputs.image_names if reference.has_image else (),
        texts=inputs.texts if reference.has_text else (),
    )
    found = switches()
    lines = Steps(progress)
    known: Once[tuple[str, str], np.ndarray] = Once()

    def keras_side(form: str) -> KerasSide:
        compile_it = thorough or form == forms[0] or kernels.COMPILES_IN_SECONDS
        side = run_keras(make_model, form, inputs, known, compile_it, thorough, lines.of(form))
        lines.end(form)
        if form != forms[0]:
            side.model = None  # which frees it
        return side

    def torch_side() -> TorchSide:
        side = run_torch(reference, inputs, lines.of("PyTorch"))
        lines.end("PyTorch")
        return side

    with full_float32():
        verification.device = _device(found)
        verification.kept_bits = kept_bits()
        at_once = may_be_at_once() and reference.parameters() <= AT_ONCE
        with torch_alongside(torch_side, lines) as wait_for_torch:
            ours = each({form: partial(keras_side, form) for form in forms}, at_once, lines)
            torch = wait_for_torch()
    verification.features = torch.features
    verification.sample = take_sample(torch.features, inputs)
    verification.logits = {"torch": torch.features.logits()} | {
        form: list(computed.programs.values())[-1].logits() for form, computed in ours.items()
    }
    verification.stages = {"torch": stage_errors(torch.stages32, torch.stages)} | {
        form: stage_errors(computed.stages, torch.stages) for form, computed in ours.items()
    }
    verification.exact = [computed.check(form, torch.features, reference) for form, computed in ours.items()]
    with kernels.without_gradients():
        model = ours[forms[0]].model
        assert model is not None
        verification.costs = _costs(model, torch.features, inputs, progress)
    with full_float32():
        verification.rounding = _judge(verification, ours, torch.runs, reference, inputs, progress)
    verification.torch_runs = len(torch.runs)
    return verification


def _judge(
    verification: Verification,
    ours: dict[str, KerasSide],
    torch32: list[Features],
    reference: "TorchReference",
    inputs: Inputs,
    progress: Callable[[str], None],
) -> list[RoundingCheck]:
    """The float32 checks. More runs of PyTorch are made, and added to `torch32`, where some failed by a little."""
    from .torch_models.runs import MORE_RUNS, run

    def checks() -> list[RoundingCheck]:
        return [
            check_rounding(form, program, features, torch32, verification.features)
            for form, computed in ours.items()
            for program, features in computed.programs.items()
        ]

    found = checks()
    if not all(check.passed for check in verification.exact):
        return found
    single = None
    for way in MORE_RUNS:
        failed = [check for check in found if not check.passed]
        if not failed or not all(check.may_be_luck for check in failed):
            break
        single = single or reference.to("float32")
        progress(f"PyTorch in float32, {way.name}")
        torch32.append(run(single, way, inputs))
        found = checks()
    return found


def _costs(model: "MobileClipModel", truth: Features, inputs: Inputs, progress: Callable[[str], None]) -> list[Cost]:
    """What lower precision costs: the device's default switches where they round, and half precision where the device
    computes in it."""
    found = []
    if kept_bits() < FLOAT32_BITS:
        progress(DEFAULT)
        found.append(measure_cost(DEFAULT, features_of(unnormalised(model), inputs), truth))
    for dtype in kernels.half_precisions():
        progress(f"Keras in {dtype}")
        found.append(measure_cost(dtype, features_of(unnormalised(copy_model(model, dtype)), inputs), truth))
    return found


def _device(found: dict[str, str]) -> dict[str, Any]:
    return {
        "name": kernels.device_name(),
        "processor": processor_name(),
        "switches_found": found,
        "switches_verified": switches(),
    }
