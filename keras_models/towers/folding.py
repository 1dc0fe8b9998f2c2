"""Reparameterisation: folding what is linear into the convolution or dense layer beside it.

folded_convolution.py folds branches and batch norms into one convolution. Beyond that, a batch norm folds into the
dense layer after it where nothing is padded in between, and a layer scale folds into the dense layer before it. All
arithmetic is in float64 on the host. The result is rounded once, to the dtype of the new model. Depthwise kernels are
rounded such that the sum of their taps stays as it is.

What is frozen stays frozen. A layer that others were folded into is frozen where it and all of those were.
LoRA adapters are merged into the matrices.
Source: FastViT (arXiv 2303.14189, section 3).
"""

from collections.abc import Iterable
from functools import singledispatch
from typing import Any

import keras
import numpy as np

from .. import kernels
from ..architectures import FORMS
from ..blocks.attention import SelfAttention
from ..blocks.blocks import AttentionBlock, RepMixerBlock
from ..blocks.branches import ConditionalPositionalEncoding, LargeKernelConv, MobileOneBlock, RepMixer
from ..config_keys import OWN_STATE
from ..kernels.memory import fill, no_collection
from ..layers.adapters import (
    QuantizationError,
    adapted_pairs,
    has_adapters,
    logger,
    matrix_of,
    merged_weights,
    other_variables,
)
from ..layers.convolution import ConvNorm, Convolution
from ..layers.initializers import to_be_overwritten
from ..layers.paths import layers_by_path
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
        QuantizationError: where `model` is quantised.
        ValueError: where `form` is unknown, or unfolds what `model` has already folded.
    """
    if model.quantized_layers():
        raise QuantizationError("A quantised model cannot be folded. Fold first: model.reparameterize().")
    if form not in FORMS or FORMS.index(form) < FORMS.index(model.form):
        choices = " or ".join(repr(name) for name in FORMS[FORMS.index(model.form) :])
        raise ValueError(f"A model in {model.form!r} form can be made {choices}, not {form!r}.")
    towers = (model.image_encoder, model.text_encoder)
    image, text = (None if tower is None else _unfilled(tower, form, dtype) for tower in towers)
    has_bias = model.logit_bias is not None
    new = type(model)(image, text, model.variant, has_bias, name=model.name, dtype=dtype or model.dtype_policy)
    _carry_flag(model, new)  # goes down to all parts, which fold afterwards
    _copy_variable(model.logit_scale, new.logit_scale)
    if has_bias:
        _copy_variable(model.logit_bias, new.logit_bias)
    for source, target in zip(towers, (image, text), strict=True):
        if source is not None:
            _fill(source, target)
    adapted = sum(has_adapters(layer) for _, layer in layers_by_path(model))
    if adapted:
        logger.warning("The LoRA adapters of %d layers were merged into the weights of the folded model.", adapted)
    return new


def fold_tower(tower: Any, form: str, dtype: str | None = None) -> Any:
    """A new image or text encoder in the same or a further folded form. See `reparameterize`."""
    folded = _unfilled(tower, form, dtype)
    _fill(tower, folded)
    return folded


def _unfilled(tower: Any, form: str, dtype: str | None) -> Any:
    """A new image or text encoder in a form, all of it trainable."""
    config = {key: value for key, value in tower.get_config().items() if key not in OWN_STATE} | {"form": form}
    if dtype is not None:
        config["dtype"] = dtype
    with to_be_overwritten(), no_collection():
        return type(tower).from_config(config)


def _fill(source: Any, target: Any) -> None:
    """A tower's weights and flags."""
    _carry_flag(source, target)
    fold(source.backbone, target.backbone)
    _copy(source.projection, target.projection)


def fold(source: Any, target: Any) -> None:
    """Gives `target` the weights that make it compute what `source` does, and freezes in it what is frozen there.

    Both are the same kind of layer, `target` in the same or a further form. Layers with nothing to fold are copied.
    """
    _carry_flag(source, target)
    _fold(source, target)


@singledispatch
def _fold(source: Any, target: Any) -> None:
    _copy(source, target)


@_fold.register(FastViT)
def _(source: Any, target: Any) -> None:
    _fold_each(source.parts, target.parts)


