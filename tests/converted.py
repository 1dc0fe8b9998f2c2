"""Converted folders for tests of loading and publishing: small ones, with made-up records."""

from pathlib import Path

import keras

from mobileclip_keras.converters.hub.model_card import PICTURE_FILE
from mobileclip_keras.converters.hub.records import (
    VERIFICATION_FILE,
    read_record,
    weight_hashes,
    write_card,
    write_record,
)
from mobileclip_keras.keras_models.inputs.preprocessing import ImagePreprocessor
from mobileclip_keras.keras_models.inputs.tokenizer import Tokenizer
from mobileclip_keras.keras_models.models.model import MobileClipModel
from mobileclip_keras.keras_models.store.file_names import CONVERSION_FILE

VARIANT = "mobileclip2_s0"


def write_converted(train: MobileClipModel, folder: Path) -> Path:
    """A folder as `convert` writes it, of a model in train form, whose verification passed."""
    for model, place in ((train.reparameterize(), folder), (train, folder / "train")):
        place.mkdir(parents=True)
        keras.saving.save_model(model, place, zipped=False)
        (place / "assets").rmdir()
    ImagePreprocessor(64, (0.5, 0.25, 0.125)).save_pretrained(folder)
    Tokenizer().save_pretrained(folder)
    source = {"file": f"{VARIANT}.pt", "sha256": "ab" * 32, "layout": "open_clip", "dtype": "float32"}
    record = {
        "variant": VARIANT,
        "source": source,
        "dtype": "float32",
        "weights_sha256": weight_hashes(folder),
    }
    write_record(folder, CONVERSION_FILE, record)
    pass_verification(folder)
    return folder


def pass_verification(folder: Path) -> None:
    """Writes the record and the card of a verification that passed for the weights in a folder."""
    forms = weight_hashes(folder)
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
        "float64": [{"form": form, "image": 1e-14, "text": 2e-14, "passed": True} for form in forms],
        "float32": [
            {
                "form": form,
                "program": "predict",
                "rms_ratio": 1.0,
                "max_ratio": 1.1,
                "top1_differences": 0,
                "passed": True,
            }
            for form in forms
        ],
        "weights_sha256": forms,
    }
    write_record(folder, VERIFICATION_FILE, record)
    (folder / PICTURE_FILE).write_bytes(b"\x89PNG\r\n\x1a\n")
    write_card(folder)
