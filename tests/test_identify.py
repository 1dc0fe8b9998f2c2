"""Which checkpoint is which: by names and shapes alone, for every architecture, layout and form there is."""

from pathlib import Path
from typing import Any

import pytest

from mobileclip_keras.converters.checkpoints.identify import (
    CheckpointFormat,
    UnknownCheckpointError,
    WrongVariantError,
    choose_variant,
    identify,
    known_formats,
)
from mobileclip_keras.keras_models.registry import VARIANTS
from tests.converter_support import S0, SMALL_CLIP, TIMM

FORMATS = list(known_formats())
S2_CLIP = CheckpointFormat("mci2", "transformer_512", "open_clip", "train")
B = CheckpointFormat("vit_b16", "transformer_512", "apple", "train")


@pytest.mark.parametrize("checkpoint_format", FORMATS, ids=str)
def test_every_format_is_known_by_its_names_and_shapes(checkpoint_format: Any) -> None:
    assert identify(dict(reversed(checkpoint_format.shapes.items()))) == checkpoint_format
    for variant in checkpoint_format.variants:
        assert choose_variant(checkpoint_format, variant.short_name, Path("a.pt")) is variant


def test_every_published_file_has_its_kind() -> None:
    found = {(variant.name, known.layout) for known in FORMATS if known.form == "train" for variant in known.variants}
    for variant in VARIANTS.values():
        for file in (variant.published, *variant.copies):
            assert (variant.name, file.layout) in found
    folded = {(known.image_tower, known.layout) for known in FORMATS if known.form != "train"}
    assert folded == {(f"mci{i}", layout) for i in range(5) for layout in ("open_clip", "timm")} | {
        (f"mci{i}", "apple") for i in range(3)
    } | {("mci_shapes", layout) for layout in ("apple", "timm")}


def batch_norm(name: str, channels: int) -> dict:
    names = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{part}": (channels,) for part in names} | {f"{name}.num_batches_tracked": ()}


RESNET = {
    "conv1.weight": (64, 3, 7, 7),
    **batch_norm("bn1", 64),
    "fc.weight": (1000, 512),
    "fc.bias": (1000,),
}
for block in range(8):
    RESNET |= {f"layer{1 + block // 2}.{block % 2}.conv1.weight": (64, 64, 3, 3)}
    RESNET |= batch_norm(f"layer{1 + block // 2}.{block % 2}.bn1", 64)
CLIP = {
    "positional_embedding": (77, 512),
    "text_projection": (512, 512),
    "logit_scale": (),
    "visual.proj": (768, 512),
}
for block in range(12):
    for prefix, width in (("", 512), ("visual.", 768)):
        start = f"{prefix}transformer.resblocks.{block}"
        CLIP |= {
            f"{start}.attn.in_proj_weight": (3 * width, width),
            f"{start}.attn.in_proj_bias": (3 * width,),
        }


def test_other_projects() -> None:
    with pytest.raises(UnknownCheckpointError) as error:
        identify(RESNET)
    assert str(error.value) == (
        f"This is no checkpoint of MobileCLIP: none of its {len(RESNET)} tensors has a name of one "
        "(it begins with conv1.weight, bn1.weight, bn1.bias)."
    )
    with pytest.raises(UnknownCheckpointError, match=f"1 of its {len(CLIP)} tensors has a name of one"):
        identify(CLIP)
    with pytest.raises(UnknownCheckpointError, match="1 of its 1 tensors"):
        identify({"logit_scale": ()})


def test_everything_that_differs_is_told_at_once() -> None:
    shapes = dict(S0.shapes)
    del shapes["text_encoder.projection_layer"]
    shapes["head.weight"] = (10, 512)
    for block in (0, 1, 3):
        shapes[f"text_encoder.transformer.{block + 1}.pre_norm_ffn.1.weight"] = (7, 7)
    with pytest.raises(UnknownCheckpointError) as error:
        identify(shapes)
    assert str(error.value).splitlines() == [
        "This is no checkpoint that is known. The nearest is mobileclip_s0 in the apple layout, from which it differs:",
        "3 tensors of the wrong shape in the checkpoint:",
        "  text_encoder.transformer.{i=1-2,4}.pre_norm_ffn.1.weight has shape (7, 7), "
        "but (2048, 512) is needed for text_encoder/backbone/blocks_{i}/mlp/fc1/kernel",
        "1 tensor missing from the checkpoint:",
        "  text_encoder.projection_layer of shape (512, 512), for text_encoder/projection/kernel of shape (512, 512)",
        "1 tensor unexpected in the checkpoint:",
        "  head.weight of shape (10, 512)",
    ]


