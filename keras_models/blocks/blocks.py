"""The residual blocks: RepMixer, attention over feature maps, and the pre-norm transformer."""

from typing import Any

import keras
from keras import ops

from .. import kernels
from ..layers.base import Layer
from ..layers.normalization import BatchNorm, LayerNorm, LayerScale
from ..types import Shape, Tensor
from .attention import SelfAttention
from .branches import RepMixer
from .feed_forward import ConvFeedForward, FeedForward


@keras.saving.register_keras_serializable("mobileclip_keras")
class RepMixerBlock(Layer):
    """RepMixer, then a residual convolutional feed-forward. FastViT (arXiv 2303.14189), figure 2.

    Args:
        channels: channels in and out.
        hidden: hidden units of the feed-forward.
        mixer_kernel: (height, width) of the RepMixer's kernel.
        ffn_kernel: (height, width) of the feed-forward's depthwise kernel.
        mixer_scale_branch: whether the mixer has a 1 x 1 branch.
        form: one of architectures.FORMS.

    Inputs and outputs are (batch, height, width, channels). With `column`, only the output of that column is computed:
    (batch, height, 1, channels). The inputs are then a window with `reach` columns on either side of it, or with as
    many as there are. `inside`, (batch, 1, width, 1), is 0 for columns of the window that stand for none beyond the
    edge, which convolutions pad with zeros, and else 1.
    """

    def __init__(
        self,
        channels: int,
        hidden: int,
        mixer_kernel: tuple[int, int] = (3, 3),
        ffn_kernel: tuple[int, int] = (7, 7),
        mixer_scale_branch: bool = True,
        form: str = "train",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        common: dict[str, Any] = {"form": form, "dtype": self.dtype_policy}
        self.token_mixer = RepMixer(channels, mixer_kernel, mixer_scale_branch, name="token_mixer", **common)
        self.mlp = ConvFeedForward(hidden, ffn_kernel, name="mlp", **common)
        self.layer_scale = None if form == "inference" else LayerScale(dtype=self.dtype_policy, name="layer_scale")
        self.reach = mixer_kernel[1] // 2 + ffn_kernel[1] // 2

    def build(self, input_shape: Shape) -> None:
        self.token_mixer.build(input_shape)
        self.mlp.build(input_shape)
        if self.layer_scale is not None:
            self.layer_scale.build(input_shape)

    def call(
        self,
        inputs: Tensor,
        training: bool | None = None,
        column: int | None = None,
        inside: Tensor | None = None,
    ) -> Tensor:
        mixed = self.token_mixer(inputs if inside is None else inputs * inside, training=training)
        if column is None:
            outputs = self.mlp(mixed, training=training)
        else:
            wanted = slice(column, column + 1)
            outputs = self.mlp(mixed if inside is None else mixed * inside, training=training, columns=wanted)
            mixed = mixed[:, :, wanted]
        outputs = _scaled(self.layer_scale, outputs)
        outputs += mixed  # in place where there is one, on PyTorch
        return outputs


@keras.saving.register_keras_serializable("mobileclip_keras")
class AttentionBlock(Layer):
    """Residual self-attention over a feature map's positions, then a residual convolutional feed-forward.

    Args:
        heads: attention heads.
        hidden: hidden units of the feed-forward.
        norm: "batch" or "layer", what comes before the attention.
        form: one of architectures.FORMS; in the inference form a batch norm is part of the packed projection.

    Inputs and outputs are (batch, height, width, channels).
    """

    def __init__(self, heads: int, hidden: int, norm: str = "batch", form: str = "train", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        folds_norm = norm == "batch" and form == "inference"
        policy: dict[str, Any] = {"dtype": self.dtype_policy}
        if norm == "layer":
            self.norm: Any = LayerNorm(epsilon=1e-5, name="norm", **policy)
        else:
            self.norm = None if folds_norm else BatchNorm(name="norm", **policy)
        self.normalizes_batch = isinstance(self.norm, BatchNorm)
        self.token_mixer = SelfAttention(heads, qkv_bias=folds_norm, name="token_mixer", **policy)
        self.mlp = ConvFeedForward(hidden, form=form, name="mlp", **policy)
        self.layer_scale_1: Any = None
        self.layer_scale_2: Any = None
        if form != "inference":
            self.layer_scale_1 = LayerScale(name="layer_scale_1", **policy)
            self.layer_scale_2 = LayerScale(name="layer_scale_2", **policy)

    def build(self, input_shape: Shape) -> None:
        batch, height, width, channels = input_shape
        length = None if height is None or width is None else height * width
        self.token_mixer.build((batch, length, channels))
        for part in (self.norm, self.mlp, self.layer_scale_1, self.layer_scale_2):
            if part is not None:
                part.build(input_shape)

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        normed = inputs
        if self.norm is not None:
            options = {"training": training} if self.normalizes_batch else {}
            normed = self.norm(inputs, **options)
        _, height, width, channels = ops.shape(inputs)
        tokens = ops.reshape(normed, (-1, height * width, channels))
        attended = ops.reshape(self.token_mixer(tokens), (-1, height, width, channels))
        mixed = inputs + _scaled(self.layer_scale_1, attended)
        outputs = _scaled(self.layer_scale_2, self.mlp(mixed, training=training))
        outputs += mixed
        return outputs


@keras.saving.register_keras_serializable("mobileclip_keras")
class TransformerBlock(Layer):
    """A pre-norm transformer encoder block.

    Args:
        heads: attention heads.
        hidden: hidden units of the feed-forward.
        causal: whether a position sees only itself and those before it.
        epsilon: of both LayerNorms.

    Inputs and outputs are (batch, length, channels). With `picks`, as for `kernels.at`, only the outputs at those
    positions of each row are computed: (batch, wanted, channels). A last block of which one position is used need do
    no more, which saves 8 % of a tower of twelve.
    """

    def __init__(self, heads: int, hidden: int, causal: bool = False, epsilon: float = 1e-5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        policy: dict[str, Any] = {"dtype": self.dtype_policy}
        self.norm1 = LayerNorm(epsilon=epsilon, name="norm1", **policy)
        self.attn = SelfAttention(heads, causal=causal, name="attn", **policy)
        self.norm2 = LayerNorm(epsilon=epsilon, name="norm2", **policy)
        self.mlp = FeedForward(hidden, name="mlp", **policy)

    def build(self, input_shape: Shape) -> None:
        for part in (self.norm1, self.attn, self.norm2, self.mlp):
            part.build(input_shape)

    def call(self, inputs: Tensor, training: bool | None = None, picks: Any = None) -> Tensor:
        attended = self.attn(self.norm1(inputs), picks=picks)
        attended += inputs if picks is None else kernels.at(inputs, picks)
        outputs = self.mlp(self.norm2(attended))
        outputs += attended
        return outputs


def _scaled(layer_scale: Any, inputs: Tensor) -> Tensor:
    return inputs if layer_scale is None else layer_scale(inputs)
