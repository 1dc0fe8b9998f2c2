"""Variants by name, and the models that they name."""

import pytest

import mobileclip_keras as mk
from mobileclip_keras.keras_models.layers.initializers import to_be_overwritten
from mobileclip_keras.keras_models.models.model import MobileClipModel
from mobileclip_keras.keras_models.registry import VARIANTS, UnknownVariantError, get_variant


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("s2", "mobileclip_s2"),
        ("S2", "mobileclip_s2"),
        ("mobileclip_s2", "mobileclip_s2"),
        ("MobileCLIP-S2", "mobileclip_s2"),
        ("apple/MobileCLIP2-S2", "mobileclip2_s2"),
        ("2-s2", "mobileclip2_s2"),
        ("mobileclip2_s2.pt", "mobileclip2_s2"),
        ("MobileCLIP-S2-OpenCLIP", "mobileclip_s2"),
        ("timm/MobileCLIP2-L-14-OpenCLIP", "mobileclip2_l14"),
        ("blt", "mobileclip_blt"),
        ("apple/MobileCLIP-B-LT", "mobileclip_blt"),
        ("l14", "mobileclip_l14"),
        ("shapes", "mobileclip_shapes"),
        ("MobileCLIP-Shapes", "mobileclip_shapes"),
    ],
)
def test_every_spelling_of_a_variant(spelling: str, name: str) -> None:
    assert get_variant(spelling).name == name


def test_every_variant_is_found_by_its_own_names() -> None:
    assert len(VARIANTS) == 15
    for variant in VARIANTS.values():
        for name in (variant.name, variant.short_name, variant.title, *(file.repo for file in variant.hub_files[:1])):
            assert get_variant(name) is variant


def test_one_variant_is_this_projects_own_and_says_so() -> None:
    (own,) = (variant for variant in VARIANTS.values() if variant.is_ours)
    assert own.name == "mobileclip_shapes"
    assert (own.publisher, own.license, own.hub_files) == ("mobileclip-keras", "apache-2.0", ())
    assert all(v.publisher == "Apple" and v.license == "apple-amlr" for v in VARIANTS.values() if v is not own)
    with pytest.raises(UnknownVariantError, match=r"shapes \(mobileclip_shapes, not of Apple\)"):
        get_variant("shape")


@pytest.mark.parametrize(
    ("name", "nearest"), [("s9", "s"), ("mobileclip2_s5", "2-s"), ("l-15", "l14"), ("bltt", "blt")]
)
def test_an_unknown_variant_lists_the_known_ones_nearest_first(name: str, nearest: str) -> None:
    with pytest.raises(UnknownVariantError) as raised:
        MobileClipModel.from_variant(name)
    message = str(raised.value)
    assert message.startswith(f"There is no variant {name!r}. The variants, nearest first: {nearest}")
    assert all(variant in message for variant in VARIANTS)


@pytest.mark.backend
def test_from_variant_makes_the_variant() -> None:
    with to_be_overwritten():
        model = mk.create_mobile_clip_model("MobileCLIP2-S0")
    assert isinstance(model, mk.MobileClipModel) and mk.MobileClipModel.MODEL_VARIANTS is VARIANTS
    assert (model.variant, model.form) == ("mobileclip2_s0", "train")
    assert (model.image_encoder.tower, model.text_encoder.tower) == ("mci0", "transformer_512")
    assert model.image_encoder.projection_bias and model.image_encoder.image_size == 256
    parameters = model.image_encoder.count_params() / 1e6
    assert 11 < parameters < 13


@pytest.mark.parametrize(("variant", "epsilon", "padding"), [("b", 1e-5, 1), ("blt", 1e-5, 1), ("2-b", 1e-6, 0)])
def test_both_vits_compute_as_they_were_trained(variant: str, epsilon: float, padding: int) -> None:
    with to_be_overwritten():
        encoder = mk.MobileClipImageEncoder.from_variant(variant)
    assert encoder.backbone.norm.epsilon == encoder.backbone.blocks[0].norm1.epsilon == epsilon
    assert encoder.backbone.patch_embed[0].conv.padding == padding
