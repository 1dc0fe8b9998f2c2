"""Reparameterisation: folding what is linear into the convolution or dense layer beside it.

A batch norm in inference is x -> a x + b per channel, so it folds into what comes before it or, where nothing is
padded in between, after it; parallel branches add up to one kernel; a skip is a kernel that is 1 in its centre;
a layer scale multiplies the columns of the projection before it. All arithmetic is in float64 on the host and is
rounded once, to the dtype of the new model; depthwise kernels so that the sums of their taps stay as they are.
Sources: RepVGG (arXiv 2101.03697, section 3.3), MobileOne (arXiv 2206.04040, section 3.2), FastViT (arXiv 2303.14189,
equations 2 to 4).
"""

from collections.abc import Iterable
from functools import singledispatch
from typing import Any, NamedTuple

import keras
import numpy as np

from ..architectures import FORMS
from ..kernels.memory import fill, no_collection
from ..layers.attention import SelfAttention
from ..layers.blocks import AttentionBlock, RepMixerBlock
from ..layers.branches import ConditionalPositionalEncoding, LargeKernelConv, MobileOneBlock, RepMixer
from ..layers.convolution import ConvNorm, Convolution
from ..layers.initializers import to_be_overwritten
from ..layers.normalization import BatchNorm
from .fastvit import FastViT, FastViTStage
from .text import TextBackbone
from .vit import VisionTransformer


def reparameterize(model: Any, form: str = "inference", dtype: str | None = None) -> Any:
    """A new MobileClipModel in the same or a further folded form, with the same outputs up to rounding.

    Args:
        model: a MobileClipModel in any form; it is left as it is. Its running statistics are used, as in
            inference.
        form: "reparameterized" (as Apple's and timm's own reparameterisation) or "inference" (everything); or the
            model's own, for a copy.
        dtype: dtype policy of the new model's layers; None for the model's own.

    Raises:
        ValueError: where `form` is unknown, or unfolds what `model` has already folded.
    """
    if form not in FORMS or FORMS.index(form) < FORMS.index(model.form):
        choices = " or ".join(repr(name) for name in FORMS[FORMS.index(model.form) :])
        raise ValueError(f"A model in {model.form!r} form can be made {choices}, not {form!r}.")
    towers = (model.image_encoder, model.text_encoder)
    image, text = (None if tower is None else fold_tower(tower, form, dtype) for tower in towers)
    new = type(model)(image, text, model.variant, name=model.name, dtype=dtype or model.dtype_policy)
    new.logit_scale.assign(model.logit_scale)
    return new


def fold_tower(tower: Any, form: str, dtype: str | None = None) -> Any:
    """A new image or text encoder in the same or a further folded form. See `reparameterize`."""
    config = {**tower.get_config(), "form": form}
    if dtype is not None:
        config["dtype"] = dtype
    with to_be_overwritten(), no_collection():
        folded = type(tower).from_config(config)
    fold(tower.backbone, folded.backbone)
    _copy(tower.projection, folded.projection)
    return folded


class Linear(NamedTuple):
    """A convolution in float64.

    kernel: (height, width, inputs, outputs), with inputs = 1 where it is depthwise.
    bias: (outputs,).
    """

    kernel: np.ndarray
    bias: np.ndarray

    def then(self, scale: np.ndarray, shift: np.ndarray | float = 0.0) -> "Linear":
        """Followed by x -> scale * x + shift on each output channel."""
        return Linear(self.kernel * scale, self.bias * scale + shift)

    def plus(self, other: "Linear") -> "Linear":
        """Both applied to the same input and added up; the smaller kernel is centred in the larger."""
        height, width = (max(sizes) for sizes in zip(self.kernel.shape[:2], other.kernel.shape[:2], strict=True))
        kernel = _centred(self.kernel, height, width) + _centred(other.kernel, height, width)
        return Linear(kernel, self.bias + other.bias)


def _centred(kernel: np.ndarray, height: int, width: int) -> np.ndarray:
    rows, columns = height - kernel.shape[0], width - kernel.shape[1]
    return np.pad(kernel, [(rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2), (0, 0), (0, 0)])


