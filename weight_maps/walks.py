"""Walks through every tower and lists its tensors. generate.py writes the table files from these lists.

A walk follows the order of the forward pass and names each variable as Keras does. The dictionaries below give each
layout's names, which are facts of Apple's, open_clip's and timm's published checkpoints.
"""

from collections.abc import Callable, Iterator
from typing import Any

from ..keras_models.architectures import FastViTConfig, TextConfig, ViTConfig
from .axes import source_shape
from .table import NONE, Row

CONV = "o i h w -> h w i o"
DEPTHWISE = "(c m) 1 h w -> h w c m"
DENSE = "o i -> i o"
POINTWISE = "o i 1 1 -> i o"
INPUT_MAJOR = "i o -> i o"
VECTOR = "c -> c"
SCALE = "c 1 1 -> c"
SCALAR = "->"

IMAGE_PREFIX = {"apple": "image_encoder.model.", "open_clip": "visual.trunk.", "timm": ""}
TEXT_PREFIX = {"apple": "text_encoder.", "open_clip": "text."}

BRANCHES = {
    "apple": {"conv_kxk": "rbr_conv.0", "conv_scale": "rbr_scale", "identity": "rbr_skip"},
    "timm": {"conv_kxk": "conv_kxk.0", "conv_scale": "conv_scale", "identity": "identity"},
}
FASTVIT: dict[str, dict[str, Any]] = {
    "apple": {
        "stem": "patch_embed",
        "large_conv": "lkb_origin",
        "large_reparam": "lkb_reparam",
        "mlp": "convffn",
        "scale": "",
        "final_conv": "conv_exp",
        "final_se": ("se.reduce", "se.expand"),
    },
    "timm": {
        "stem": "stem",
        "large_conv": "large_conv",
        "large_reparam": "reparam_conv",
        "mlp": "mlp",
        "scale": ".gamma",
        "final_conv": "final_conv",
        "final_se": ("se.fc1", "se.fc2"),
    },
}
BLOCKS = {
    "apple": {
        "norm1": "pre_norm_mha.0.",
        "qkv": "pre_norm_mha.1.qkv_proj.",
        "proj": "pre_norm_mha.1.out_proj.",
        "norm2": "pre_norm_ffn.0.",
        "fc1": "pre_norm_ffn.1.",
        "fc2": "pre_norm_ffn.4.",
    },
    "open_clip": {
        "norm1": "ln_1.",
        "qkv": "attn.in_proj_",
        "proj": "attn.out_proj.",
        "norm2": "ln_2.",
        "fc1": "mlp.c_fc.",
        "fc2": "mlp.c_proj.",
    },
    "timm": {
        "norm1": "norm1.",
        "qkv": "attn.qkv.",
        "proj": "attn.proj.",
        "norm2": "norm2.",
        "fc1": "mlp.fc1.",
        "fc2": "mlp.fc2.",
    },
}

Rows = Iterator[Row]


def row(source: str, axes: str, target: str, *shape: int, dtype: str = "float32", absent: str = NONE) -> Row:
    """A row, given the shape of the Keras variable."""
    return Row(source, source_shape(axes, shape), dtype, axes, target, shape, absent)


def batch_norm(source: str, target: str, channels: int) -> Rows:
    names = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
    for theirs, ours in names.items():
        yield row(f"{source}.{theirs}", VECTOR, f"{target}/{ours}", channels)
    yield row(f"{source}.num_batches_tracked", SCALAR, f"{target}/num_batches_tracked", dtype="int64")


def layer_norm(source: str, target: str, channels: int) -> Rows:
    yield row(f"{source}weight", VECTOR, f"{target}/gamma", channels)
    yield row(f"{source}bias", VECTOR, f"{target}/beta", channels)


def dense(source: str, target: str, inputs: int, outputs: int, axes: str = DENSE, bias: bool = True) -> Rows:
    yield row(f"{source}weight", axes, f"{target}/kernel", inputs, outputs)
    if bias:
        yield row(f"{source}bias", VECTOR, f"{target}/bias", outputs)


def convolution(source: str, target: str, inputs: int, outputs: int, kernel: tuple[int, int], bias: bool) -> Rows:
    yield row(f"{source}.weight", CONV, f"{target}/kernel", *kernel, inputs, outputs)
    if bias:
        yield row(f"{source}.bias", VECTOR, f"{target}/bias", outputs)


