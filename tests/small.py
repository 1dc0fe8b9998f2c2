"""Small models: every kind of tower that the real variants have, a thousandth of the size.

small_torch.py builds the same towers in PyTorch. A test file gets them known by name with
`pytestmark = pytest.mark.usefixtures("small_towers")`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import pytest

from mobileclip_keras.keras_models import registry
from mobileclip_keras.keras_models.architectures import FastViTConfig, TextConfig, ViTConfig
from mobileclip_keras.keras_models.layers.initializers import to_be_overwritten
from mobileclip_keras.keras_models.models.image_encoder import MobileClipImageEncoder
from mobileclip_keras.keras_models.models.model import MobileClipModel
from mobileclip_keras.keras_models.models.text_encoder import MobileClipTextEncoder
from mobileclip_keras.keras_models.registry import Variant
from mobileclip_keras.keras_models.store.variables import variables_by_name
from mobileclip_keras.verify.data import synthetic
from mobileclip_keras.weight_maps import walks
from mobileclip_keras.weight_maps.table import Row

EMBED_DIM = 16

SMALL_IMAGE_TOWERS: dict[str, FastViTConfig | ViTConfig] = {
    # mci0, mci1, mci2
    "small_mci": FastViTConfig(
        depths=(1, 1, 1, 1),
        dims=(8, 16, 32, 32),
        mlp_ratio=2,
        image_size=64,
        head_dim=8,
        attention=(False, False, False, True),
        squeeze_excite=(False, False, True, True),
        stem_scale_branch=True,
        attention_norm="batch",
    ),
    # mci3, mci4
    "small_mci_layer": FastViTConfig(
        depths=(1, 1, 1, 1, 1),
        dims=(8, 8, 16, 32, 32),
        mlp_ratio=2,
        image_size=128,
        head_dim=8,
        attention=(False, False, False, True, True),
        squeeze_excite=(False,) * 5,
        stem_scale_branch=False,
        attention_norm="layer",
    ),
    # vit_b16
    "small_vit": ViTConfig(32, 2, 4, ((8, 4), (8, 2), (32, 2)), True, False, False, image_size=64),
    # vit_l14
    "small_vit_clip": ViTConfig(32, 2, 4, ((32, 14),), False, True, True, image_size=56),
}
SMALL_TEXT_TOWERS: dict[str, TextConfig] = {
    "small_mct": TextConfig(16, 2, ("repmixer", "transformer", "repmixer"), causal=False),
    "small_transformer": TextConfig(16, 2, ("transformer",) * 2, causal=False),
    "small_transformer_causal": TextConfig(16, 2, ("transformer",) * 2, causal=True),
}
# The two towers of saved_by_0_1_0/, smaller still, so that their weights fit in the repository.
KNOWN_IMAGE_TOWERS = SMALL_IMAGE_TOWERS | {
    "small_mci_narrow": replace(SMALL_IMAGE_TOWERS["small_mci"], dims=(8, 8, 16, 32)),
}
KNOWN_TEXT_TOWERS = SMALL_TEXT_TOWERS | {
    "small_mct_of_64_words": TextConfig(16, 2, ("repmixer", "transformer"), causal=False, vocab_size=64),
}


def small_model(
    image: str | None = "small_mci",
    text: str | None = "small_mct",
    dtype: str = "float32",
    *,
    form: str = "train",
    variant: str | None = None,
    **options: Any,
) -> MobileClipModel:
    """A model of small towers, every variable of which is far from its initial value.

    Args:
        image, text: Names of small towers; None leaves one out.
        variant: The published variant whose preprocessing and tokenizer the model takes.
        options: What else the image encoder takes.
    """
    with to_be_overwritten():  # on JAX, initial values take longer than most tests
        model = MobileClipModel(
            image and MobileClipImageEncoder(image, EMBED_DIM, form=form, dtype=dtype, **options),
            text and MobileClipTextEncoder(text, EMBED_DIM, form, dtype=dtype),
            variant=variant,
            dtype=dtype,
        )
    randomise(model)
    return model


def randomise(model: keras.Model) -> None:
    """Gives each variable values as in a synthetic checkpoint; they follow from its name and shape alone."""
    for name, variable in variables_by_name(model).items():
        as_in_checkpoints = name.replace("/", ".").replace("moving_mean", "running_mean")
        as_in_checkpoints = as_in_checkpoints.replace("moving_variance", "running_var")
        as_in_checkpoints = as_in_checkpoints.replace("layer_scale.gamma", "layer_scale")
        if as_in_checkpoints.endswith("gamma"):  # of a norm
            as_in_checkpoints = as_in_checkpoints.removesuffix("gamma") + "weight"
        array = synthetic.tensor(0, as_in_checkpoints, tuple(variable.shape))
        if name.endswith("kernel"):
            fan_in = max(np.prod(variable.shape[:-1]), 1)
            array = np.random.default_rng(len(name)).normal(0, fan_in**-0.5, variable.shape)
        variable.assign(array)


@contextmanager
def small_variant(name: str, **changes: Any) -> Iterator[Variant]:
    """Makes a published variant one of small towers, with these other changes."""
    towers = {"image_tower": "small_mci", "text_tower": "small_mct", "embed_dim": EMBED_DIM, "image_size": 64}
    small = replace(registry.get_variant(name), **{**towers, **changes})
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry.VARIANTS, small.name, small)
        for key, variant in registry._KEYS.items():
            if variant.name == small.name:
                patch.setitem(registry._KEYS, key, small)
        yield small


def image_rows(tower: str, layout: str, form: str = "train") -> tuple[Row, ...]:
    """The table of a small image tower, made as the committed tables are."""
    config = SMALL_IMAGE_TOWERS[tower]
    walk: Callable[..., Any] = walks.fastvit if isinstance(config, FastViTConfig) else walks.vit
    return tuple(walk(config, EMBED_DIM, layout, form))


def text_rows(tower: str, layout: str, form: str = "train") -> tuple[Row, ...]:
    """The table of a small text tower."""
    return tuple(walks.text(KNOWN_TEXT_TOWERS[tower], EMBED_DIM, layout, form))
