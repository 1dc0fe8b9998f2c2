"""Running a converted folder once more, against what PyTorch computed when it was verified."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...keras_models.errors import MobileClipError
from ...keras_models.registry import get_variant
from ...keras_models.store.load import load_folder
from ...verify.data.inputs import Inputs, fixed_inputs
from ...verify.data.sample import sample_error, sample_limit
from .record_fields import VERIFICATION_FILE
from .verdict import AGAIN


def find_differences(
    folder: Path, conversion: dict[str, Any], verification: dict[str, Any], forms: tuple[str, ...]
) -> list[str]:
    """Loads each form, runs it on a few of the fixed inputs, and says which differ from the recorded float64 logits.

    Args:
        folder: a converted one, whose parts agree.
        conversion: its record.
        verification: its record, complete.
        forms: to run.
    """
    inputs = fixed_inputs(get_variant(conversion["variant"]), conversion["source"].get("image_size"))
    towers, recorded = conversion.get("towers", "both"), verification["sample"]
    few = inputs.sample()
    for where, noted, ours in (
        ("inputs", verification["inputs"], inputs),
        ("sample", recorded, few),
    ):
        images = [] if towers == "text" else list(ours.image_names)
        texts = [] if towers == "image" else list(ours.texts)
        if [noted.get("images"), noted.get("texts")] != [images, texts]:
            return [f"{VERIFICATION_FILE} is not about the inputs of this version ({where}): {AGAIN}"]
    if len({len(row) for row in recorded["logits"]}) != 1:
        return [f"{VERIFICATION_FILE} holds logits that are no table: {AGAIN}"]
    logits = np.asarray(recorded["logits"], np.float64)
    dtype = conversion["dtype"]
    return [each for form in forms for each in _difference(folder, form, dtype, verification, inputs, logits)]


def _difference(
    folder: Path, form: str, dtype: str, verification: dict[str, Any], inputs: Inputs, logits: np.ndarray
) -> Iterator[str]:
    errors = [check["torch_maximum"] for check in verification["float32"] if check["form"] == form]
    if not errors or None in errors:
        return  # that it was not compared is said already
    try:
        model = load_folder(folder, form=form, dtype="float32")
    except MobileClipError as error:
        yield str(error).rstrip(".")
        return
    what = f"the {form} form does not compute what PyTorch computed when it was verified"
    distance, limit = sample_error(model, inputs, logits), sample_limit(min(errors), dtype)
    if math.isnan(distance):
        yield f"{what}: its logits are no numbers, or other in number than the recorded ones"
    elif distance > limit:
        yield f"{what}: a logit differs by {distance:.2g}, and {limit:.2g} is allowed"
