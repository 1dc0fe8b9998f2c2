"""What training lessens."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..scene import FIELDS, NONE
from .batches import CAPTIONED


def contrastive_loss(images: Tensor, texts: Tensor, scale: Tensor, true: Tensor) -> Tensor:
    """CLIP's loss (arXiv 2103.00020), in which no caption that is true of a picture counts as a wrong one.

    Args:
        images: float32 (n, d), of length 1.
        texts: float32 (m, d), of length 1: the captions of the pictures CAPTIONED.
        scale: of the logits.
        true: bool (n, m), whether a picture is as a caption says.
    """
    pictures = torch.arange(len(images))[CAPTIONED]
    captions = torch.arange(len(texts))
    others = true.clone()
    others[pictures, captions] = False
    logits = (scale * images @ texts.T).masked_fill(others, -torch.inf)
    return (functional.cross_entropy(logits[pictures], captions) + functional.cross_entropy(logits.T, pictures)) / 2


def attribute_loss(heads: nn.ModuleDict, features: Tensor, fields: Tensor) -> Tensor:
    """How badly linear layers read each thing from features: the same layers from pictures and from captions.

    So both towers keep things apart, colour from shape and shape from count. The layers are not kept.
    """
    losses = [
        functional.cross_entropy(head(10 * features), fields[:, FIELDS.index(name)], ignore_index=NONE)
        * (2 if name == "shape" else 1)  # which is learned last
        for name, head in heads.items()
    ]
    return torch.stack(losses).nan_to_num().sum()  # of what no caption of a batch says there is no mean