@pytest.mark.parametrize("checkpoint_format", [S0, SMALL_CLIP, TIMM], ids=str)
def test_one_tensor_is_enough_to_differ(checkpoint_format: Any) -> None:
    name, shape = next((n, s) for n, s in checkpoint_format.shapes.items() if len(s) == 4)
    changed = {
        f"missing from the checkpoint:\n  {name} ": {n: s for n, s in checkpoint_format.shapes.items() if n != name},
        "1 tensor unexpected in the checkpoint:\n  extra of shape (2)": {**checkpoint_format.shapes, "extra": (2,)},
        f"wrong shape in the checkpoint:\n  {name} has shape": {**checkpoint_format.shapes, name: shape[::-1]},
        "missing from the checkpoint": {n if n != name else n.upper(): s for n, s in checkpoint_format.shapes.items()},
    }
    for expected, shapes in changed.items():
        with pytest.raises(UnknownCheckpointError) as error:
            identify(shapes)
        assert expected in str(error.value) and f"The nearest is {checkpoint_format}" in str(error.value)


def test_a_checkpoint_halfway_folded_is_none() -> None:
    folded = CheckpointFormat("mci0", None, "timm", "reparameterized")
    mixed = dict(list(TIMM.shapes.items())[:200]) | dict(list(folded.shapes.items())[100:])
    with pytest.raises(UnknownCheckpointError, match="from which it differs"):
        identify(mixed)


def test_a_wrong_variant_is_told_the_right_one() -> None:
    with pytest.raises(WrongVariantError) as error:
        choose_variant(S0, "s2", Path("a.pt"))
    assert str(error.value) == (
        "a.pt is mobileclip_s0 in the apple layout, not mobileclip_s2. Convert it with --variant s0."
    )
    with pytest.raises(WrongVariantError, match=r"Convert it with --variant b or --variant blt or --variant 2-b\."):
        choose_variant(B, "s0", Path("a.pt"))


def test_what_cannot_be_told_apart_is_asked_for() -> None:
    with pytest.raises(WrongVariantError) as error:
        choose_variant(S2_CLIP, None, Path("folder/open_clip_model.safetensors"))
    assert str(error.value) == (
        "open_clip_model.safetensors could be mobileclip_s2 or mobileclip2_s2, which hold the same tensors. "
        "Say which with --variant s2 or --variant 2-s2."
    )
    with pytest.raises(WrongVariantError, match="could be mobileclip_b or mobileclip_blt, which"):
        choose_variant(B, None, Path("a.pt"))
    with pytest.raises(WrongVariantError, match="could be mobileclip_s0 or mobileclip2_s0"):
        choose_variant(TIMM, None, Path("model.safetensors"))


@pytest.mark.parametrize(
    ("checkpoint_format", "path", "name"),
    [
        (S0, "a.pt", "mobileclip_s0"),
        (SMALL_CLIP, "a.pt", "mobileclip2_s0"),
        (S2_CLIP, "mobileclip2_s2.pt", "mobileclip2_s2"),
        (S2_CLIP, "MobileCLIP-S2-OpenCLIP/open_clip_model.safetensors", "mobileclip_s2"),
        (B, "mobileclip_blt.pt", "mobileclip_blt"),
        (B, "blt/weights.pt", "mobileclip_blt"),
        (B, "mobileclip2_b.pt", "mobileclip2_b"),
        (S0, "mobileclip_s2.pt", "mobileclip_s0"),  # a name does not outweigh the content
    ],
)
def test_names_of_files_settle_it(checkpoint_format: Any, path: Path, name: str) -> None:
    assert choose_variant(checkpoint_format, None, Path(path)).name == name
