"""The mci image backbones: FastViT (arXiv 2303.14189) as MobileCLIP uses it (arXiv 2311.17049, section 4.1)."""

from typing import Any

from ..architectures import FastViTConfig
from ..blocks.blocks import AttentionBlock, RepMixerBlock
from ..blocks.branches import ConditionalPositionalEncoding, LargeKernelConv, MobileOneBlock
from ..layers.base import Layer
from ..layers.remat import run_block
from ..types import Shape, Tensor


class FastViTStage(Layer):
    """Downsampling (but in the first stage), a positional encoding (before attention), then the blocks."""

    def __init__(self, config: FastViTConfig, index: int, form: str, **kwargs: Any) -> None:
        super().__init__(name=f"stages_{index}", **kwargs)
        dim = config.dims[index]
        hidden = dim * config.mlp_ratio
        common: dict[str, Any] = {"form": form, "dtype": self.dtype_policy}
        self.downsample: list[Any] = []
        if index > 0:
            se_channels = dim // 4 if config.squeeze_excite[index] else 0
            self.downsample = [
                LargeKernelConv(dim, se_channels, name="downsample_0", **common),
                MobileOneBlock(dim, (1, 1), skip_branch=True, name="downsample_1", **common),
            ]
        self.pos_emb: Any = None
        self.blocks: list[Any] = []
        if config.attention[index]:
            self.pos_emb = ConditionalPositionalEncoding(dim, name="pos_emb", **common)
            self.blocks = [
                AttentionBlock(dim // config.head_dim, hidden, config.attention_norm, name=f"blocks_{i}", **common)
                for i in range(config.depths[index])
            ]
        else:
            self.blocks = [
                RepMixerBlock(dim, hidden, name=f"blocks_{i}", **common) for i in range(config.depths[index])
            ]

    def build(self, input_shape: Shape) -> None:
        shape = input_shape
        for part in self.downsample:
            part.build(shape)
            shape = part.compute_output_shape(shape)
        if self.pos_emb is not None:
            self.pos_emb.build(shape)
        for block in self.blocks:
            block.build(shape)

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        outputs = inputs
        for part in self.downsample:
            outputs = run_block(part, outputs, training)
        if self.pos_emb is not None:
            outputs = run_block(self.pos_emb, outputs, training)
        for block in self.blocks:
            outputs = run_block(block, outputs, training)
        return outputs

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        for part in self.downsample:
            input_shape = part.compute_output_shape(input_shape)
        return input_shape


class FastViT(Layer):
    """An mci backbone without its projection.

    Args:
        config: one of architectures.IMAGE_TOWERS.
        form: one of architectures.FORMS.

    Inputs: float (batch, height, width, 3), height and width multiples of 32 (of 64 for five stages).
    Outputs: the final feature map, (batch, height / 32, width / 32, channels), or / 64 for five stages.
    """

    def __init__(self, config: FastViTConfig, form: str = "train", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        common: dict[str, Any] = {"form": form, "dtype": self.dtype_policy}
        first, scale = config.dims[0], config.stem_scale_branch
        self.stem = [
            MobileOneBlock(first, (3, 3), strides=2, scale_branch=scale, name="stem_0", **common),
            MobileOneBlock(first, (3, 3), strides=2, depthwise=True, scale_branch=scale, name="stem_1", **common),
            MobileOneBlock(first, (1, 1), skip_branch=True, name="stem_2", **common),
        ]
        self.stages = [FastViTStage(config, i, form, dtype=self.dtype_policy) for i in range(len(config.depths))]
        final = config.dims[-1] * config.final_expansion
        self.final_conv = MobileOneBlock(
            final, (3, 3), depthwise=True, scale_branch=True, se_channels=final // 16, name="final_conv", **common
        )

    @property
    def parts(self) -> list[Any]:
        """Every part in the order in which an image passes through them."""
        return [*self.stem, *self.stages, self.final_conv]

    def build(self, input_shape: Shape) -> None:
        for part in self.parts:
            part.build(input_shape)
            input_shape = part.compute_output_shape(input_shape)

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        for part in self.stem:
            inputs = run_block(part, inputs, training)
        for stage in self.stages:
            inputs = stage(inputs, training=training)
        return run_block(self.final_conv, inputs, training)

    def stage_outputs(self, inputs: Tensor) -> dict[str, Tensor]:
        """The output of the stem, of each stage and of the final convolution, by name, for an image batch."""
        for part in self.stem:
            inputs = part(inputs, training=False)
        outputs = {"stem": inputs}
        for index, stage in enumerate(self.stages):
            outputs[f"stage_{index}"] = inputs = stage(inputs, training=False)
        outputs["final_conv"] = self.final_conv(inputs, training=False)
        return outputs

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        for part in self.parts:
            input_shape = part.compute_output_shape(input_shape)
        return input_shape
