"""Converted folders for tests of loading and publishing: small ones, with made-up records."""

import json
from pathlib import Path
from typing import Any

import keras

from mobileclip_keras.converters.hub.contents import file_hashes
from mobileclip_keras.converters.hub.model_card import PICTURE_FILE
from mobileclip_keras.converters.hub.records import (
    VERIFICATION_FILE,
    read_record,
    weight_hashes,
    write_card,
    write_license,
    write_record,
)
from mobileclip_keras.keras_models import kernels
from mobileclip_keras.keras_models.inputs.preprocessing import ImagePreprocessor
from mobileclip_keras.keras_models.inputs.tokenizer import Tokenizer
from mobileclip_keras.keras_models.models.model import MobileClipModel
from mobileclip_keras.keras_models.registry import get_variant
from mobileclip_keras.keras_models.store.file_names import CONVERSION_FILE
from mobileclip_keras.keras_models.store.folder import form_folders
from mobileclip_keras.keras_models.store.load import load_folder
from mobileclip_keras.verify.data.inputs import fixed_inputs
from mobileclip_keras.verify.running.programs import features_of, unnormalised

VARIANT = "mobileclip2_s0"
MEAN = (0.5, 0.25, 0.125)
"""Of the folder's preprocessing, and of the variant once `small_variant` changed it."""


def write_converted(
    train: MobileClipModel, folder: Path, variant: str = VARIANT, preprocessor: ImagePreprocessor | None = None
) -> Path:
    """A folder as `convert` writes it, of a model in train form, whose verification is said to have passed.

    `publish` takes the folder only where VARIANT has the towers of the model, and after `record_sample`.
    """
    for model, place in ((train.reparameterize(), folder), (train, folder / "train")):
        place.mkdir(parents=True)
        keras.saving.save_model(model, place, zipped=False)
        (place / "assets").rmdir()
    (preprocessor or ImagePreprocessor(64, MEAN)).save_pretrained(folder)
    Tokenizer().save_pretrained(folder)
    source = {"file": f"{variant}.pt", "sha256": "ab" * 32, "layout": "open_clip", "dtype": "float32"}
    record = {
        "variant": variant,
        "source": source,
        "dtype": "float32",
        "weights_sha256": weight_hashes(folder),
    }
    write_record(folder, CONVERSION_FILE, record)
    pass_verification(folder)
    return folder


def pass_verification(folder: Path, **more: Any) -> None:
    """Writes the record and the card of a verification that passed for what is in a folder.

    Args:
        folder: a converted one.
        more: what else the record says.
    """
    errors = {"rms": 1e-5, "torch_rms": 1e-5, "maximum": 1.1e-4, "torch_maximum": 1e-4, "length_error": 1e-7}
    exact = {"image": 1e-14, "text": 2e-14, "logit_scale": 0.0, "logit_bias": None, "passed": True}
    rounding = {**errors, "rms_ratio": 1.0, "max_ratio": 1.1, "top1_differences": 0, "passed": True}
    forms = form_folders(folder)
    record = {
        "passed": True,
        "variant": read_record(folder, CONVERSION_FILE)["variant"],
        "backend": "tensorflow",
        "versions": {"torch": "2.6.0", "timm": "1.0.20", "open_clip_torch": "3.2.0"},
        "device": {
            "name": "NVIDIA H200",
            "processor": "Fast CPU",
            "switches_verified": {"tf32": "False", "torch.get_float32_matmul_precision()": "highest"},
        },
        "measured_not_judged": [
            {"way": "bfloat16", "rms": 0.05, "maximum": 0.2, "smallest_cosine": 0.9997, "top1_differences": 0}
        ],
        "inputs": {"images": ["a"] * 16, "texts": ["b"] * 16},
        "float64": [{"form": form, **exact} for form in forms],
        "float32": [{"form": form, "program": name, **rounding} for form in forms for name in ("encode", "predict")],
        **more,
    }
    (folder / PICTURE_FILE).write_bytes(b"\x89PNG\r\n\x1a\n")
    write_license(folder)
    write_record(folder, VERIFICATION_FILE, {**record, "files_sha256": file_hashes(folder)})
    write_card(folder)


def record_sample(folder: Path) -> None:
    """As `pass_verification`, with the logits of the folder's model in float64, which are PyTorch's."""
    conversion = json.loads((folder / CONVERSION_FILE).read_text())
    inputs = fixed_inputs(get_variant(conversion["variant"]))
    few = inputs.sample()
    with kernels.float64_enabled():
        found = features_of(unnormalised(load_folder(folder, dtype="float64")), few)
    names, sampled = (
        {
            "images": [] if found.image is None else list(some.image_names),
            "texts": [] if found.text is None else list(some.texts),
        }
        for some in (inputs, few)
    )
    sample = {**sampled, "logits": found.logits().tolist()}
    pass_verification(folder, inputs=names, sample=sample)
