"""The towers in PyTorch, and the weights that they begin with."""

import math
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ...torch_models.keys import mci_from_timm
from ...torch_models.mct import MobileTextTower
from ...torch_models.towers import MIXER_TOWERS, new_image_tower
from ..vocabulary import Vocabulary
from .batches import as_pixels
from .pictures import Pictures

LAYER_SCALE = 0.3
"""Where layer scales start. The published 1e-5 is for long training."""


class Model(NamedTuple):
    """Both towers, and the logarithm of the logits' scale."""

    image: nn.Module
    text: MobileTextTower
    scale: nn.Parameter


def new_model(words: Vocabulary, pictures: Pictures) -> Model:
    """The towers with initial weights. The embedding has rows for known words alone."""
    image = new_image_tower("mci_shapes")
    nn.init.zeros_(image.head.fc.bias)  # Apple's layout has none
    image.head.fc.bias.requires_grad_(False)
    _leave_out_pixels_first(image.stem[0].conv_scale.conv)
    _repeat_channels_first(image)
    _see_edges_first(image, pictures)
    text = MobileTextTower(folded=False, **MIXER_TOWERS["mct_shapes"], vocabulary=len(words))
    width = text.projection_layer.shape[0]
    with torch.no_grad():
        for name, parameter in text.named_parameters():
            if "pos_embed" in name:
                parameter.normal_(std=0.02)
            elif "embedding" in name:
                parameter.normal_(std=0.1)
            elif name == "projection_layer":
                parameter.normal_(std=width**-0.5)
        for tower in (image, text):
            for name, parameter in tower.named_parameters():
                if "layer_scale" in name:
                    parameter.fill_(LAYER_SCALE)
    scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
    return Model(image.to(memory_format=torch.channels_last), text, scale)


def _leave_out_pixels_first(conv: nn.Conv2d) -> None:
    """Has a strided 1 x 1 convolution take every second pixel, and convolve those.

    oneDNN's backward pass of the strided one, over images of three channels, writes outside its memory.
    """
    conv.stride = (1, 1)
    conv.register_forward_pre_hook(lambda _, inputs: (inputs[0][..., ::2, ::2],))


def _repeat_channels_first(tower: nn.Module) -> None:
    """Gives convolutions that make several channels of each those channels several times. oneDNN is faster so."""
    for conv in tower.modules():
        if isinstance(conv, nn.Conv2d) and 1 < conv.groups < conv.out_channels:
            times = conv.out_channels // conv.groups
            conv.in_channels = conv.groups = conv.out_channels
            conv.register_forward_pre_hook(partial(_repeated, times=times))


def _repeated(_: nn.Module, inputs: tuple[Tensor], times: int) -> tuple[Tensor]:
    return (inputs[0].repeat_interleave(times, 1).contiguous(memory_format=torch.channels_last),)


def _see_edges_first(tower: nn.Module, pictures: Pictures) -> None:
    """Starts the first filters as the main components of small patches, each with its negative.

    Most of what differs between patches is their brightness. Random filters see little else, and no edges.
    """
    conv, colours = tower.stem[0].conv_kxk[0].conv, tower.stem[0].conv_scale.bn
    patches = functional.unfold(as_pixels(pictures.images[-100:].reshape(-1, *pictures.images.shape[2:])), 3, stride=2)
    patches = patches.transpose(1, 2).reshape(-1, conv.weight[0].numel())
    components = torch.linalg.eigh(torch.cov(patches.T)).eigenvectors.T.flip(0)[: len(conv.weight) // 2]
    with torch.no_grad():
        conv.weight.copy_(torch.stack([components, -components], 1).reshape(conv.weight.shape))
        colours.weight.fill_(0.1)


def state_of(model: Model) -> dict[str, np.ndarray]:
    """The weights by Apple's names. The embedding has its few rows still."""
    image, text = (
        {name: tensor.numpy() for name, tensor in tower.state_dict().items()} for tower in (model.image, model.text)
    )
    tensors = {
        "logit_scale": model.scale.detach().numpy(),
        **{f"image_encoder.model.{name}": array for name, array in mci_from_timm(image).items()},
        **{f"text_encoder.{name}": array for name, array in text.items()},
    }
    return {name: np.array(array, order="C") for name, array in tensors.items()}
