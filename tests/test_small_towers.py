"""Every kind of tower, in every layout and form, against PyTorch: the tables are right, and folding changes nothing.

The towers are small, and made of the same classes, Keras' and PyTorch's, as the real ones. What their size could
change is proven at real size by test_golden.py.
"""

from typing import Any

import numpy as np
import pytest

from mobileclip_keras.converters.conversion.mapping import load_into, read_from
from mobileclip_keras.keras_models.architectures import (
    FORMS,
    IMAGE_TOWERS,
    TEXT_TOWERS,
    FastViTConfig,
    TextConfig,
    ViTConfig,
)
from mobileclip_keras.keras_models.layers.initializers import to_be_overwritten
from mobileclip_keras.keras_models.models.image_encoder import MobileClipImageEncoder
from mobileclip_keras.keras_models.models.model import MobileClipModel
from mobileclip_keras.keras_models.models.text_encoder import MobileClipTextEncoder
from mobileclip_keras.verify.criteria import FLOAT64_TOLERANCE
from mobileclip_keras.verify.data import synthetic
from mobileclip_keras.weight_maps.table import NONE, Row

from .small import EMBED_DIM, SMALL_IMAGE_TOWERS, SMALL_TEXT_TOWERS, image_rows, text_rows
from .support import TOKENS, Arrays, apply, checkpoint, error, images

pytestmark = pytest.mark.usefixtures("small_towers")

IMAGES = [
    ("small_mci", "apple"),
    ("small_mci", "open_clip"),
    ("small_mci", "timm"),
    ("small_mci_layer", "open_clip"),
    ("small_mci_layer", "timm"),
    ("small_vit", "apple"),
    ("small_vit", "open_clip"),
    ("small_vit", "timm"),
    ("small_vit_clip", "open_clip"),
    ("small_vit_clip", "timm"),
]
TEXTS = [
    ("small_mct", "apple"),
    ("small_transformer", "apple"),
    ("small_transformer", "open_clip"),
    ("small_transformer_causal", "apple"),
    ("small_transformer_causal", "open_clip"),
]


def tensors(rows: tuple[Row, ...]) -> Arrays:
    return synthetic.state_dict(((row.source, row.source_shape) for row in rows if row.source != NONE), seed=0)


def image_model(tower: str, layout: str, form: str, arrays: Arrays) -> MobileClipModel:
    conventions: dict[str, Any] = {}
    if tower == "small_vit":
        as_apple, as_timm = {"norm_epsilon": 1e-5, "stem_padding": 1}, {"norm_epsilon": 1e-6, "stem_padding": 0}
        conventions = as_apple if layout == "apple" else as_timm
    options = {"form": form, "projection_bias": layout != "apple", **conventions}
    with to_be_overwritten():
        model = MobileClipModel(image_encoder=MobileClipImageEncoder(tower, EMBED_DIM, dtype="float64", **options))
    load_into(model, checkpoint(arrays), image_rows(tower, layout, form))
    return model


def text_model(tower: str, layout: str, form: str, arrays: Arrays) -> MobileClipModel:
    with to_be_overwritten():
        model = MobileClipModel(text_encoder=MobileClipTextEncoder(tower, EMBED_DIM, form, dtype="float64"))
    load_into(model, checkpoint(arrays), text_rows(tower, layout, form))
    return model


@pytest.mark.parametrize(("tower", "layout"), IMAGES)
def test_an_image_tower_in_every_layout_and_form(tower: str, layout: str) -> None:
    from .small_torch import small_reference

    rows = image_rows(tower, layout)
    arrays, batch = tensors(rows), images(SMALL_IMAGE_TOWERS[tower].image_size, 2)
    reference = small_reference(tower, None, layout, arrays, as_trained=layout == "apple")
    expected = reference.encode_image(batch)
    assert np.abs(expected[0] - expected[1]).max() > 1e-3 * np.abs(expected).max(), "the two images look alike"
    model = image_model(tower, layout, "train", arrays)
    for form in FORMS:
        made = model if form == "train" else model.reparameterize(form)
        assert error(apply(made.image_encoder, batch), expected) <= FLOAT64_TOLERANCE, form
    back = read_from(model, rows)
    assert all(back[name].tobytes() == array.tobytes() for name, array in arrays.items())
    assert back.keys() == arrays.keys()


@pytest.mark.parametrize(("tower", "layout"), TEXTS)
def test_a_text_tower_in_every_layout_and_form(tower: str, layout: str) -> None:
    from .small_torch import small_reference

    rows = text_rows(tower, layout)
    arrays = tensors(rows)
    expected = small_reference(None, tower, layout, arrays).encode_text(TOKENS)
    assert np.abs(expected[0] - expected[1]).max() > 0.01 * np.abs(expected).max(), "the texts look alike"
    model = text_model(tower, layout, "train", arrays)
    for form in FORMS:
        made = model if form == "train" else model.reparameterize(form)
        assert error(apply(made.text_encoder, TOKENS), expected) <= FLOAT64_TOLERANCE, form
    back = read_from(model, rows)
    assert back.keys() == arrays.keys()
    assert all(back[name].tobytes() == array.tobytes() for name, array in arrays.items())


@pytest.mark.parametrize(("tower", "layout"), [pair for pair in IMAGES if pair[0].startswith("small_mci")])
def test_a_folded_image_checkpoint_in_every_layout(tower: str, layout: str) -> None:
    """The tables of the reparameterized form, against PyTorch's folded modules."""
    from .small_torch import small_reference

    arrays = tensors(image_rows(tower, layout, "reparameterized"))
    batch = images(SMALL_IMAGE_TOWERS[tower].image_size, 2)
    expected = small_reference(tower, None, layout, arrays).encode_image(batch)
    model = image_model(tower, layout, "reparameterized", arrays)
    for form in ("reparameterized", "inference"):
        assert error(apply(model.reparameterize(form).image_encoder, batch), expected) <= FLOAT64_TOLERANCE, form


def test_a_folded_text_checkpoint() -> None:
    from .small_torch import small_reference

    arrays = tensors(text_rows("small_mct", "apple", "reparameterized"))
    expected = small_reference(None, "small_mct", "apple", arrays).encode_text(TOKENS)
    model = text_model("small_mct", "apple", "reparameterized", arrays)
    for form in ("reparameterized", "inference"):
        assert error(apply(model.reparameterize(form).text_encoder, TOKENS), expected) <= FLOAT64_TOLERANCE, form


def kind(config: FastViTConfig | ViTConfig | TextConfig) -> tuple[object, ...]:
    """What decides which layers a tower has and how they are joined, without sizes."""
    if isinstance(config, FastViTConfig):
        norm, stages = config.attention_norm, len(config.depths)
        return "mci", norm, stages, config.attention, config.squeeze_excite, config.stem_scale_branch
    if isinstance(config, ViTConfig):
        return "vit", len(config.stem), config.stem_bias, config.class_token_position, config.pre_norm
    blocks = tuple(name for name, before in zip(config.blocks, ("", *config.blocks), strict=False) if name != before)
    return "text", blocks, config.causal


def test_every_kind_of_real_tower_has_a_small_twin() -> None:
    """Else something that only a real tower has would be proven at night alone."""
    known = [*IMAGE_TOWERS.items(), *TEXT_TOWERS.items()]
    real = {name: kind(config) for name, config in known if not name.startswith("small") and "shapes" not in name}
    small = {kind(config) for config in [*SMALL_IMAGE_TOWERS.values(), *SMALL_TEXT_TOWERS.values()]}
    assert len(real) == 11
    assert set(real.values()) == small
