"""The last blocks of a text tower, computed for the end of each text alone: nothing else of their outputs is used."""

from typing import Any

import keras
from keras import ops

from .. import kernels
from ..blocks.blocks import RepMixerBlock, TransformerBlock
from ..layers.remat import run_block
from ..types import Tensor


class PlainEnding:
    """Every block at every position; then the state at the end of each text is picked.

    Attributes:
        blocks: the last blocks of the tower, which the ending computes itself.
        training: whether the tower is being trained.
    """

    def __init__(self, blocks: list[Any], training: bool) -> None:
        self.blocks = blocks
        self.training = training

    def __call__(self, states: Tensor, end: Tensor | int) -> Tensor:
        """The states at the end of each text, after the ending's blocks.

        Args:
            states: float (batch, length, width), what comes before the ending's blocks.
            end: float32 (batch, length), 1 where each text ends and 0 elsewhere; or the place, of one text.

        Returns:
            Float (batch, 1, width).
        """
        return kernels.at(states, _picks_of_end(states, end))


class TransformerEnding(PlainEnding):
    """The last transformer block at the end of each text: 8 % of a tower of twelve blocks is saved."""

    def __call__(self, states: Tensor, end: Tensor | int) -> Tensor:
        (block,) = self.blocks
        return run_block(block, states, self.training, picks=_picks_of_end(states, end))


class MixerEnding(PlainEnding):
    """A transformer block and a RepMixer block at the end of each text: a fifth of S0's text tower is saved.

    The RepMixer block sees `reach` positions to either side. So the transformer block need compute only those.
    """

    def __call__(self, states: Tensor, end: Tensor | int) -> Tensor:
        transformer, mixer = self.blocks
        if isinstance(end, int):
            start = max(end - mixer.reach, 0)
            window = slice(start, min(end + mixer.reach + 1, states.shape[1]))
            return _mixed(mixer, transformer(states, picks=window), end - start)
        place = ops.arange(ops.shape(states)[1], dtype="float32")
        middle = ops.sum(end * place, axis=-1)[:, None]
        columns = middle + ops.arange(-mixer.reach, mixer.reach + 1, dtype="float32")
        # 1 where a place is the column's and 0 elsewhere, so all 0 for columns beyond the edge.
        picks = _picks(states, ops.relu(1.0 - ops.abs(place - columns[:, :, None])))
        inside = ops.sum(picks, axis=-1)
        return _mixed(mixer, transformer(states, picks=picks), mixer.reach, inside[:, None, :, None])


def _mixed(mixer: RepMixerBlock, states: Tensor, column: int, inside: Tensor | None = None) -> Tensor:
    """One column of a sentence, which is an image one pixel high."""
    return ops.squeeze(mixer(ops.expand_dims(states, 1), column=column, inside=inside), 1)


def _picks_of_end(states: Tensor, end: Tensor | int) -> Tensor | slice:
    return slice(end, end + 1) if isinstance(end, int) else _picks(states, end[:, None])


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
        return TransformerEnding(blocks[-1:], training)
    if not training and isinstance(blocks[-1], RepMixerBlock) and isinstance(blocks[-2], TransformerBlock):
        return MixerEnding(blocks[-2:], training)
    return PlainEnding([], training)
