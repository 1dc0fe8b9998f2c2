"""The towers that the variants are made of, as plain numbers.

Sources: FastViT (arXiv 2303.14189, table 1), MobileCLIP (arXiv 2311.17049, section 4), MobileCLIP2
(arXiv 2508.20691, section 5), and the shapes of the published checkpoints.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class FastViTConfig:
    """An mci image tower: convolutional stages with RepMixer, then stages with self-attention."""

    depths: tuple[int, ...]
    """Blocks in each stage."""
    dims: tuple[int, ...]
    """Channels of each stage."""
    mlp_ratio: int
    attention: tuple[bool, ...]
    """Stages whose token mixer is self-attention (and which begin with a positional encoding)."""
    squeeze_excite: tuple[bool, ...]
    """Stages whose downsampling convolution carries a squeeze-and-excite."""
    stem_scale_branch: bool
    """Whether the stem's 3x3 blocks have a 1x1 branch."""
    attention_norm: str
    """What comes before self-attention: "batch" or "layer" normalisation."""
    image_size: int = 256
    head_dim: int = 32
    final_expansion: int = 2
    """Channels after the final convolution, as a multiple of the last stage's."""


@dataclass(frozen=True)
class ViTConfig:
    """A Vision Transformer image tower."""

    width: int
    depth: int
    heads: int
    stem: tuple[tuple[int, int], ...]
    """Patch embedding: (filters, kernel = stride) of each convolution. All but the last are followed by batch
    normalisation and GELU."""
    stem_bias: bool
    """Whether the last convolution of the patch embedding has a bias."""
    class_token_position: bool
    """Whether the class token gets a position embedding of its own."""
    pre_norm: bool
    """Whether a LayerNorm comes before the first block."""
    image_size: int = 224

    @property
    def patch_size(self) -> int:
        size = 1
        for _, kernel in self.stem:
            size *= kernel
        return size


@dataclass(frozen=True)
class TextConfig:
    """A text tower: transformer blocks, optionally between two RepMixer blocks."""

    width: int
    heads: int
    blocks: tuple[str, ...]
    """Kind of each block: "transformer" or "repmixer"."""
    causal: bool
    context_length: int = 77
    vocab_size: int = 49408
    mixer_kernel: int = 11
    """Length, in tokens, of the RepMixer block's depthwise kernels."""


_SE_LAST_TWO = (False, False, True, True)

IMAGE_TOWERS: dict[str, FastViTConfig | ViTConfig] = {
    "mci0": FastViTConfig(
        depths=(2, 6, 10, 2),
        dims=(64, 128, 256, 512),
        mlp_ratio=3,
        attention=(False, False, False, True),
        squeeze_excite=_SE_LAST_TWO,
        stem_scale_branch=True,
        attention_norm="batch",
    ),
    "mci1": FastViTConfig(
        depths=(4, 12, 20, 4),
        dims=(64, 128, 256, 512),
        mlp_ratio=3,
        attention=(False, False, False, True),
        squeeze_excite=_SE_LAST_TWO,
        stem_scale_branch=True,
        attention_norm="batch",
    ),
    "mci2": FastViTConfig(
        depths=(4, 12, 24, 4),
        dims=(80, 160, 320, 640),
        mlp_ratio=3,
        attention=(False, False, False, True),
        squeeze_excite=_SE_LAST_TWO,
        stem_scale_branch=True,
        attention_norm="batch",
    ),
    "mci3": FastViTConfig(
        depths=(2, 12, 24, 4, 2),
        dims=(96, 192, 384, 768, 1536),
        mlp_ratio=4,
        attention=(False, False, False, True, True),
        squeeze_excite=(False,) * 5,
        stem_scale_branch=False,
        attention_norm="layer",
    ),
    "mci4": FastViTConfig(
        depths=(2, 12, 24, 4, 4),
        dims=(128, 256, 512, 1024, 2048),
        mlp_ratio=4,
        attention=(False, False, False, True, True),
        squeeze_excite=(False,) * 5,
        stem_scale_branch=False,
        attention_norm="layer",
    ),
    # This project's own, after mci0. Everything is there that mci0 has, and only little of it.
    "mci_shapes": FastViTConfig(
        depths=(1, 1, 2, 1),
        dims=(24, 48, 96, 192),
        mlp_ratio=3,
        image_size=64,
        attention=(False, False, False, True),
        squeeze_excite=_SE_LAST_TWO,
        stem_scale_branch=True,
        attention_norm="batch",
    ),
    "vit_b16": ViTConfig(
        width=768,
        depth=12,
        heads=12,
        stem=((192, 4), (192, 2), (768, 2)),
        stem_bias=True,
        class_token_position=False,
        pre_norm=False,
    ),
    "vit_l14": ViTConfig(
        width=1024,
        depth=24,
        heads=16,
        stem=((1024, 14),),
        stem_bias=False,
        class_token_position=True,
        pre_norm=True,
    ),
}

TEXT_TOWERS: dict[str, TextConfig] = {
    "mct": TextConfig(512, 8, ("repmixer", *("transformer",) * 4, "repmixer"), causal=False),
    # This project's own, after mct.
    "mct_shapes": TextConfig(64, 2, ("repmixer", *("transformer",) * 2, "repmixer"), causal=False),
    "transformer_512": TextConfig(512, 8, ("transformer",) * 12, causal=False),
    "transformer_512_causal": TextConfig(512, 8, ("transformer",) * 12, causal=True),
    "transformer_768": TextConfig(768, 12, ("transformer",) * 12, causal=False),
}

FORMS = ("train", "reparameterized", "inference")
"""The forms of a tower, each a further folding of the one before:

- train: every branch, batch norm and layer scale of the published checkpoint.
- reparameterized: branches folded as Apple's and timm's own reparameterisation does; the batch norms of the
  feed-forward and attention blocks and the layer scales stay.
- inference: everything that is linear next to a convolution or a dense layer is folded into it.
"""
