"""Taking the fingerprint of a model, with what prepares its inputs and the device that it runs on."""

import hashlib
from typing import TYPE_CHECKING

import keras
import numpy as np

from ...kernels.probe import kept_bits
from ...store.variables import variables_by_name
from .fingerprint import Fingerprint, package_version

if TYPE_CHECKING:
    from ...inputs.preprocessing import ImagePreprocessor
    from ...inputs.tokenizer import Tokenizer
    from ...models.model import MobileClipModel


def fingerprint_of(
    model: "MobileClipModel",
    preprocessor: "ImagePreprocessor | None" = None,
    tokenizer: "Tokenizer | None" = None,
) -> Fingerprint:
    """The fingerprint of a model with what prepares its inputs. Reads every weight once."""
    return Fingerprint(
        image_weights=weights_hash(model, "image_encoder"),
        text_weights=weights_hash(model, "text_encoder"),
        preprocessing="" if preprocessor is None else _preprocessing(preprocessor),
        tokenizer="" if tokenizer is None else _tokenizer(tokenizer),
        dtype=str(model.dtype_policy.name),
        precision=f"{kept_bits()} bits",
        version=package_version(),
    )


def weights_hash(model: "MobileClipModel", tower: str) -> str:
    """SHA-256 of a tower's variables with their names, dtypes and shapes; an empty text without that tower."""
    digest = hashlib.sha256()
    found = {name: each for name, each in variables_by_name(model).items() if name.startswith(f"{tower}/")}
    for name in sorted(found):
        array = np.ascontiguousarray(_numpy(found[name]))
        digest.update(f"{name} {found[name].dtype} {array.shape}\n".encode())
        digest.update(array.view(np.uint8).data if array.ndim else array.tobytes())
    return digest.hexdigest() if found else ""


def _numpy(variable: keras.Variable) -> np.ndarray:
    """NumPy has no bfloat16; float32 holds each of its values."""
    value = keras.ops.cast(variable, "float32") if variable.dtype == "bfloat16" else variable
    return np.asarray(keras.ops.convert_to_numpy(value))


def _preprocessing(preprocessor: "ImagePreprocessor") -> str:
    mean, std = (" ".join(f"{value:.9g}" for value in values) for values in (preprocessor.mean, preprocessor.std))
    return f"Pillow {preprocessor.interpolation} to {preprocessor.image_size} px, mean {mean}, std {std}"


def _tokenizer(tokenizer: "Tokenizer") -> str:
    name = f"{tokenizer.vocab_size} CLIP byte pairs, {tokenizer.context_length} ids"
    return f"{name}, padded with {tokenizer.pad_id}"
