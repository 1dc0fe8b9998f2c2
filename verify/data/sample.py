"""A few of the fixed inputs with PyTorch's float64 logits: few enough for a record that others check weights by."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...keras_models import kernels
from ..compare import Features
from ..criteria import LOGIT_FLOOR, MAX_RATIO, ROUNDED
from ..running.programs import features_of, unnormalised
from .inputs import Inputs

if TYPE_CHECKING:
    from ...keras_models.models.model import MobileClipModel


@dataclass(frozen=True)
class Sample:
    """What PyTorch computes of the inputs that are compared stage by stage."""

    images: tuple[str, ...]
    """Their names; none where there is no image tower."""
    texts: tuple[str, ...]
    logits: np.ndarray
    """float64 (images, texts) at scale 100. For one tower alone: as `Features.logits` has them."""

    def to_json(self) -> dict[str, Any]:
        """Plain lists and numbers, each with all its digits."""
        return {"images": list(self.images), "texts": list(self.texts), "logits": self.logits.tolist()}


def take_sample(torch64: Features, inputs: Inputs) -> Sample:
    """The sample of all that PyTorch computed in float64.

    Args:
        torch64: features of all inputs.
        inputs: the fixed ones.
    """
    few = inputs.sample()
    image = None if torch64.image is None else torch64.image[list(inputs.sampled_images)]
    text = None if torch64.text is None else torch64.text[list(inputs.sampled_texts)]
    return Sample(
        () if image is None else few.image_names,
        () if text is None else few.texts,
        Features(image, text).logits(),
    )


def sample_error(model: "MobileClipModel", inputs: Inputs, logits: np.ndarray) -> float:
    """The largest difference of a model's logits, in full float32, from recorded ones; NaN where they do not compare.

    Args:
        model: to run on the sample.
        inputs: the fixed ones.
        logits: of the sample.
    """
    with kernels.full_float32(), np.errstate(all="ignore"):
        found = features_of(unnormalised(model), inputs.sample()).logits()
    return float(np.abs(found - logits).max()) if found.shape == logits.shape else float("nan")


def sample_limit(torch_maximum: float, dtype: str) -> float:
    """How far a folder's float32 logits may be from PyTorch's in float64 (criterion 2).

    Args:
        torch_maximum: PyTorch's own largest error in float32.
        dtype: of the stored weights. Half precision was rounded after the verification.
    """
    return max(MAX_RATIO * torch_maximum, LOGIT_FLOOR) * ROUNDED.get(dtype, 1)
