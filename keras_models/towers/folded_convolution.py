"""What is linear in a tower as one convolution, in float64 on the host.

A batch norm in inference is x -> a x + b per channel, so it folds into what comes before it. Parallel branches add up
to one kernel. A skip is a kernel that is 1 in its centre.
Sources: RepVGG (arXiv 2101.03697, section 3.3), MobileOne (arXiv 2206.04040, section 3.2), FastViT (arXiv 2303.14189,
equations 2 to 4).
"""

from functools import singledispatch
from typing import Any, NamedTuple

import keras
import numpy as np

from ..blocks.branches import ConditionalPositionalEncoding, LargeKernelConv, MobileOneBlock, RepMixer
from ..layers.convolution import ConvNorm, Convolution
from ..layers.normalization import BatchNorm


class FoldedConvolution(NamedTuple):
    """One convolution in float64 that equals what was folded into it.

    kernel: (height, width, inputs, outputs), with inputs = 1 where it is depthwise.
    bias: (outputs,).
    """

    kernel: np.ndarray
    bias: np.ndarray

    def then(self, scale: np.ndarray, shift: np.ndarray | float = 0.0) -> "FoldedConvolution":
        """Followed by x -> scale * x + shift on each output channel."""
        return FoldedConvolution(self.kernel * scale, self.bias * scale + shift)

    def plus(self, other: "FoldedConvolution") -> "FoldedConvolution":
        """Both applied to the same input and added up; the smaller kernel is centred in the larger."""
        height, width = (max(sizes) for sizes in zip(self.kernel.shape[:2], other.kernel.shape[:2], strict=True))
        kernel = _centred(self.kernel, height, width) + _centred(other.kernel, height, width)
        return FoldedConvolution(kernel, self.bias + other.bias)


def _centred(kernel: np.ndarray, height: int, width: int) -> np.ndarray:
    rows, columns = height - kernel.shape[0], width - kernel.shape[1]
    return np.pad(kernel, [(rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2), (0, 0), (0, 0)])


def identity(channels: int, depthwise: bool) -> FoldedConvolution:
    kernel = np.ones((1, channels)) if depthwise else np.eye(channels)
    return FoldedConvolution(kernel[None, None], np.zeros(channels))


def array_of(variable: Any) -> np.ndarray:
    """A variable's value in float64."""
    return keras.ops.convert_to_numpy(variable).astype(np.float64)


def affine(norm: BatchNorm) -> tuple[np.ndarray, np.ndarray]:
    """(scale, shift) of a batch norm in inference."""
    scale = array_of(norm.gamma) / np.sqrt(array_of(norm.moving_variance) + norm.epsilon)
    return scale, array_of(norm.beta) - array_of(norm.moving_mean) * scale


@singledispatch
def as_convolution(layer: Any) -> FoldedConvolution:
    """The one convolution that equals a layer of linear branches; the activation after it is not part of it."""
    raise TypeError(f"A {type(layer).__name__} is not linear.")


@as_convolution.register
def _(layer: Convolution) -> FoldedConvolution:
    kernel = array_of(layer.kernel)
    if layer.depthwise:
        kernel = kernel.reshape(*kernel.shape[:2], 1, -1)
    return FoldedConvolution(kernel, np.zeros(layer.filters) if layer.bias is None else array_of(layer.bias))


@as_convolution.register
def _(layer: ConvNorm) -> FoldedConvolution:
    return as_convolution(layer.conv).then(*affine(layer.bn))


@as_convolution.register
def _(layer: MobileOneBlock) -> FoldedConvolution:
    return _sum_of_branches(layer.branches, layer.depthwise)


@as_convolution.register
def _(layer: LargeKernelConv) -> FoldedConvolution:
    return _sum_of_branches(layer.branches, depthwise=True)


@as_convolution.register
def _(layer: RepMixer) -> FoldedConvolution:
    if layer.reparam_conv is not None:
        return as_convolution(layer.reparam_conv)
    scale = array_of(layer.layer_scale.gamma)
    difference = as_convolution(layer.mixer).plus(as_convolution(layer.norm).then(np.array(-1.0)))
    return identity(scale.size, depthwise=True).plus(difference.then(scale))


@as_convolution.register
def _(layer: ConditionalPositionalEncoding) -> FoldedConvolution:
    if layer.reparam_conv is not None:
        return as_convolution(layer.reparam_conv)
    encoding = as_convolution(layer.pos_enc)
    return encoding.plus(identity(encoding.bias.size, depthwise=True))


def _sum_of_branches(branches: list[Any], depthwise: bool) -> FoldedConvolution:
    parts = []
    for branch in branches:
        if isinstance(branch, BatchNorm):
            scale, shift = affine(branch)
            parts.append(identity(scale.size, depthwise).then(scale, shift))
        else:
            parts.append(as_convolution(branch))
    total = parts[0]
    for part in parts[1:]:
        total = total.plus(part)
    return total
