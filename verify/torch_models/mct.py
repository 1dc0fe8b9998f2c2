"""MobileCLIP-S0's text tower in PyTorch, which neither open_clip nor timm has.

A RepMixer block, four pre-norm transformer layers, a RepMixer block (MobileCLIP, arXiv 2311.17049, section 4;
Apple's `mobileclip/text_encoder.py`). Modules carry the names of Apple's checkpoint, so that its text tensors
load strictly. This file imports PyTorch, so it is imported only where PyTorch is needed.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

CONTEXT_LENGTH, VOCABULARY, WIDTH, HEADS, LAYERS, KERNEL = 77, 49408, 512, 8, 4, 11


class MobileTextTower(nn.Module):
    """Token ids, int64 (batch, 77), to features before normalisation, (batch, width).

    Args:
        folded: Build the RepMixers as one convolution each, as reparameterised files hold them.
        width: Channels. Only tests make this and the following numbers smaller.
        heads: Of each attention.
        layers: Transformer layers between the two RepMixer blocks.
        vocabulary: Rows of the embedding.
    """

    def __init__(
        self,
        folded: bool = False,
        width: int = WIDTH,
        heads: int = HEADS,
        layers: int = LAYERS,
        vocabulary: int = VOCABULARY,
    ) -> None:
        super().__init__()
        self.embedding_layer = nn.Embedding(vocabulary, width)
        positions = nn.Parameter(torch.empty(1, 1, CONTEXT_LENGTH, width))
        self.positional_embedding = nn.ModuleDict({"pos_embed": nn.ParameterDict({"pos_embed": positions})})
        self.transformer = nn.ModuleList(
            [
                RepMixerBlock(width, folded),
                *(TransformerLayer(width, heads) for _ in range(layers)),
                RepMixerBlock(width, folded),
            ]
        )
        self.final_layer_norm = nn.LayerNorm(width)
        self.projection_layer = nn.Parameter(torch.empty(width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding_layer(tokens) + self.positional_embedding["pos_embed"]["pos_embed"][0]
        for layer in self.transformer:
            x = layer(x)
        x = self.final_layer_norm(x)
        end_of_text = x[torch.arange(len(tokens)), tokens.argmax(dim=-1)]
        return end_of_text @ self.projection_layer


class RepMixerBlock(nn.Module):
    """Token mixing, then a convolutional feed-forward network: (batch, length, width) to the same."""

    def __init__(self, width: int, folded: bool) -> None:
        super().__init__()
        self.token_mixer = RepMixer(width, folded)
        self.convffn = ConvFFN(width)
        self.layer_scale = nn.Parameter(torch.empty(width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2).unsqueeze(2)  # (batch, width, 1, length): a picture one pixel high
        x = self.token_mixer(x)
        x = x + self.layer_scale * self.convffn(x)
        return x.squeeze(2).transpose(1, 2)


class RepMixer(nn.Module):
    """Its input plus the scaled difference of two normalised branches; folded, one depthwise convolution."""

    def __init__(self, width: int, folded: bool) -> None:
        super().__init__()
        if folded:
            self.reparam_conv = _depthwise(width, bias=True)
            return
        self.norm = nn.ModuleDict({"rbr_skip": nn.BatchNorm2d(width)})
        self.mixer = nn.ModuleDict({"rbr_skip": nn.BatchNorm2d(width), "rbr_conv": nn.ModuleList([_conv_norm(width)])})
        self.layer_scale = nn.Parameter(torch.empty(width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        if hasattr(self, "reparam_conv"):
            return self.reparam_conv(x)
        mixed = self.mixer["rbr_skip"](x) + self.mixer["rbr_conv"][0](x)
        return x + self.layer_scale * (mixed - self.norm["rbr_skip"](x))

    @torch.no_grad()
    def reparameterize(self) -> None:
        """Fold all of it into one convolution, in place: Apple's arithmetic, in the model's precision."""
        branch = self.mixer["rbr_conv"][0]
        identity = torch.zeros_like(branch.conv.weight)
        identity[..., KERNEL // 2] = 1
        conv_scale, conv_shift = _scale_and_shift(branch.bn)
        skip_scale, skip_shift = _scale_and_shift(self.mixer["rbr_skip"])
        norm_scale, norm_shift = _scale_and_shift(self.norm["rbr_skip"])

        mixer_kernel = branch.conv.weight * conv_scale + identity * skip_scale
        kernel = identity + self.layer_scale.unsqueeze(-1) * (mixer_kernel - identity * norm_scale)
        bias = self.layer_scale.flatten() * (conv_shift + skip_shift - norm_shift)

        self.reparam_conv = _depthwise(len(kernel), bias=True).to(kernel.dtype).requires_grad_(False)
        self.reparam_conv.weight.copy_(kernel)
        self.reparam_conv.bias.copy_(bias)
        del self.norm, self.mixer, self.layer_scale


class ConvFFN(nn.Module):
    """A depthwise convolution with batch norm, then two dense layers with a GELU between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = _conv_norm(width)
        self.fc1 = nn.Conv2d(width, 4 * width, 1)
        self.fc2 = nn.Conv2d(4 * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(functional.gelu(self.fc1(self.conv(x))))


class TransformerLayer(nn.Module):
    """Pre-norm self-attention and feed-forward network; no mask: padding is attended to."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.pre_norm_mha = nn.Sequential(nn.LayerNorm(width), Attention(width, heads))
        # Apple has a dropout of rate 0 in fourth place, which makes the last layer's number 4.
        self.pre_norm_ffn = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Identity(),
            nn.Linear(4 * width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.pre_norm_mha(x)
        return x + self.pre_norm_ffn(x)


class Attention(nn.Module):
    """Multi-head self-attention; one projection gives queries, keys and values, each head after head."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv_proj = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv_proj(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        heads = functional.scaled_dot_product_attention(query, key, value)
        return self.out_proj(heads.transpose(1, 2).flatten(2))


def _depthwise(width: int, bias: bool) -> nn.Conv2d:
    return nn.Conv2d(width, width, (1, KERNEL), padding=(0, KERNEL // 2), groups=width, bias=bias)


def _conv_norm(width: int) -> nn.Sequential:
    layers = nn.Sequential()
    layers.add_module("conv", _depthwise(width, bias=False))
    layers.add_module("bn", nn.BatchNorm2d(width))
    return layers


def _scale_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """What a batch norm does in inference: a scale for a kernel, (width, 1, 1, 1), and a shift, (width,)."""
    deviation = (norm.running_var + norm.eps).sqrt()
    shift = norm.bias - norm.running_mean * norm.weight / deviation
    return (norm.weight / deviation).reshape(-1, 1, 1, 1), shift