@_fold.register(FastViTStage)
def _(source: Any, target: Any) -> None:
    _fold_each([*source.downsample, *source.blocks], [*target.downsample, *target.blocks])
    if source.pos_emb is not None:
        fold(source.pos_emb, target.pos_emb)


@_fold.register(VisionTransformer)
def _(source: Any, target: Any) -> None:
    _copy_variable(source.cls_token, target.cls_token)
    _copy_variable(source.pos_embed, target.pos_embed)
    _fold_each([*source.patch_embed, *source.blocks], [*target.patch_embed, *target.blocks])
    for name in ("norm_pre", "norm"):
        if getattr(source, name) is not None:
            _copy(getattr(source, name), getattr(target, name))


@_fold.register(TextBackbone)
def _(source: Any, target: Any) -> None:
    _copy_variable(source.positional_embedding, target.positional_embedding)
    _copy(source.token_embedding, target.token_embedding)
    _copy(source.final_norm, target.final_norm)
    _fold_each(source.blocks, target.blocks)


@_fold.register(MobileOneBlock)
@_fold.register(LargeKernelConv)
def _(source: Any, target: Any) -> None:
    _fold_branches(source, target)
    if source.se is not None:
        _copy(source.se, target.se)


@_fold.register(RepMixer)
@_fold.register(ConditionalPositionalEncoding)
@_fold.register(ConvNorm)
def _(source: Any, target: Any) -> None:
    _fold_branches(source, target)


@_fold.register(RepMixerBlock)
def _(source: Any, target: Any) -> None:
    fold(source.token_mixer, target.token_mixer)
    _fold_feed_forward(source.mlp, source.layer_scale, target.mlp, target.layer_scale)


@_fold.register(AttentionBlock)
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
        _freeze_as(getattr(source, "branches", [source]), convolution)


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
    _carry_flag(source, target)
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
    fill(target.kernel, matrix_of(source) * factor)
    fill(target.bias, array_of(source.bias) * factor)
    _freeze_as([source, source_scale], target)


def _fold_attention(source: AttentionBlock, target: AttentionBlock) -> None:
    """The norm, the attention and its layer scale."""
    source_mixer: SelfAttention = source.token_mixer
    target_mixer: SelfAttention = target.token_mixer
    _carry_flag(source_mixer, target_mixer)
    if source.norm is not None and target.norm is None:
        scale, shift = affine(source.norm)
        kernel = matrix_of(source_mixer.qkv)
        fill(target_mixer.qkv.kernel, scale[:, None] * kernel)
        fill(target_mixer.qkv.bias, shift @ kernel)
        _freeze_as([source.norm, source_mixer.qkv], target_mixer.qkv)
    else:
        if source.norm is not None:
            _copy(source.norm, target.norm)
        _copy(source_mixer.qkv, target_mixer.qkv)
    _fold_scale(source_mixer.proj, source.layer_scale_1, target_mixer.proj, target.layer_scale_1)


def _fold_each(sources: Iterable[Any], targets: Iterable[Any]) -> None:
    for source, target in zip(sources, targets, strict=True):
        fold(source, target)


def _copy(source: Any, target: Any) -> None:
    """Weights and flags of a layer and of all that it holds."""
    for (_, part), (_, same) in zip(layers_by_path(source), layers_by_path(target), strict=True):
        _carry_flag(part, same)
    adapted = adapted_pairs(source, target)
    for variable, same in other_variables(source, target, adapted):
        _copy_variable(variable, same)
    for part, same in adapted:
        same.load_own_variables(merged_weights(part))
        _freeze_as([part], same)


def _copy_variable(source: keras.Variable, target: keras.Variable) -> None:
    kernels.copy_value(source, target)
    if target.trainable != source.trainable:
        target.trainable = source.trainable


def _carry_flag(source: Any, target: Any) -> None:
    """A layer's flag goes down to all that it holds, so outer layers come first."""
    if target.trainable != source.trainable:
        target.trainable = source.trainable


def _freeze_as(sources: Iterable[Any], target: Any) -> None:
    """Freezes a layer unless something was trained in what became of it."""
    trainable = any(variable.trainable for source in sources for variable in source.weights)
    if target.trainable != trainable:
        target.trainable = trainable
