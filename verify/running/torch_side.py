"""PyTorch's side of a verification: float64, and float32 in several equally good runs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..compare import Features
from ..data.inputs import Inputs
from .stages import named

if TYPE_CHECKING:
    from ..torch_models import TorchReference


@dataclass
class TorchSide:
    """What PyTorch computed."""

    features: Features
    """In float64."""
    stages: dict[str, np.ndarray]
    """In float64, of the sample."""
    stages32: dict[str, np.ndarray]
    runs: list[Features]
    """In float32, run by run."""


def run_torch(reference: "TorchReference", inputs: Inputs, progress: Callable[[str], None]) -> TorchSide:
    """PyTorch's side, in float64 and in every run in float32."""
    from ..torch_models.runs import RUNS, run

    progress("PyTorch float64")
    torch64, truth = _torch_stages(reference, inputs)
    progress("PyTorch float32")
    single = reference.to("float32")
    first, stages = _torch_stages(single, inputs)
    torch32 = [first]
    for number, way in enumerate(RUNS, 2):
        progress(f"PyTorch float32 again, {number} of {1 + len(RUNS)}")
        torch32.append(run(single, way, inputs))
    return TorchSide(torch64, truth, stages, torch32)


def _torch_stages(reference: "TorchReference", inputs: Inputs) -> tuple[Features, dict[str, np.ndarray]]:
    """The features of all inputs, and every stage of the sample."""
    image = reference.image_stages(inputs.images, inputs.sampled_images) if reference.has_image else {}
    text = reference.text_stages(inputs.tokens, inputs.sampled_texts) if reference.has_text else {}
    features = Features(image.get("features"), text.get("features"))
    if image:
        image["features"] = image["features"][list(inputs.sampled_images)]
    if text:
        text["features"] = text["features"][list(inputs.sampled_texts)]
    return features, named(image, text)
