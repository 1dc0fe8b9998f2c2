"""The text backbones: MobileCLIP's transformers and S0's RepMixer hybrid (arXiv 2311.17049, section 4.2)."""

from typing import Any

import keras
from keras import ops

from .. import kernels
from ..architectures import TextConfig
from ..blocks.blocks import RepMixerBlock, TransformerBlock
from ..layers.base import Layer
from ..layers.dense import TokenEmbedding
from ..layers.initializers import normal
from ..layers.normalization import LayerNorm, norm_each
from ..layers.remat import run_block
from ..types import Shape, Tensor
from .text_ending import ending_of


class TextBackbone(Layer):
    """Token and position embeddings, the blocks, a LayerNorm, and the state at the end-of-text token.

    Args:
        config: one of architectures.TEXT_TOWERS.
        form: one of architectures.FORMS; only RepMixer blocks fold.

    Inputs: integers (batch, length), length at most the context length (77). The state is taken where the id is
    largest, which is the end-of-text token (49407); padding (0) is attended to where there is no causal mask, as
    in training.
    Outputs: float (batch, width).
    """

    def __init__(self, config: TextConfig, form: str = "train", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.config = config
        policy = {"dtype": self.dtype_policy}
        self.token_embedding = TokenEmbedding(
            config.vocab_size, config.width, embeddings_initializer=normal(), name="token_embedding", **policy
        )
        self.blocks: list[Any] = []
        for index, kind in enumerate(config.blocks):
            name = f"blocks_{index}"
            if kind == "repmixer":
                kernel = (1, config.mixer_kernel)
                block: Any = RepMixerBlock(
                    config.width, 4 * config.width, kernel, kernel, False, form=form, name=name, **policy
                )
            else:
                block = TransformerBlock(config.heads, 4 * config.width, causal=config.causal, name=name, **policy)
            self.blocks.append(block)
        self.final_norm = LayerNorm(epsilon=1e-5, name="final_norm", **policy)

    def build(self, input_shape: Shape) -> None:
        width = self.config.width
        self.token_embedding.build(input_shape)
        self.positional_embedding = self.add_weight(
            name="positional_embedding", shape=(self.config.context_length, width), initializer=normal(0.01)
        )
        for block, kind in zip(self.blocks, self.config.blocks, strict=True):
            block.build((None, 1, None, width) if kind == "repmixer" else (None, None, width))
        self.final_norm.build((None, width))

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        place = kernels.only_end(inputs)
        return self.encode(self.embed(inputs), kernels.end_of_text(inputs) if place is None else place, training)

    def encode(self, states: Tensor, end: Tensor | int, training: bool | None = None) -> Tensor:
        """What follows the embeddings.

        Args:
            states: float (batch, length, width), what `embed` gives.
            end: float32 (batch, length), what `end_of_text` gives; or the place, of one text.
            training: whether batch norms learn.

        Returns:
            Float (batch, width).
        """
        ending = ending_of(self.blocks, bool(training))
        for block in self.blocks[: len(self.blocks) - len(ending.blocks)]:
            states = _apply(block, states, training)
        ended = ending(states, end)
        return self.final_norm(ops.reshape(ended, (-1, ended.shape[-1])))

    def stage_outputs(self, inputs: Tensor) -> dict[str, Tensor]:
        """The embeddings, the output of each block and the norm's, by name, for a token batch."""
        states = self.embed(inputs)
        outputs = {"embeddings": states}
        for index, block in enumerate(self.blocks):
            outputs[f"block_{index}"] = states = _apply(block, states, training=False)
        outputs["norm"] = norm_each(self.final_norm, states)
        return outputs

    def embed(self, tokens: Tensor) -> Tensor:
        """Token and position embeddings, (batch, length, width), of integers (batch, length)."""
        positions = kernels.weight(self.positional_embedding)[: tokens.shape[1]]
        return self.token_embedding(tokens) + positions

    def at_end_of_text(self, states: Tensor, tokens: Tensor) -> Tensor:
        """(batch, width): each text's state at its largest token id."""
        picks = ops.cast(kernels.end_of_text(tokens)[:, None], keras.backend.standardize_dtype(states.dtype))
        return kernels.at(states, picks)[:, 0]

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (input_shape[0], self.config.width)


def _apply(block: Any, states: Tensor, training: bool | None) -> Tensor:
    """A block at every position, (batch, length, width)."""
    if not isinstance(block, RepMixerBlock):
        return run_block(block, states, training)
    # A sentence is an image one pixel high.
    return ops.squeeze(run_block(block, ops.expand_dims(states, 1), training), 1)
