"""The towers of small.py in PyTorch, of the classes that the real ones are made of.

Imports PyTorch, timm and open_clip.
"""

from collections.abc import Callable
from functools import partial

import timm
import torch
from open_clip.transformer import TextTransformer
from timm.models.fastvit import Attention
from timm.models.vision_transformer_hybrid import ConvStem, HybridEmbed
from torch import nn

from mobileclip_keras.keras_models.architectures import FastViTConfig, ViTConfig
from mobileclip_keras.verify.torch_models import _divide
from mobileclip_keras.verify.torch_models.keys import mci_to_timm, text_to_open_clip, vit_to_timm
from mobileclip_keras.verify.torch_models.mct import MobileTextTower
from mobileclip_keras.verify.torch_models.reference import TorchReference
from mobileclip_keras.verify.torch_models.towers import _load

from .small import EMBED_DIM, SMALL_IMAGE_TOWERS, SMALL_TEXT_TOWERS
from .support import Arrays


def mci(name: str, real: str, folded: bool = False) -> nn.Module:
    """timm's model of a real mci tower, with the numbers of a small one."""
    config = SMALL_IMAGE_TOWERS[name]
    assert isinstance(config, FastViTConfig)
    model = timm.create_model(
        real,
        num_classes=EMBED_DIM,
        layers=config.depths,
        embed_dims=config.dims,
        mlp_ratios=(config.mlp_ratio,) * len(config.depths),
        inference_mode=folded,
    )
    for module in model.modules():
        if isinstance(module, Attention):  # whose heads have 32 channels in every model of timm's
            module.num_heads *= module.head_dim // config.head_dim
            module.head_dim, module.scale = config.head_dim, config.head_dim**-0.5
    return model


def small_vit(as_trained: bool) -> nn.Module:
    """A small ViT-B/16, as Apple trained it or as timm computes it."""
    config = SMALL_IMAGE_TOWERS["small_vit"]
    assert isinstance(config, ViTConfig)
    channels, kernels = zip(*config.stem, strict=True)
    stem = ConvStem(channels=channels, stride=kernels, kernel_size=kernels, padding=0, act_layer=nn.GELU)
    model = timm.create_model(
        "vit_base_mci_224",
        num_classes=EMBED_DIM,
        img_size=config.image_size,
        embed_dim=config.width,
        depth=config.depth,
        num_heads=config.heads,
        embed_layer=partial(HybridEmbed, backbone=stem, proj=False),
    )
    if as_trained:
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = 1e-5
        model.patch_embed.backbone[0].conv.padding = (1, 1)
    return model


def small_vit_clip() -> nn.Module:
    config = SMALL_IMAGE_TOWERS["small_vit_clip"]
    assert isinstance(config, ViTConfig)
    return timm.create_model(
        "vit_large_patch14_clip_224",
        num_classes=EMBED_DIM,
        img_size=config.image_size,
        embed_dim=config.width,
        depth=config.depth,
        num_heads=config.heads,
    )


def small_mct(folded: bool = False) -> nn.Module:
    config = SMALL_TEXT_TOWERS["small_mct"]
    layers = config.blocks.count("transformer")
    return MobileTextTower(width=config.width, heads=config.heads, layers=layers, folded=folded)


def transformer(name: str) -> nn.Module:
    config = SMALL_TEXT_TOWERS[name]
    blocks = len(config.blocks)
    causal = {"no_causal_mask": not config.causal}
    return TextTransformer(width=config.width, heads=config.heads, layers=blocks, output_dim=EMBED_DIM, **causal)


def image_tower(name: str, folded: bool, as_trained: bool) -> nn.Module:
    builders: dict[str, Callable[[], nn.Module]] = {
        "small_mci": lambda: mci(name, "fastvit_mci0", folded),
        "small_mci_layer": lambda: mci(name, "fastvit_mci3", folded),
        "small_vit": lambda: small_vit(as_trained),
        "small_vit_clip": small_vit_clip,
    }
    return builders[name]()


def small_reference(
    image: str | None,
    text: str | None,
    layout: str,
    state: Arrays,
    as_trained: bool = True,
    dtype: str = "float64",
) -> TorchReference:
    """Small towers that hold exactly the tensors of a checkpoint, in train form or folded.

    Args:
        image: A name of SMALL_IMAGE_TOWERS, or None.
        text: A name of SMALL_TEXT_TOWERS, or None.
        layout: "apple", "open_clip" or "timm".
        state: The checkpoint.
        as_trained: Whether small_vit computes as Apple trained it, rather than as timm does.
        dtype: The precision to compute in. In float32 the towers share the checkpoint's memory.
    """
    image_state, text_state, scalars = _divide(state, layout)
    if layout == "apple" and image is not None:
        image_state = (mci_to_timm if image.startswith("small_mci") else vit_to_timm)(image_state)
    if layout == "apple" and text not in (None, "small_mct"):
        text_state = text_to_open_clip(text_state)
    folded = [any(".reparam_conv." in name for name in tensors) for tensors in (image_state, text_state)]
    towers: list[nn.Module | None] = [None, None]
    with torch.device("cpu"):
        if image is not None:
            towers[0] = _load(image_tower(image, folded[0], as_trained), image_state, dtype, "PyTorch")
        if text is not None:
            made = small_mct(folded[1]) if text == "small_mct" else transformer(text)
            towers[1] = _load(made, text_state, dtype, "PyTorch")
    return TorchReference(*towers, scalars.get("logit_scale"), scalars.get("logit_bias"))
