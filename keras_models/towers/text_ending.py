"""The last blocks of a text tower, computed for the end of each text alone: nothing else of their outputs is used."""

from typing import Any

import keras
from keras import ops

from .. import kernels
from ..blocks.blocks import RepMixerBlock, TransformerBlock
from ..types import Tensor


class PlainEnding:
    """Every block at every position; then the state at the end of each text is picked.

    Attributes:
        blocks: the last blocks of the tower, which the ending computes itself.
    """

    def __init__(self, blocks: list[Any]) -> None:
        self.blocks = blocks

    def __call__(self, states: Tensor, end: Tensor) -> Tensor:
        """The states at the end of each text, after the ending's blocks.

        Args:
            states: float (batch, length, width), what comes before the ending's blocks.
            end: float32 (batch, length), 1 where each text ends and 0 elsewhere.

        Returns:
            Float (batch, 1, width).
        """
        return kernels.at(states, _picks(states, end[:, None]))


class TransformerEnding(PlainEnding):
    """The last transformer block at the end of each text: 8 % of a tower of twelve blocks is saved."""

    def __call__(self, states: Tensor, end: Tensor) -> Tensor:
        (block,) = self.blocks
        return block(states, picks=_picks(states, end[:, None]))


class MixerEnding(PlainEnding):
    """A transformer block and a RepMixer block at the end of each text: a fifth of S0's text tower is saved.

    The RepMixer block sees `reach` positions to either side. So the transformer block need compute only those.
    """

    def __call__(self, states: Tensor, end: Tensor) -> Tensor:
        transformer, mixer = self.blocks
        place = ops.arange(ops.shape(states)[1], dtype="float32")
        middle = ops.sum(end * place, axis=-1)[:, None]
        columns = middle + ops.arange(-mixer.reach, mixer.reach + 1, dtype="float32")
        # 1 where a place is the column's and 0 elsewhere, so all 0 for columns beyond the edge.
        picks = _picks(states, ops.relu(1.0 - ops.abs(place - columns[:, :, None])))
        inside = ops.sum(picks, axis=-1)
        states = transformer(states, picks=picks)
        return ops.squeeze(mixer(ops.expand_dims(states, 1), inside=inside[:, None, :, None]), 1)


def _picks(states: Tensor, ones: Tensor) -> Tensor:
    """Ones and zeros in the dtype of the states, which they are multiplied with."""
    return ops.cast(ones, keras.backend.standardize_dtype(states.dtype))


def ending_of(blocks: list[Any], training: bool) -> PlainEnding:
    """The shortest way to the states at the end of each text.

    Args:
        blocks: all blocks of a text tower.
        training: whether batch norms learn, which they do from all positions.
    """
    if isinstance(blocks[-1], TransformerBlock):
        return TransformerEnding(blocks[-1:])
    if not training and isinstance(blocks[-1], RepMixerBlock) and isinstance(blocks[-2], TransformerBlock):
        return MixerEnding(blocks[-2:])
    return PlainEnding([])