def depthwise(source: str, target: str, inputs: int, outputs: int, kernel: tuple[int, int], bias: bool) -> Rows:
    yield row(f"{source}.weight", DEPTHWISE, f"{target}/kernel", *kernel, inputs, outputs // inputs)
    if bias:
        yield row(f"{source}.bias", VECTOR, f"{target}/bias", outputs)


Convolve = Callable[[str, str, int, int, tuple[int, int], bool], Rows]


def conv_norm(
    conv: Convolve, source: str, target: str, inputs: int, outputs: int, kernel: tuple[int, int], norm: str = "bn"
) -> Rows:
    yield from conv(f"{source}.conv", f"{target}/conv", inputs, outputs, kernel, False)
    yield from batch_norm(f"{source}.{norm}", f"{target}/bn", outputs)


def mobile_one(
    conv: Convolve,
    layout: str,
    form: str,
    source: str,
    target: str,
    inputs: int,
    outputs: int,
    kernel: tuple[int, int],
    branches: tuple[str, ...],
) -> Rows:
    """A block of the named branches, or the convolution that they fold into."""
    if form != "train":
        yield from conv(f"{source}.reparam_conv", f"{target}/reparam_conv", inputs, outputs, kernel, True)
        return
    for branch in branches:
        theirs, ours = f"{source}.{BRANCHES[layout][branch]}", f"{target}/{branch}"
        if branch == "identity":
            yield from batch_norm(theirs, ours, outputs)
        else:
            size = kernel if branch == "conv_kxk" else (1, 1)
            yield from conv_norm(conv, theirs, ours, inputs, outputs, size)


def squeeze_excite(names: tuple[str, str], source: str, target: str, channels: int, hidden: int) -> Rows:
    yield from dense(f"{source}.{names[0]}.", f"{target}/fc1", channels, hidden, POINTWISE)
    yield from dense(f"{source}.{names[1]}.", f"{target}/fc2", hidden, channels, POINTWISE)


def rep_mixer(
    layout: str, form: str, source: str, target: str, channels: int, kernel: tuple[int, int], scale_branch: bool
) -> Rows:
    if form != "train":
        yield from depthwise(f"{source}.reparam_conv", f"{target}/reparam_conv", channels, channels, kernel, True)
        return
    mixer = ("identity", "conv_kxk", "conv_scale") if scale_branch else ("identity", "conv_kxk")
    for name, branches in (("norm", ("identity",)), ("mixer", mixer)):
        block = (f"{source}.{name}", f"{target}/{name}", channels, channels, kernel, branches)
        yield from mobile_one(depthwise, layout, form, *block)
    gamma = FASTVIT[layout]["scale"]
    yield row(f"{source}.layer_scale{gamma}", SCALE, f"{target}/layer_scale/gamma", channels)


def conv_feed_forward(source: str, target: str, channels: int, hidden: int, kernel: tuple[int, int]) -> Rows:
    yield from conv_norm(depthwise, f"{source}.conv", f"{target}/conv", channels, channels, kernel)
    yield from dense(f"{source}.fc1.", f"{target}/fc1", channels, hidden, POINTWISE)
    yield from dense(f"{source}.fc2.", f"{target}/fc2", hidden, channels, POINTWISE)


def rep_mixer_block(
    layout: str,
    form: str,
    source: str,
    target: str,
    channels: int,
    hidden: int,
    kernels: tuple[tuple[int, int], tuple[int, int]] = ((3, 3), (7, 7)),
    scale_branch: bool = True,
) -> Rows:
    mixer_kernel, ffn_kernel = kernels
    names = FASTVIT[layout]
    mixer = (f"{source}.token_mixer", f"{target}/token_mixer", channels, mixer_kernel, scale_branch)
    yield from rep_mixer(layout, form, *mixer)
    yield from conv_feed_forward(f"{source}.{names['mlp']}", f"{target}/mlp", channels, hidden, ffn_kernel)
    yield row(f"{source}.layer_scale{names['scale']}", SCALE, f"{target}/layer_scale/gamma", channels)


def attention_block(layout: str, norm: str, source: str, target: str, channels: int, hidden: int) -> Rows:
    names = FASTVIT[layout]
    if norm == "layer":
        yield from layer_norm(f"{source}.norm.", f"{target}/norm", channels)
    else:
        yield from batch_norm(f"{source}.norm", f"{target}/norm", channels)
    mixer = f"{source}.token_mixer", f"{target}/token_mixer"
    yield from dense(f"{mixer[0]}.qkv.", f"{mixer[1]}/qkv", channels, 3 * channels, bias=False)
    yield from dense(f"{mixer[0]}.proj.", f"{mixer[1]}/proj", channels, channels)
    yield from conv_feed_forward(f"{source}.{names['mlp']}", f"{target}/mlp", channels, hidden, (7, 7))
    for scale in ("layer_scale_1", "layer_scale_2"):
        yield row(f"{source}.{scale}{names['scale']}", SCALE, f"{target}/{scale}/gamma", channels)


def transformer_block(layout: str, source: str, target: str, width: int) -> Rows:
    names = BLOCKS[layout]
    yield from layer_norm(f"{source}.{names['norm1']}", f"{target}/norm1", width)
    yield from dense(f"{source}.{names['qkv']}", f"{target}/attn/qkv", width, 3 * width)
    yield from dense(f"{source}.{names['proj']}", f"{target}/attn/proj", width, width)
    yield from layer_norm(f"{source}.{names['norm2']}", f"{target}/norm2", width)
    yield from dense(f"{source}.{names['fc1']}", f"{target}/mlp/fc1", width, 4 * width)
    yield from dense(f"{source}.{names['fc2']}", f"{target}/mlp/fc2", 4 * width, width)


def projection(apple: str, timm: str, prefix: str, layout: str, inputs: int, embed: int) -> Rows:
    """The image projection. Apple's is input-major without bias; timm's is a Linear layer with one."""
    target = "image_encoder/projection"
    if layout == "apple":
        yield row(f"{prefix}{apple}", INPUT_MAJOR, f"{target}/kernel", inputs, embed)
        yield row(NONE, VECTOR, f"{target}/bias", embed, absent="zeros")
    else:
        yield row(f"{prefix}{timm}.weight", DENSE, f"{target}/kernel", inputs, embed)
        yield row(f"{prefix}{timm}.bias", VECTOR, f"{target}/bias", embed, absent="zeros")


def fastvit(config: FastViTConfig, embed: int, layout: str, form: str) -> Rows:
    """An mci image tower."""
    prefix, layout_names = IMAGE_PREFIX[layout], "apple" if layout == "apple" else "timm"
    names = FASTVIT[layout_names]
    ours = "image_encoder/backbone"
    first = config.dims[0]
    scale = ("conv_scale",) if config.stem_scale_branch else ()
    stem = (
        (convolution, 3, (3, 3), ("conv_kxk", *scale)),
        (depthwise, first, (3, 3), ("conv_kxk", *scale)),
        (convolution, first, (1, 1), ("identity", "conv_kxk")),
    )
    for index, (conv, inputs, kernel, branches) in enumerate(stem):
        theirs, target = f"{prefix}{names['stem']}.{index}", f"{ours}/stem_{index}"
        yield from mobile_one(conv, layout_names, form, theirs, target, inputs, first, kernel, branches)

    position = 0  # position in Apple's flat list "network" of stages, downsamplings and positional encodings
    for stage, dim in enumerate(config.dims):
        stage_target = f"{ours}/stages_{stage}"
        if stage > 0:
            theirs = f"{prefix}network.{position}" if layout == "apple" else f"{prefix}stages.{stage}.downsample"
            yield from _downsample(config, stage, layout_names, form, theirs, stage_target)
            position += 1
        if config.attention[stage]:
            theirs = f"{prefix}network.{position}" if layout == "apple" else f"{prefix}stages.{stage}.pos_emb"
            conv_name = {"apple": "pe", "timm": "pos_enc"}[layout_names] if form == "train" else "reparam_conv"
            target = f"{stage_target}/pos_emb/{'pos_enc' if form == 'train' else 'reparam_conv'}"
            yield from depthwise(f"{theirs}.{conv_name}", target, dim, dim, (7, 7), True)
            position += 1
        theirs = f"{prefix}network.{position}" if layout == "apple" else f"{prefix}stages.{stage}.blocks"
        for block in range(config.depths[stage]):
            block_args = (f"{theirs}.{block}", f"{stage_target}/blocks_{block}", dim, dim * config.mlp_ratio)
            if config.attention[stage]:
                yield from attention_block(layout_names, config.attention_norm, *block_args)
            else:
                yield from rep_mixer_block(layout_names, form, *block_args)
        position += 1

    last, final = config.dims[-1], config.dims[-1] * config.final_expansion
    theirs, target = f"{prefix}{names['final_conv']}", f"{ours}/final_conv"
    branches = ("conv_kxk", "conv_scale")
    yield from mobile_one(depthwise, layout_names, form, theirs, target, last, final, (3, 3), branches)
    yield from squeeze_excite(names["final_se"], theirs, f"{target}/se", final, final // 16)
    yield from projection("head.proj", "head.fc", prefix, layout, final, embed)


def _downsample(config: FastViTConfig, stage: int, layout: str, form: str, source: str, target: str) -> Rows:
    names = FASTVIT[layout]
    dims, large = (config.dims[stage - 1], config.dims[stage]), f"{target}/downsample_0"
    if form == "train":
        yield from conv_norm(depthwise, f"{source}.proj.0.{names['large_conv']}", f"{large}/large_conv", *dims, (7, 7))
        yield from conv_norm(depthwise, f"{source}.proj.0.small_conv", f"{large}/small_conv", *dims, (3, 3))
    else:
        theirs = f"{source}.proj.0.{names['large_reparam']}"
        yield from depthwise(theirs, f"{large}/reparam_conv", *dims, (7, 7), True)
    if config.squeeze_excite[stage]:
        yield from squeeze_excite(("se.fc1", "se.fc2"), f"{source}.proj.0", f"{large}/se", dims[1], dims[1] // 4)
    part = (f"{source}.proj.1", f"{target}/downsample_1", dims[1], dims[1], (1, 1), ("identity", "conv_kxk"))
    yield from mobile_one(convolution, layout, form, *part)


def vit(config: ViTConfig, embed: int, layout: str, form: str) -> Rows:
    """A ViT image tower. Its tensors have the same names in every form of a checkpoint."""
    prefix, ours, width = IMAGE_PREFIX[layout], "image_encoder/backbone", config.width
    apple = layout == "apple"
    grid = config.image_size // config.patch_size
    positions = grid**2 + int(config.class_token_position)
    yield row(f"{prefix}cls_token", "1 1 c -> 1 1 c", f"{ours}/cls_token", 1, 1, width)
    name, axes = ("pos_embed.pos_embed.pos_embed", "1 1 n c -> 1 n c") if apple else ("pos_embed", "1 n c -> 1 n c")
    yield row(f"{prefix}{name}", axes, f"{ours}/pos_embed", 1, positions, width)
    inputs = 3
    for index, (filters, kernel) in enumerate(config.stem):
        target, size = f"{ours}/patch_embed_{index}", (kernel, kernel)
        theirs = f"{prefix}patch_emb.{index}.block" if apple else f"{prefix}patch_embed.backbone.{index}"
        if index < len(config.stem) - 1:
            yield from conv_norm(convolution, theirs, target, inputs, filters, size, "norm" if apple else "bn")
        else:
            conv = f"{theirs}.conv" if len(config.stem) > 1 else f"{prefix}patch_embed.proj"
            yield from convolution(conv, target, inputs, filters, size, config.stem_bias)
        inputs = filters
    if config.pre_norm:
        yield from layer_norm(f"{prefix}norm_pre.", f"{ours}/norm_pre", width)
    for block in range(config.depth):
        theirs = f"{prefix}{'transformer' if apple else 'blocks'}.{block}"
        yield from transformer_block("apple" if apple else "timm", theirs, f"{ours}/blocks_{block}", width)
    yield from layer_norm(f"{prefix}{'post_transformer_norm' if apple else 'norm'}.", f"{ours}/norm", width)
    yield from projection("classifier.proj", "head", prefix, layout, width, embed)


def text(config: TextConfig, embed: int, layout: str, form: str) -> Rows:
    """A text tower."""
    prefix, ours, width = TEXT_PREFIX[layout], "text_encoder/backbone", config.width
    apple = layout == "apple"
    table = "embedding_layer" if apple else "token_embedding"
    yield row(f"{prefix}{table}.weight", "n c -> n c", f"{ours}/token_embedding/embeddings", config.vocab_size, width)
    name = "positional_embedding.pos_embed.pos_embed" if apple else "positional_embedding"
    axes = "1 1 n c -> n c" if apple else "n c -> n c"
    yield row(f"{prefix}{name}", axes, f"{ours}/positional_embedding", config.context_length, width)
    for index, kind in enumerate(config.blocks):
        theirs = f"{prefix}transformer.{'' if apple else 'resblocks.'}{index}"
        target = f"{ours}/blocks_{index}"
        if kind == "repmixer":
            kernel = (1, config.mixer_kernel)
            yield from rep_mixer_block(layout, form, theirs, target, width, 4 * width, (kernel, kernel), False)
        else:
            yield from transformer_block(layout, theirs, target, width)
    yield from layer_norm(f"{prefix}{'final_layer_norm' if apple else 'ln_final'}.", f"{ours}/final_norm", width)
    name = "projection_layer" if apple else "text_projection"
    yield row(f"{prefix}{name}", INPUT_MAJOR, "text_encoder/projection/kernel", width, embed)
