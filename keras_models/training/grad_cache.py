"""Features of a batch whose activations do not fit in memory, with their exact gradient.

Source: GradCache (arXiv 2101.06983). A contrastive loss needs the features of the whole batch, which are small. The
activations that lead to them need not be there at once: a chunk's are computed for the forward pass, dropped, and
computed again when the gradient of its features is known.
"""

from typing import Any

import keras

from .. import kernels
from ..types import Tensor


class InChunks(keras.layers.Layer):
    """What a tower makes of a batch, with the activations of one chunk at a time.

    A batch of n rows is divided into n / size chunks, rounded up, as equal as can be. With k chunks, chunk i holds the
    rows i, i + k, i + 2 k, ...: each device of several then has its part of every chunk.

    The tower sees one chunk after the other. A batch norm that learns takes its statistics of one chunk and moves its
    averages once for each. Random numbers differ from chunk to chunk. When a chunk is computed again, both are as they
    were the first time.

    Made for one call, as it reads variables that no autocasting may touch: `autocast=False` sees to that.

    Args:
        tower: a built model from one array to features (batch, embed_dim).
        size: rows of a chunk, at most.
    """

    def __init__(self, tower: keras.Model, size: int) -> None:
        super().__init__(autocast=False, dtype=tower.dtype_policy, name="in_chunks")
        self._tower = lambda: tower  # hidden from Keras, which would track it as a part of this layer
        self.size = size
        self.built = True

    def call(self, rows: Tensor, training: bool | None = None) -> Tensor:
        tower = self._tower()
        # Not the tower's own lists: they know nothing of a part that is trained within a frozen tower.
        trained = [variable for variable in tower.variables if variable.trainable]
        others = [variable for variable in tower.variables if not variable.trainable]

        def run(weights: list[Tensor], state: list[Tensor], rows: Tensor) -> tuple[Tensor, list[Tensor]]:
            """Features, and the state afterwards. What did not change is the same object."""
            mapping = [*zip(trained, weights, strict=True), *zip(others, state, strict=True)]
            with keras.StatelessScope(mapping, collect_losses=True) as scope:
                features = tower(rows, training=training)
                check_losses(scope.losses)
                return features, [scope.get_current_value(variable) for variable in others]

        weights, state = ([keras.ops.convert_to_tensor(v) for v in variables] for variables in (trained, others))
        features, changed = kernels.in_chunks(run, weights, state, rows, self.size)
        for place, value in changed.items():
            others[place].assign(value)
        return features


def check_losses(losses: list[Tensor]) -> None:
    """Raises ValueError where layers add losses by themselves: each would be of a chunk, and not of the batch."""
    if losses:
        raise ValueError(
            "chunk_size does not go with layers that add losses of their own, such as activity regularizers: a loss "
            "would be of a chunk and not of the batch."
        )


def check_chunk_size(size: Any) -> None:
    """Raises ValueError unless a chunk size is None or a whole number from 1."""
    if size is not None and (type(size) is not int or size < 1):
        raise ValueError(f"chunk_size is the largest number of pairs computed at once, 1 or more; got {size!r}.")
