"""Blocks of parallel linear branches that fold into one convolution.

Sources: MobileOne (arXiv 2206.04040, figure 2), RepLKNet (arXiv 2203.06717, section 3), FastViT
(arXiv 2303.14189, section 3), conditional positional encodings (arXiv 2102.10882).

Every block takes `form`, one of architectures.FORMS: "train" keeps the branches, the others hold the single
convolution `reparam_conv`. Inputs and outputs are (batch, height, width, channels).
"""

from typing import Any

import keras
from keras import ops

from .. import kernels
from ..layers.base import Layer
from ..layers.convolution import ConvNorm, Convolution
from ..layers.normalization import BatchNorm, LayerScale, sum_of_norms_in_training
from ..types import Shape, Tensor
from .squeeze_excite import SqueezeExcite


@keras.saving.register_keras_serializable("mobileclip_keras")
class MobileOneBlock(Layer):
    """A k x k convolution, a 1 x 1 "scale" convolution and a skip, each with its batch norm, added up.

    Args:
        filters: output channels.
        kernel_size: (height, width).
        strides: step in both directions.
        depthwise: whether the convolutions are depthwise.
        conv_branch: whether there is a k x k branch.
        scale_branch: whether there is a 1 x 1 branch.
        skip_branch: whether there is an identity branch (it needs equal input and output shapes).
        se_channels: inner channels of a squeeze-and-excite on the sum; 0 for none.
        activation: whether GELU follows.
        form: one of architectures.FORMS.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: tuple[int, int],
        strides: int = 1,
        depthwise: bool = False,
        conv_branch: bool = True,
        scale_branch: bool = False,
        skip_branch: bool = False,
        se_channels: int = 0,
        activation: bool = True,
        form: str = "train",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.depthwise = depthwise
        self.activation = activation
        conv: dict[str, Any] = {
            "filters": filters,
            "strides": strides,
            "depthwise": depthwise,
            "dtype": self.dtype_policy,
        }
        self.reparam_conv: Any = None
        self.identity: Any = None
        self.conv_kxk: Any = None
        self.conv_scale: Any = None
        self.se: Any = None
        if form != "train":
            self.reparam_conv = Convolution(kernel_size=kernel_size, use_bias=True, name="reparam_conv", **conv)
        else:
            if skip_branch:
                self.identity = BatchNorm(dtype=self.dtype_policy, name="identity")
            if conv_branch:
                self.conv_kxk = ConvNorm(kernel_size=kernel_size, name="conv_kxk", **conv)
            if scale_branch:
                self.conv_scale = ConvNorm(kernel_size=(1, 1), name="conv_scale", **conv)
        if se_channels:
            self.se = SqueezeExcite(se_channels, dtype=self.dtype_policy, name="se")

    @property
    def branches(self) -> list[Any]:
        """The parallel parts whose outputs are added."""
        parts = (self.reparam_conv, self.conv_scale, self.identity, self.conv_kxk)
        return [part for part in parts if part is not None]

    def build(self, input_shape: Shape) -> None:
        for branch in self.branches:
            branch.build(input_shape)
        if self.se is not None:
            self.se.build(self.compute_output_shape(input_shape))

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        outputs = _sum_of(self.branches, inputs, training)
        if self.se is not None:
            outputs = self.se(outputs)
        return kernels.gelu(outputs) if self.activation else outputs

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return self.branches[-1].compute_output_shape(input_shape)


@keras.saving.register_keras_serializable("mobileclip_keras")
class LargeKernelConv(Layer):
    """A strided depthwise 7 x 7 convolution beside a 3 x 3 one, optional squeeze-and-excite, then GELU.

    Args:
        filters: output channels.
        se_channels: inner channels of the squeeze-and-excite; 0 for none.
        form: one of architectures.FORMS.
    """

    def __init__(self, filters: int, se_channels: int = 0, form: str = "train", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        conv: dict[str, Any] = {"filters": filters, "strides": 2, "depthwise": True, "dtype": self.dtype_policy}
        self.reparam_conv: Any = None
        self.large_conv: Any = None
        self.small_conv: Any = None
        if form == "train":
            self.large_conv = ConvNorm(kernel_size=(7, 7), name="large_conv", **conv)
            self.small_conv = ConvNorm(kernel_size=(3, 3), name="small_conv", **conv)
        else:
            self.reparam_conv = Convolution(kernel_size=(7, 7), use_bias=True, name="reparam_conv", **conv)
        self.se = SqueezeExcite(se_channels, dtype=self.dtype_policy, name="se") if se_channels else None

    @property
    def branches(self) -> list[Any]:
        """The parallel parts whose outputs are added."""
        return [part for part in (self.reparam_conv, self.large_conv, self.small_conv) if part is not None]

    def build(self, input_shape: Shape) -> None:
        for branch in self.branches:
            branch.build(input_shape)
        if self.se is not None:
            self.se.build(self.compute_output_shape(input_shape))

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        outputs = _sum_of(self.branches, inputs, training)
        return kernels.gelu(outputs if self.se is None else self.se(outputs))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return self.branches[0].compute_output_shape(input_shape)


@keras.saving.register_keras_serializable("mobileclip_keras")
class RepMixer(Layer):
    """Mixes tokens by a depthwise convolution: x + layer_scale * (mixer(x) - norm(x)); one convolution when folded.

    Args:
        channels: channels in and out.
        kernel_size: (height, width) of the mixer's depthwise kernel.
        scale_branch: whether the mixer has a 1 x 1 branch. Text towers' mixers do not.
        form: one of architectures.FORMS.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: tuple[int, int] = (3, 3),
        scale_branch: bool = True,
        form: str = "train",
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        block: dict[str, Any] = {
            "filters": channels,
            "kernel_size": kernel_size,
            "depthwise": True,
            "skip_branch": True,
            "activation": False,
            "dtype": self.dtype_policy,
        }
        self.reparam_conv: Any = None
        self.norm: Any = None
        self.mixer: Any = None
        self.layer_scale: Any = None
        if form == "train":
            self.norm = MobileOneBlock(conv_branch=False, name="norm", **block)
            self.mixer = MobileOneBlock(scale_branch=scale_branch, name="mixer", **block)
            self.layer_scale = LayerScale(dtype=self.dtype_policy, name="layer_scale")
        else:
            self.reparam_conv = Convolution(
                channels,
                kernel_size,
                depthwise=True,
                use_bias=True,
                dtype=self.dtype_policy,
                name="reparam_conv",
            )

    def build(self, input_shape: Shape) -> None:
        for part in (self.reparam_conv, self.norm, self.mixer, self.layer_scale):
            if part is not None:
                part.build(input_shape)

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        if self.reparam_conv is not None:
            return self.reparam_conv(inputs, training=training)
        if training and all(norm.trainable for norm, _, _ in self._norms()):
            mixed = self.mixer.conv_kxk(inputs, training=True) + sum_of_norms_in_training(inputs, self._norms())
        else:
            mixed = self.mixer(inputs, training=training) - self.norm(inputs, training=training)
        return inputs + self.layer_scale(mixed)

    def _norms(self) -> list[tuple[BatchNorm, Tensor | None, int]]:
        """All batch norms but that of the k x k branch, as `sum_of_norms_in_training` takes them."""
        norms = [(self.mixer.identity, None, 1), (self.norm.identity, None, -1)]
        if self.mixer.conv_scale is not None:
            weights = ops.reshape(kernels.weight(self.mixer.conv_scale.conv.kernel), (-1,))
            norms.append((self.mixer.conv_scale.bn, weights, 1))
        return norms


