"""The towers of small.py in PyTorch, of the classes that the real ones are made of.

Imports PyTorch, timm and open_clip.
"""

from functools import partial

import timm
import torch
from open_clip.transformer import TextTransformer
from timm.models.fastvit import Attention
from timm.models.vision_transformer_hybrid import ConvStem, HybridEmbed
from torch import nn

from mobileclip_keras.verify.torch_models import _divide
from mobileclip_keras.verify.torch_models.keys import mci_to_timm
from mobileclip_keras.verify.torch_models.mct import MobileTextTower
from mobileclip_keras.verify.torch_models.reference import TorchReference
from mobileclip_keras.verify.torch_models.towers import _load

from .small import EMBED_DIM, SMALL_IMAGE_TOWERS, SMALL_TEXT_TOWERS
from .support import Arrays


def small_mci() -> nn.Module:
    config = SMALL_IMAGE_TOWERS["small_mci"]
    model = timm.create_model(
        "fastvit_mci0",
        num_classes=EMBED_DIM,
        layers=config.depths,
        embed_dims=config.dims,
        mlp_ratios=(config.mlp_ratio,) * len(config.depths),
    )
    for module in model.modules():
        if isinstance(module, Attention):  # whose heads have 32 channels in every model of timm's
            module.num_heads *= module.head_dim // config.head_dim
            module.head_dim, module.scale = config.head_dim, config.head_dim**-0.5
    return model


def small_vit() -> nn.Module:
    config = SMALL_IMAGE_TOWERS["small_vit"]
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
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-5
    model.patch_embed.backbone[0].conv.padding = (1, 1)
    return model


def small_mct() -> nn.Module:
    config = SMALL_TEXT_TOWERS["small_mct"]
    return MobileTextTower(width=config.width, heads=config.heads, layers=config.blocks.count("transformer"))


def small_transformer_causal() -> nn.Module:
    config = SMALL_TEXT_TOWERS["small_transformer_causal"]
    return TextTransformer(
        width=config.width, heads=config.heads, layers=len(config.blocks), output_dim=EMBED_DIM, no_causal_mask=False
    )


BUILDERS = {builder.__name__: builder for builder in (small_mci, small_vit, small_mct, small_transformer_causal)}


def small_reference(image: str, text: str, layout: str, state: Arrays) -> TorchReference:
    """Small towers in float64 that hold exactly the tensors of a checkpoint.

    Args:
        image: "small_mci" or "small_vit".
        text: "small_mct" or "small_transformer_causal".
        layout: "apple" or "open_clip".
        state: the checkpoint.
    """
    image_state, text_state, log_scale = _divide(state, layout)
    if layout == "apple":
        image_state = mci_to_timm(image_state)
    with torch.device("cpu"):
        towers = [BUILDERS[name]() for name in (image, text)]
    states = (image_state, text_state)
    loaded = [_load(tower, its, "float64", "PyTorch") for tower, its in zip(towers, states, strict=True)]
    return TorchReference(*loaded, log_scale)
