"""Inputs with expected outputs, by which a device checks itself: plain little-endian numbers, described in JSON."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from ....keras_models.store.foreign.foreign_files import check_regular
from ....keras_models.store.foreign.json_fields import fields, listed, mapping, number, problems, text, whole
from ....keras_models.store.foreign.json_file import read_json
from ....verify.compare import Features
from ....verify.criteria import LARGEST_TORCH_ERROR
from ....verify.data.inputs import PHOTOS, Inputs
from ..proofs.inputs import ProofInputs
from ..request import DeployError

FOLDER = "golden"
FILE = "golden.json"

_ARRAY = fields(
    {
        "file": text(255),
        "shape": listed(whole(1, 1 << 20), most=4, least=1),
        "dtype": text(among=("float32", "float64", "int32", "uint8")),
    }
)
_NAMES = fields({}, {"images": listed(text(255), most=100), "texts": listed(text(), most=100)})
_FIELDS = fields(
    {
        "torch_rms": number(0, LARGEST_TORCH_ERROR),
        "torch_maximum": number(0, LARGEST_TORCH_ERROR),
        "arrays": mapping(_ARRAY, most=100),
        "names": _NAMES,
    }
)


def write_golden(
    folder: Path, inputs: ProofInputs, truth: Features, errors: tuple[float, float], scale: float, bias: float | None
) -> None:
    """Writes the golden inputs and outputs.

    Args:
        folder: to be made.
        inputs: the golden ones.
        truth: PyTorch's features of them in float64.
        errors: root mean square and maximum of PyTorch's own float32 error, of their logits at scale 100.
        scale: the factor of the logits.
        bias: what is added to them; None for nothing.
    """
    folder.mkdir()
    about: dict[str, Any] = {"torch_rms": errors[0], "torch_maximum": errors[1], "arrays": {}, "names": {}}
    arrays: dict[str, np.ndarray] = {}
    if truth.image is not None:
        about["names"]["images"] = list(inputs.fixed.image_names)
        if inputs.pixels is None:
            arrays["image"] = inputs.fixed.images.astype("<f4")
        else:
            for name, pixels in zip(inputs.fixed.image_names, inputs.pixels, strict=True):
                arrays[f"pixels_{name}"] = pixels
        arrays["image_features"] = _unit(truth.image)
        for photo in PHOTOS.glob("*.jpg"):
            shutil.copyfile(photo, folder / photo.name)
        shutil.copyfile(PHOTOS / "README.md", folder / "PHOTOS.md")
    if truth.text is not None:
        about["names"]["texts"] = list(inputs.fixed.texts)
        arrays["tokens"] = inputs.fixed.tokens.astype("<i4")
        arrays["text_features"] = _unit(truth.text)
    if truth.image is not None and truth.text is not None:
        arrays["logits"] = scale * arrays["image_features"] @ arrays["text_features"].T + (bias or 0.0)
    for name, array in arrays.items():
        (folder / f"{name}.bin").write_bytes(
            np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<")).tobytes()
        )
        about["arrays"][name] = {"file": f"{name}.bin", "shape": list(array.shape), "dtype": str(array.dtype)}
    (folder / FILE).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def read_golden(folder: Path) -> tuple[ProofInputs, Features, tuple[float, float]]:
    """What `write_golden` wrote: the inputs, PyTorch's features, and PyTorch's own errors."""
    path = folder / FILE
    about = read_json(path, folder=folder)
    wrong = problems(about, _FIELDS)
    if wrong:
        raise DeployError(f"{path} is not a description that export writes: {'; '.join(wrong)}.")

    def array(name: str) -> np.ndarray | None:
        described = about["arrays"].get(name)
        if described is None:
            return None
        file, shape = folder / described["file"], tuple(described["shape"])
        check_regular(file, folder)
        numbers = np.fromfile(file, described["dtype"])
        if numbers.size != math.prod(shape):
            raise DeployError(f"{file} holds {numbers.size} numbers, not the {math.prod(shape)} that {path} says.")
        return numbers.reshape(shape)

    images, texts = (tuple(about["names"].get(key, ())) for key in ("images", "texts"))
    pixels = tuple(value for name in images if (value := array(f"pixels_{name}")) is not None)
    empty = np.zeros((0,))
    image, tokens = array("image"), array("tokens")
    fixed = Inputs(empty if image is None else image, empty if tokens is None else tokens, images, texts)
    features = Features(array("image_features"), array("text_features"))
    return ProofInputs(fixed, pixels or None), features, (about["torch_rms"], about["torch_maximum"])


def _unit(features: np.ndarray) -> np.ndarray:
    return features / np.linalg.norm(features, axis=-1, keepdims=True)