@keras.saving.register_keras_serializable("mobileclip_keras")
class ConditionalPositionalEncoding(Layer):
    """x + depthwise 7 x 7 convolution of x, or that sum as one convolution when folded.

    Args:
        channels: channels in and out.
        form: one of architectures.FORMS.
    """

    def __init__(self, channels: int, form: str = "train", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        conv: dict[str, Any] = {"filters": channels, "kernel_size": (7, 7), "depthwise": True, "use_bias": True}
        self.reparam_conv: Any = None
        self.pos_enc: Any = None
        if form == "train":
            self.pos_enc = Convolution(name="pos_enc", dtype=self.dtype_policy, **conv)
        else:
            self.reparam_conv = Convolution(name="reparam_conv", dtype=self.dtype_policy, **conv)

    def build(self, input_shape: Shape) -> None:
        (self.pos_enc or self.reparam_conv).build(input_shape)

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        if self.pos_enc is None:
            return self.reparam_conv(inputs, training=training)
        return self.pos_enc(inputs, training=training) + inputs


def _sum_of(branches: list[Any], inputs: Tensor, training: bool | None) -> Tensor:
    outputs = [branch(inputs, training=training) for branch in branches]
    total = outputs[0]
    for output in outputs[1:]:
        total = total + output
    return total