def _identity(channels: int, depthwise: bool) -> Linear:
    kernel = np.ones((1, channels)) if depthwise else np.eye(channels)
    return Linear(kernel[None, None], np.zeros(channels))


def _array(variable: Any) -> np.ndarray:
    return keras.ops.convert_to_numpy(variable).astype(np.float64)


def _affine(norm: BatchNorm) -> tuple[np.ndarray, np.ndarray]:
    """(scale, shift) of a batch norm in inference."""
    scale = _array(norm.gamma) / np.sqrt(_array(norm.moving_variance) + norm.epsilon)
    return scale, _array(norm.beta) - _array(norm.moving_mean) * scale


@singledispatch
def linear(layer: Any) -> Linear:
    """The one convolution that equals a layer of linear branches; the activation after it is not part of it."""
    raise TypeError(f"A {type(layer).__name__} is not linear.")


@linear.register
def _(layer: Convolution) -> Linear:
    kernel = _array(layer.kernel)
    if layer.depthwise:
        kernel = kernel.reshape(*kernel.shape[:2], 1, -1)
    return Linear(kernel, np.zeros(layer.filters) if layer.bias is None else _array(layer.bias))


@linear.register
def _(layer: ConvNorm) -> Linear:
    return linear(layer.conv).then(*_affine(layer.bn))


@linear.register
def _(layer: MobileOneBlock) -> Linear:
    return _sum_of_branches(layer.branches, layer.depthwise)


@linear.register
def _(layer: LargeKernelConv) -> Linear:
    return _sum_of_branches(layer.branches, depthwise=True)


@linear.register
def _(layer: RepMixer) -> Linear:
    if layer.reparam_conv is not None:
        return linear(layer.reparam_conv)
    scale = _array(layer.layer_scale.gamma)
    difference = linear(layer.mixer).plus(linear(layer.norm).then(np.array(-1.0)))
    return _identity(scale.size, depthwise=True).plus(difference.then(scale))


@linear.register
def _(layer: ConditionalPositionalEncoding) -> Linear:
    if layer.reparam_conv is not None:
        return linear(layer.reparam_conv)
    encoding = linear(layer.pos_enc)
    return encoding.plus(_identity(encoding.bias.size, depthwise=True))


def _sum_of_branches(branches: list[Any], depthwise: bool) -> Linear:
    parts = []
    for branch in branches:
        if isinstance(branch, BatchNorm):
            scale, shift = _affine(branch)
            parts.append(_identity(scale.size, depthwise).then(scale, shift))
        else:
            parts.append(linear(branch))
    total = parts[0]
    for part in parts[1:]:
        total = total.plus(part)
    return total


@singledispatch
def fold(source: Any, target: Any) -> None:
    """Gives `target` the weights that make it compute what `source` does.

    Both are the same kind of layer, `target` in the same or a further form. Layers with nothing to fold are copied.
    """
    _copy(source, target)


@fold.register(FastViT)
def _(source: Any, target: Any) -> None:
    _fold_each(source.parts, target.parts)


@fold.register(FastViTStage)
def _(source: Any, target: Any) -> None:
    _fold_each([*source.downsample, *source.blocks], [*target.downsample, *target.blocks])
    if source.pos_emb is not None:
        fold(source.pos_emb, target.pos_emb)


@fold.register(VisionTransformer)
def _(source: Any, target: Any) -> None:
    target.cls_token.assign(source.cls_token)
    target.pos_embed.assign(source.pos_embed)
    _fold_each([*source.patch_embed, *source.blocks], [*target.patch_embed, *target.blocks])
    for name in ("norm_pre", "norm"):
        if getattr(source, name) is not None:
            _copy(getattr(source, name), getattr(target, name))


@fold.register(TextBackbone)
def _(source: Any, target: Any) -> None:
    target.positional_embedding.assign(source.positional_embedding)
    _copy(source.token_embedding, target.token_embedding)
    _copy(source.final_norm, target.final_norm)
    _fold_each(source.blocks, target.blocks)


@fold.register(MobileOneBlock)
@fold.register(LargeKernelConv)
def _(source: Any, target: Any) -> None:
    _fold_branches(source, target)
    if source.se is not None:
        _copy(source.se, target.se)


