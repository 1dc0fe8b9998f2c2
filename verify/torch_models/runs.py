"""PyTorch in float32, in several ways that are equally good: they add up in other orders, so they round differently.

How far one of them is from float64 depends on luck: on another processor, or with other inputs, it is half or twice as
far. The largest of several depends on it less.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np

from ..compare import Features
from ..data.inputs import Inputs
from .reference import TorchReference


@dataclass(frozen=True)
class Run:
    """A way of computing.

    Attributes:
        name: for progress.
        batch_size: how many inputs at once.
        channels_last: whether feature maps lie in memory pixel by pixel.
        onednn: whether oneDNN computes what it can.
        folded: whether branches are folded first, by timm's code.
    """

    name: str
    batch_size: int
    channels_last: bool = False
    onednn: bool = True
    folded: bool = False
    noise: int | None = None
    """Seed of changes to the last bits of all that the towers are given: pixels, weights, statistics. None for none."""


RUNS = (
    Run("one by one, channels last, folded", 1, channels_last=True, folded=True),
    Run("without oneDNN, folded", 8, onednn=False, folded=True),
)
"""Beside the run that records stages, which takes all inputs at once and the model as it is.

Every option is on in one run and off in another. Measured on s0 and s2, the errors of 13 combinations are 0.65 to 1.3
times their mean. These are quick ones among them.
"""

MORE_RUNS = tuple(Run(f"last bits changed, {seed}", 8, folded=seed % 2 == 0, noise=seed) for seed in range(60))
"""Where those few runs do not explain an error. They are as good as the others, and independent of them:

- A pixel that is off by its last bit is one more rounding among hundreds. Where attention hangs between two positions,
  one rounding becomes a hundred times as large, in one run of PyTorch and not in the next.
- What follows from weights alone is rounded once for all inputs: folded kernels, scale and shift of a batch norm. No
  number of inputs averages that error away. It is the same in every run, and another one in another order of the same
  formula. A weight that is off by its last bit stands for that.

So many, because the error of one ill-conditioned image is one number, not a mean. If it is normal, one right conversion
in 300 exceeds 1.5 times the largest of 27 such numbers, and one in 1500 that of 63.
"""

ONE_IN = 24
"""One number in so many moves to the next float32 number, and as many to the one before: in root mean square by
sqrt(1/12) of the last bit, which is as far as rounding moves a number."""


def run(reference: TorchReference, way: Run, inputs: Inputs) -> Features:
    """The features of all inputs.

    Args:
        reference: in float32.
        way: how to compute.
        inputs: the fixed inputs.
    """
    if way.folded:
        reference = reference.folded
    if way.noise is None:
        return _features(reference, way, inputs.images, inputs.tokens)
    change = partial(change_last_bits, generator=np.random.default_rng(way.noise))
    with reference.changed(change):
        return _features(reference, way, change(inputs.images), inputs.tokens)


def _features(reference: TorchReference, way: Run, images: np.ndarray, tokens: np.ndarray) -> Features:
    import torch

    before = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = way.onednn
    try:
        return Features(
            reference.encode_image(images, way.batch_size, way.channels_last) if reference.has_image else None,
            reference.encode_text(tokens, way.batch_size) if reference.has_text else None,
        )
    finally:
        torch.backends.mkldnn.enabled = before


def change_last_bits(array: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A float32 array, of whose numbers some are the next one up or down. Zeros and infinities stay."""
    drawn = generator.integers(0, ONE_IN, array.shape, dtype=np.int8)
    steps = (drawn == 0).astype(np.int32) - (drawn == 1)
    steps *= np.isfinite(array) & (array != 0)
    return (np.ascontiguousarray(array).view(np.int32) + steps).view(np.float32)
