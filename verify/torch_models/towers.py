"""The towers as PyTorch modules, loaded strictly: a parameter that the checkpoint lacks is an error.

Modules are built on PyTorch's meta device, where tensors have no storage. So no time goes into initial values, and a
tensor that the checkpoint did not fill cannot be computed with. This file imports PyTorch, so it is imported only
where PyTorch is needed.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np
import timm
import torch
from open_clip.transformer import TextTransformer
from torch import nn

from .mct import MobileTextTower
from .requirements import ReferenceMismatchError


class ImageTower(NamedTuple):
    """An image tower's name and construction in timm."""

    timm_name: str
    embed_dim: int
    pool: str
    changes: Mapping[str, Any] = {}
    """Numbers that differ from timm's model of that name."""


class TextTower(NamedTuple):
    """The numbers that make open_clip's text transformer one of MobileCLIP's 12-layer text towers."""

    width: int
    heads: int
    causal: bool


Tower = TypeVar("Tower", ImageTower, TextTower)

IMAGE_TOWERS = {
    "mci0": ImageTower("fastvit_mci0", 512, "avg"),
    "mci1": ImageTower("fastvit_mci1", 512, "avg"),
    "mci2": ImageTower("fastvit_mci2", 512, "avg"),
    "mci3": ImageTower("fastvit_mci3", 768, "avg"),
    "mci4": ImageTower("fastvit_mci4", 768, "avg"),
    "mci_shapes": ImageTower("fastvit_mci0", 64, "avg", {"layers": (1, 1, 2, 1), "embed_dims": (24, 48, 96, 192)}),
    "vit_b16": ImageTower("vit_base_mci_224", 512, "token"),
    "vit_l14": ImageTower("vit_large_patch14_clip_224", 768, "token"),
}
TEXT_TOWERS = {
    "transformer_512": TextTower(512, 8, causal=False),
    "transformer_512_causal": TextTower(512, 8, causal=True),
    "transformer_768": TextTower(768, 12, causal=False),
}
MIXER_TOWERS = {"mct": {}, "mct_shapes": {"width": 64, "heads": 2, "layers": 2}}
"""The text towers of mct.py, and the numbers in which they differ from MobileCLIP-S0's."""


def new_image_tower(name: str, **options: Any) -> nn.Module:
    """timm's model of an image tower, in train form where no option says otherwise, with initial weights.

    Args:
        name: A key of `IMAGE_TOWERS`.
        options: Of `timm.create_model`.
    """
    tower = _find(name, IMAGE_TOWERS, "image")
    return timm.create_model(
        tower.timm_name, num_classes=tower.embed_dim, global_pool=tower.pool, **tower.changes, **options
    )


def build_image_tower(
    name: str,
    state: Mapping[str, np.ndarray],
    dtype: str,
    norm_epsilon: float | None = None,
    stem_padding: int | None = None,
    image_size: int | None = None,
) -> nn.Module:
    """timm's model of image tower `name`, in inference mode.

    Args:
        name: A key of `IMAGE_TOWERS`.
        state: Tensors under timm's names, branches kept or folded.
        dtype: "float32" or "float64".
        norm_epsilon: The epsilon of every LayerNorm; None keeps timm's.
        stem_padding: The padding of vit_b16's first convolution; None keeps timm's.
        image_size: That a ViT's position embeddings are for; None keeps timm's.

    Raises:
        ReferenceMismatchError: where names or shapes are not exactly the model's.
        ValueError: where there is no such tower.
    """
    options: dict[str, Any] = {"inference_mode": True} if _is_folded(state) else {}
    if image_size is not None:
        options["img_size"] = image_size
    with torch.device("meta"):
        model = new_image_tower(name, **options)
    _load(model, state, dtype, f"timm's {IMAGE_TOWERS[name].timm_name}")
    if norm_epsilon is not None:
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = norm_epsilon
    if stem_padding is not None and name == "vit_b16":
        model.patch_embed.backbone[0].conv.padding = (stem_padding, stem_padding)
    return model


def build_text_tower(name: str, state: Mapping[str, np.ndarray], dtype: str) -> nn.Module:
    """The model of text tower `name`, in inference mode: open_clip's, or one of mct.py.

    Args:
        name: A key of `TEXT_TOWERS` or of `MIXER_TOWERS`.
        state: Tensors under open_clip's names; of `MIXER_TOWERS` under Apple's, branches kept or folded.
        dtype: "float32" or "float64".

    Raises:
        ReferenceMismatchError: where names or shapes are not exactly the model's.
        ValueError: where there is no such tower.
    """
    if name in MIXER_TOWERS:
        with torch.device("meta"):
            model: nn.Module = MobileTextTower(folded=_is_folded(state), **MIXER_TOWERS[name])
        return _load(model, state, dtype, f"the text tower {name}")

    tower = _find(name, TEXT_TOWERS, "text")
    with torch.device("meta"):
        transformer = TextTransformer(
            width=tower.width, heads=tower.heads, output_dim=tower.width, no_causal_mask=not tower.causal
        )
    if tower.causal:
        transformer.attn_mask = transformer.build_causal_mask()  # no checkpoint fills it
    return _load(transformer, state, dtype, f"open_clip's text tower of width {tower.width}")


def _find(name: str, towers: Mapping[str, Tower], kind: str) -> Tower:
    if name not in towers:
        raise ValueError(f"there is no {kind} tower {name!r} in PyTorch; there are {', '.join(towers)}")
    return towers[name]


def _is_folded(state: Mapping[str, np.ndarray]) -> bool:
    return any(".reparam_conv." in name for name in state)


def _load(model: nn.Module, state: Mapping[str, np.ndarray], dtype: str, title: str) -> nn.Module:
    # An array of the wanted type is used without a copy. Any other is converted once.
    tensors = {
        name: torch.from_numpy(np.require(array, None if array.dtype.kind in "iu" else dtype, ["C", "W"]))
        for name, array in state.items()
    }
    try:
        model.load_state_dict(tensors, strict=True, assign=True)
    except RuntimeError as error:
        raise ReferenceMismatchError(f"This checkpoint does not fit {title}. {error}") from None
    return model.eval().requires_grad_(False)
