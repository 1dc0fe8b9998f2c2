"""From Apple's tensor names to those of timm (image towers) and of open_clip (text towers).

A name without a rule stays unchanged, and the strict loading that follows reports it. One numbering serves every
convolutional image tower: Apple's layout has only mci0, mci1 and mci2, which have four stages each.
"""

from collections.abc import Mapping

import numpy as np

# Apple keeps stages, downsamplings and positional encodings in one flat list, `network`.
_MCI_ROOTS = {
    "patch_embed": "stem",
    "network.0": "stages.0.blocks",
    "network.1": "stages.1.downsample",
    "network.2": "stages.1.blocks",
    "network.3": "stages.2.downsample",
    "network.4": "stages.2.blocks",
    "network.5": "stages.3.downsample",
    "network.6": "stages.3.pos_emb",
    "network.7": "stages.3.blocks",
    "conv_exp": "final_conv",
}
_MCI_PARTS = {
    "rbr_conv": "conv_kxk",
    "rbr_scale": "conv_scale",
    "rbr_skip": "identity",
    "lkb_origin": "large_conv",
    "lkb_reparam": "reparam_conv",
    "pe": "pos_enc",
    "convffn": "mlp",
    "reduce": "fc1",
    "expand": "fc2",
    "layer_scale": "layer_scale.gamma",
    "layer_scale_1": "layer_scale_1.gamma",
    "layer_scale_2": "layer_scale_2.gamma",
}
_LAYERS = 12


def _layers(target: str, names: Mapping[str, str]) -> dict[str, str]:
    return {
        f"transformer.{layer}.{apple}": f"{target}.{layer}.{other}"
        for layer in range(_LAYERS)
        for apple, other in names.items()
    }


_VIT = {
    "cls_token": "cls_token",
    "pos_embed.pos_embed.pos_embed": "pos_embed",
    "patch_emb.0.block.conv": "patch_embed.backbone.0.conv",
    "patch_emb.0.block.norm": "patch_embed.backbone.0.bn",
    "patch_emb.1.block.conv": "patch_embed.backbone.1.conv",
    "patch_emb.1.block.norm": "patch_embed.backbone.1.bn",
    "patch_emb.2.block.conv": "patch_embed.backbone.2.conv",
    "post_transformer_norm": "norm",
} | _layers(
    "blocks",
    {
        "pre_norm_mha.0": "norm1",
        "pre_norm_mha.1.qkv_proj": "attn.qkv",
        "pre_norm_mha.1.out_proj": "attn.proj",
        "pre_norm_ffn.0": "norm2",
        "pre_norm_ffn.1": "mlp.fc1",
        "pre_norm_ffn.4": "mlp.fc2",
    },
)
_TEXT = {
    "embedding_layer": "token_embedding",
    "positional_embedding.pos_embed.pos_embed": "positional_embedding",
    "final_layer_norm": "ln_final",
    "projection_layer": "text_projection",
} | _layers(
    "transformer.resblocks",
    {
        "pre_norm_mha.0": "ln_1",
        "pre_norm_mha.1.qkv_proj.weight": "attn.in_proj_weight",
        "pre_norm_mha.1.qkv_proj.bias": "attn.in_proj_bias",
        "pre_norm_mha.1.out_proj": "attn.out_proj",
        "pre_norm_ffn.0": "ln_2",
        "pre_norm_ffn.1": "mlp.c_fc",
        "pre_norm_ffn.4": "mlp.c_proj",
    },
)


def mci_to_timm(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """mci0, mci1 or mci2, branches kept or folded, from Apple's names (without prefix) to timm's."""
    renamed = {_mci_name(name): array for name, array in state.items() if name != "head.proj"}
    return renamed | _linear("head.fc", state.get("head.proj"))


def mci_from_timm(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Back from timm's names to Apple's, branches kept. The projection's bias, which Apple lacks, is left out."""
    renamed = {_apple_mci_name(name): array for name, array in state.items() if not name.startswith("head.fc.")}
    return renamed | {"head.proj": state["head.fc.weight"].T}


def vit_to_timm(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """ViT-B/16, from Apple's names (without prefix) to timm's."""
    renamed = {_by_path(name, _VIT): array for name, array in state.items() if name != "classifier.proj"}
    if "pos_embed" in renamed:
        # (1, 1, 196, 768) to (1, 196, 768)
        renamed["pos_embed"] = renamed["pos_embed"].squeeze(0)
    return renamed | _linear("head", state.get("classifier.proj"))


def text_to_open_clip(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A 12-layer text tower, from Apple's names (without prefix) to open_clip's."""
    renamed = {_by_path(name, _TEXT): array for name, array in state.items()}
    if "positional_embedding" in renamed:
        # (1, 1, 77, width) to (77, width)
        renamed["positional_embedding"] = renamed["positional_embedding"].squeeze((0, 1))
    return renamed


def _mci_name(name: str) -> str:
    parts = name.split(".")
    depth = 2 if parts[0] == "network" else 1
    root = ".".join(parts[:depth])
    return ".".join([_MCI_ROOTS.get(root, root), *(_MCI_PARTS.get(part, part) for part in parts[depth:])])


def _apple_mci_name(name: str) -> str:
    root = next(timm for timm in _APPLE_ROOTS if name.startswith(f"{timm}."))
    rest = name.removeprefix(f"{root}.").removesuffix(".gamma").split(".")
    parts = _APPLE_PARTS if root == "final_conv" else {**_APPLE_PARTS, "fc1": "fc1", "fc2": "fc2"}
    return ".".join([_APPLE_ROOTS[root], *(parts.get(part, part) for part in rest)])


_APPLE_ROOTS = {timm: apple for apple, timm in _MCI_ROOTS.items()}
_APPLE_PARTS = {timm.removesuffix(".gamma"): apple for apple, timm in _MCI_PARTS.items()}


def _by_path(name: str, table: Mapping[str, str]) -> str:
    """Look up the whole name, else the module that holds the tensor."""
    if name in table:
        return table[name]
    path, _, leaf = name.rpartition(".")
    return f"{table[path]}.{leaf}" if path in table else name


def _linear(name: str, projection: np.ndarray | None) -> dict[str, np.ndarray]:
    """Apple multiplies by an (in, out) matrix; timm has a dense layer there, output-major and with a bias."""
    if projection is None:
        return {}
    return {f"{name}.weight": projection.T, f"{name}.bias": np.zeros(projection.shape[1], projection.dtype)}
