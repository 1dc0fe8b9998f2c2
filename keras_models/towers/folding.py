"""Reparameterisation: folding what is linear into the convolution or dense layer beside it.

folded_convolution.py folds branches and batch norms into one convolution. Beyond that, a batch norm folds into the
dense layer after it where nothing is padded in between, and a layer scale folds into the dense layer before it. All
arithmetic is in float64 on the host. The result is rounded once, to the dtype of the new model. Depthwise kernels are
rounded such that the sum of their taps stays as it is.
Source: FastViT (arXiv 2303.14189, section 3).
"""

from collections.abc import Iterable
from functools import singledispatch
from typing import Any

import keras
import numpy as np

from .. import kernels
from ..architectures import FORMS
from ..kernels.memory import fill, no_collection
from ..layers.attention import SelfAttention
from ..layers.blocks import AttentionBlock, RepMixerBlock
from ..layers.branches import ConditionalPositionalEncoding, LargeKernelConv, MobileOneBlock, RepMixer
from ..layers.convolution import ConvNorm, Convolution
from ..layers.initializers import to_be_overwritten
from .fastvit import FastViT, FastViTStage
from .folded_convolution import affine, array_of, as_convolution
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
    kernels.copy_value(model.logit_scale, new.logit_scale)
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
    kernels.copy_value(source.cls_token, target.cls_token)
    kernels.copy_value(source.pos_embed, target.pos_embed)
    _fold_each([*source.patch_embed, *source.blocks], [*target.patch_embed, *target.blocks])
    for name in ("norm_pre", "norm"):
        if getattr(source, name) is not None:
            _copy(getattr(source, name), getattr(target, name))


@fold.register(TextBackbone)
def _(source: Any, target: Any) -> None:
    kernels.copy_value(source.positional_embedding, target.positional_embedding)
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
        folded = as_convolution(source)
        kernel = _rounded(folded.kernel, convolution.kernel.dtype) if convolution.depthwise else folded.kernel
        fill(convolution.kernel, kernel.reshape(convolution.kernel.shape))
        fill(convolution.bias, folded.bias)


def _rounded(kernel: np.ndarray, dtype: str) -> np.ndarray:
    """A depthwise kernel rounded to `dtype`, with the sum of each channel's taps kept.

    Folding a skip makes one tap about 1. Rounding that tap is as large an error as rounding an activation, but the same
    at every position of every image, so no average over positions takes it out. The smallest tap has the finest steps.
    It makes up for what rounding took from the others.
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
    factor = array_of(source_scale.gamma)
    fill(target.kernel, array_of(source.kernel) * factor)
    fill(target.bias, array_of(source.bias) * factor)


def _fold_attention(source: AttentionBlock, target: AttentionBlock) -> None:
    """The norm, the attention and its layer scale."""
    source_mixer: SelfAttention = source.token_mixer
    target_mixer: SelfAttention = target.token_mixer
    if source.norm is not None and target.norm is None:
        scale, shift = affine(source.norm)
        kernel = array_of(source_mixer.qkv.kernel)
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
        kernels.copy_value(value, variable)