@fold.register(RepMixer)
@fold.register(ConditionalPositionalEncoding)
@fold.register(ConvNorm)
def _(source: Any, target: Any) -> None:
    _fold_branches(source, target)


@fold.register(RepMixerBlock)
def _(source: Any, target: Any) -> None:
    fold(source.token_mixer, target.token_mixer)
    _fold_feed_forward(source.mlp, source.layer_scale, target.mlp, target.layer_scale)


@fold.register(AttentionBlock)
def _(source: Any, target: Any) -> None:
    _fold_attention(source, target)
    _fold_feed_forward(source.mlp, source.layer_scale_2, target.mlp, target.layer_scale_2)


def _fold_branches(source: Any, target: Any) -> None:
    convolution: Any = target if isinstance(target, Convolution) else getattr(target, "reparam_conv", None)
    if convolution is None:
        _copy(source, target)
    else:
        folded = linear(source)
        kernel = _rounded(folded.kernel, convolution.kernel.dtype) if convolution.depthwise else folded.kernel
        fill(convolution.kernel, kernel.reshape(convolution.kernel.shape))
        fill(convolution.bias, folded.bias)


def _rounded(kernel: np.ndarray, dtype: str) -> np.ndarray:
    """A depthwise kernel rounded to `dtype`, the sum of each channel's taps kept.

    A tap that a skip is folded into is about 1, and rounding it is an error as large as rounding an activation: but the
    same at every position of every image, which no average over positions takes out. The smallest tap, which can say it
    most finely, makes up for what rounding has taken from the others.
    """
    taps = kernel.reshape(-1, kernel.shape[-1])
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and nothing can make up for it
        rounded = taps.astype(keras.backend.standardize_dtype(dtype))
    taken = (taps - rounded.astype(np.float64)).sum(axis=0)
    smallest = np.abs(taps).argmin(axis=0)[None]
    taken = np.where(np.isfinite(taken), taken, 0.0)
    made_up = np.take_along_axis(rounded, smallest, axis=0).astype(np.float64) + taken
    np.put_along_axis(rounded, smallest, made_up.astype(rounded.dtype), axis=0)
    return rounded.reshape(kernel.shape)


def _fold_feed_forward(source: Any, source_scale: Any, target: Any, target_scale: Any) -> None:
    """A feed-forward with the layer scale behind it, which ends up in the second dense layer."""
    fold(source.conv, target.conv)
    _copy(source.fc1, target.fc1)
    _fold_scale(source.fc2, source_scale, target.fc2, target_scale)


def _fold_scale(source: Any, source_scale: Any, target: Any, target_scale: Any) -> None:
    """A dense layer and the layer scale behind it; `target_scale` is None where the two become one."""
    if source_scale is None or target_scale is not None:
        _copy(source, target)
        if source_scale is not None:
            _copy(source_scale, target_scale)
        return
    factor = _array(source_scale.gamma)
    fill(target.kernel, _array(source.kernel) * factor)
    fill(target.bias, _array(source.bias) * factor)


def _fold_attention(source: AttentionBlock, target: AttentionBlock) -> None:
    """The norm, the attention and its layer scale."""
    source_mixer: SelfAttention = source.token_mixer
    target_mixer: SelfAttention = target.token_mixer
    if source.norm is not None and target.norm is None:
        scale, shift = _affine(source.norm)
        kernel = _array(source_mixer.qkv.kernel)
        fill(target_mixer.qkv.kernel, scale[:, None] * kernel)
        fill(target_mixer.qkv.bias, shift @ kernel)
    else:
        if source.norm is not None:
            _copy(source.norm, target.norm)
        _copy(source_mixer.qkv, target_mixer.qkv)
    _fold_scale(source_mixer.proj, source.layer_scale_1, target_mixer.proj, target.layer_scale_1)


def _fold_each(sources: Iterable[Any], targets: Iterable[Any]) -> None:
    for source, target in zip(sources, targets, strict=True):
        fold(source, target)


def _copy(source: Any, target: Any) -> None:
    for value, variable in zip(source.weights, target.weights, strict=True):
        variable.assign(value)
