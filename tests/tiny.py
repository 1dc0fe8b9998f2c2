"""A MobileClipModel that is a thousandth of the real ones, for tests that need no more."""

import keras
import numpy as np
import pytest

from mobileclip_keras.keras_models.architectures import FastViTConfig, TextConfig
from mobileclip_keras.keras_models.models import image_encoder, text_encoder
from mobileclip_keras.keras_models.models.image_encoder import MobileClipImageEncoder
from mobileclip_keras.keras_models.models.model import MobileClipModel
from mobileclip_keras.keras_models.models.text_encoder import MobileClipTextEncoder

IMAGE = FastViTConfig(
    depths=(1, 1, 1, 1),
    dims=(8, 8, 16, 32),
    mlp_ratio=2,
    attention=(False, False, False, True),
    squeeze_excite=(False, False, True, True),
    stem_scale_branch=True,
    attention_norm="batch",
    image_size=64,
)
TEXT = TextConfig(16, 2, ("repmixer", "transformer"), causal=False)


def tiny_model(monkeypatch: pytest.MonkeyPatch, form: str = "inference", dtype: str = "float32") -> MobileClipModel:
    """A model of 64 × 64 images with the parts of MobileCLIP-S0, and features that differ by input."""
    monkeypatch.setitem(image_encoder.IMAGE_TOWERS, "tiny", IMAGE)
    monkeypatch.setitem(text_encoder.TEXT_TOWERS, "tiny", TEXT)
    keras.utils.set_random_seed(0)
    images = MobileClipImageEncoder("tiny", 16, form=form, dtype=dtype)
    texts = MobileClipTextEncoder("tiny", 16, form, dtype=dtype)
    model = MobileClipModel(images, texts, variant="mobileclip_s0", dtype=dtype)
    spread_out(model)
    return model


def spread_out(model: keras.Model) -> None:
    """Gives a model weights with which its features differ by input; those of an untrained one hardly do."""
    generator = np.random.default_rng(0)
    for variable in model.trainable_variables:
        if len(variable.shape) > 1:
            noise = generator.normal(0, 1 / np.sqrt(np.prod(variable.shape[:-1]) + 1), variable.shape)
            variable.assign(noise + keras.ops.convert_to_numpy(variable).astype(np.float32))
