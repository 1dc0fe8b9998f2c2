"""Features of a batch whose activations do not fit in memory, with their exact gradient.

Source: GradCache (arXiv 2101.06983). A contrastive loss needs the features of the whole batch, which are small. The
activations that lead to them need not be there at once: a chunk's are computed for the forward pass, dropped, and
computed again when the gradient of its features is known.
"""

from typing import Any

import keras

from .. import kernels
from ..layers.pure_call import PureCall
from ..types import Tensor


class InChunks(PureCall):
    """What a tower makes of a batch, with the activations of one chunk at a time.

    A batch of n rows is divided into n / size chunks, rounded up, as equal as can be. With k chunks, chunk i holds the
    rows i, i + k, i + 2 k, ...: each device of several then has its part of every chunk.

    The tower sees one chunk after the other. A batch norm that learns takes its statistics of one chunk and moves its
    averages once for each. Random numbers differ from chunk to chunk. When a chunk is computed again, both are as they
    were the first time.

    Args:
        tower: a built model from one array to features (batch, embed_dim).
        size: rows of a chunk, at most.
    """

    REFUSED = (
        "chunk_size does not go with layers that add losses of their own, such as activity regularizers: a loss "
        "would be of a chunk and not of the batch."
    )

    def __init__(self, tower: keras.Model, size: int) -> None:
        super().__init__(tower)
        self.size = size

    def compute(
        self, run: Any, weights: list[Tensor], state: list[Tensor], inputs: Tensor
    ) -> tuple[Tensor, dict[int, Tensor]]:
        return kernels.in_chunks(run, weights, state, inputs, self.size)


def check_chunk_size(size: Any) -> None:
    """Raises ValueError unless a chunk size is None or a whole number from 1."""
    if size is not None and (type(size) is not int or size < 1):
        raise ValueError(f"chunk_size is the largest number of pairs computed at once, 1 or more; got {size!r}.")
