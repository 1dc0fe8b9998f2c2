"""The Vision Transformer backbones: ViT-B/16 with a convolutional stem, and CLIP's ViT-L/14.

Sources: ViT (arXiv 2010.11929), convolutional stems (arXiv 2106.14881), MobileCLIP (arXiv 2311.17049, section 4),
CLIP (arXiv 2103.00020, section 2.4).
"""

from typing import Any

from keras import ops

from .. import kernels
from ..architectures import ViTConfig
from ..blocks.blocks import TransformerBlock
from ..layers.base import Layer
from ..layers.convolution import ConvNorm, Convolution
from ..layers.initializers import normal
from ..layers.normalization import LayerNorm, norm_each
from ..layers.remat import run_block
from ..types import Shape, Tensor
from .positions import resize_positions


class VisionTransformer(Layer):
    """A ViT backbone without its projection.

    Args:
        config: one of architectures.IMAGE_TOWERS.
        epsilon: of every LayerNorm.
        stem_padding: zeros around the image in the first convolution of the patch embedding.
        form: one of architectures.FORMS; only the patch embedding's batch norms fold.
        position_size: height and width of the images that the position embeddings are for; None for the config's.

    Inputs: float (batch, height, width, 3), height and width multiples of the patch size. Other sizes than
    `position_size` resize the position embeddings (bicubic with antialiasing, as timm does).
    Outputs: the normalised class token, (batch, width of the transformer).
    """

    def __init__(
        self,
        config: ViTConfig,
        epsilon: float,
        stem_padding: int,
        form: str = "train",
        position_size: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.config = config
        self.position_size = position_size or config.image_size
        policy = {"dtype": self.dtype_policy}
        self.patch_embed: list[Any] = []
        for index, (filters, kernel) in enumerate(config.stem):
            conv: dict[str, Any] = {
                "filters": filters,
                "kernel_size": (kernel, kernel),
                "strides": kernel,
                "padding": 0 if index else stem_padding,
                "name": f"patch_embed_{index}",
                **policy,
            }
            if index == len(config.stem) - 1:
                self.patch_embed.append(Convolution(use_bias=config.stem_bias, **conv))
            elif form == "inference":
                self.patch_embed.append(Convolution(use_bias=True, **conv))
            else:
                self.patch_embed.append(ConvNorm(**conv))
        layer_norm = {"epsilon": epsilon, **policy}
        self.norm_pre = LayerNorm(name="norm_pre", **layer_norm) if config.pre_norm else None
        self.blocks = [
            TransformerBlock(config.heads, 4 * config.width, epsilon=epsilon, name=f"blocks_{i}", **policy)
            for i in range(config.depth)
        ]
        self.norm = LayerNorm(name="norm", **layer_norm)

    @property
    def grid_size(self) -> int:
        """Patches along each side of an image of the size that the position embeddings are for."""
        return self.position_size // self.config.patch_size

    def build(self, input_shape: Shape) -> None:
        shape = input_shape
        for part in self.patch_embed:
            part.build(shape)
            shape = part.compute_output_shape(shape)
        width = self.config.width
        positions = self.grid_size**2 + int(self.config.class_token_position)
        self.cls_token = self.add_weight(name="cls_token", shape=(1, 1, width), initializer=normal())
        self.pos_embed = self.add_weight(name="pos_embed", shape=(1, positions, width), initializer=normal())
        sequence = (shape[0], None, width)
        for part in (self.norm_pre, *self.blocks):
            if part is not None:
                part.build(sequence)
        self.norm.build((shape[0], width))

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        tokens = self._embed(inputs, training)
        for block in self.blocks[:-1]:
            tokens = run_block(block, tokens, training)
        last = run_block(self.blocks[-1], tokens, training, picks=slice(0, 1))
        return self.norm(ops.reshape(last, (-1, last.shape[-1])))

    def stage_outputs(self, inputs: Tensor) -> dict[str, Tensor]:
        """The embeddings, the output of each block and the norm's, by name, for an image batch."""
        tokens = self._embed(inputs, training=False)
        outputs = {"embeddings": tokens}
        for index, block in enumerate(self.blocks):
            outputs[f"block_{index}"] = tokens = block(tokens)
        outputs["norm"] = norm_each(self.norm, tokens)
        return outputs

    def _embed(self, inputs: Tensor, training: bool | None) -> Tensor:
        """Patches with positions behind the class token: (batch, 1 + patches, width)."""
        patches = inputs
        for index, part in enumerate(self.patch_embed):
            patches = run_block(part, patches, training)
            if index < len(self.patch_embed) - 1:
                patches = kernels.gelu(patches)
        _, rows, columns, width = ops.shape(patches)
        patches = ops.reshape(patches, (-1, rows * columns, width))
        prefix = int(self.config.class_token_position)
        old = (self.grid_size, self.grid_size)
        positions = resize_positions(kernels.weight(self.pos_embed), old, (rows, columns), before=prefix)
        tokens = kernels.with_class_token(patches, kernels.weight(self.cls_token), positions, bool(prefix))
        return tokens if self.norm_pre is None else self.norm_pre(tokens)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (input_shape[0], self.config.width)
