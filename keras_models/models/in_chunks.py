"""`compile` with a `chunk_size`, for batches that do not fit in memory."""

from typing import Any

import keras

from .. import kernels
from ..training.grad_cache import InChunks, check_chunk_size
from ..types import Tensor


class FitsInChunks:
    """Mixed into a model of towers. `fit` and `evaluate` run them on a chunk of each batch at a time, if asked to."""

    _chunk_size: int | None = None
    _evaluates = False

    def compile(self, *args: Any, chunk_size: int | None = None, **kwargs: Any) -> None:
        """As `keras.Model.compile`, and for batches that do not fit in memory.

        Args:
            args, kwargs: of `keras.Model.compile`. Without a loss, `fit` minimises the contrastive one.
            chunk_size: the largest number of images, and of texts, whose activations are in memory at once; None for
                all of a batch. The loss is that of the whole batch, and its gradient is exact (GradCache, arXiv
                2101.06983): only features are kept of a chunk, which is computed again for the gradient. Batch norms
                that learn take their statistics of a chunk, and so do not see the whole batch: freeze them
                (`freeze(norms=True)`) for the step that would be taken without chunks.

        Raises:
            ValueError: for a `chunk_size` that is no whole number from 1, or jit_compile=True with one on TensorFlow.
        """
        check_chunk_size(chunk_size)
        if chunk_size is not None and not kernels.XLA_IS_FAST:
            if kwargs.get("jit_compile") is True:
                raise ValueError("chunk_size does not go with jit_compile=True on TensorFlow. Leave one of them out.")
            kwargs["jit_compile"] = False
        super().compile(*args, **kwargs)  # type: ignore[misc]
        self._chunk_size = chunk_size

    def get_compile_config(self) -> dict[str, Any]:
        config = super().get_compile_config()  # type: ignore[misc]
        return config if self._chunk_size is None else {**config, "chunk_size": self._chunk_size}

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Keras leaves a model uncompiled whose `compile` is not its own, unless the model does this."""
        model: Any = self
        model.compile(**keras.saving.deserialize_keras_object(config))
        if model.optimizer is not None:
            model.optimizer.build(model.trainable_variables)

    def test_step(self, *args: Any, **kwargs: Any) -> Any:
        """As Keras' own."""
        self._evaluates = True
        try:
            return super().test_step(*args, **kwargs)  # type: ignore[misc]
        finally:
            self._evaluates = False

    def chunk_size_for(self, training: bool | None) -> int | None:
        """The size of chunks in `fit` and `evaluate`; None for whole batches, as everywhere else."""
        return self._chunk_size if training or self._evaluates else None


def run_tower(tower: Any, rows: Tensor, training: bool | None, size: int | None) -> Tensor:
    """A tower's features, of at most `size` rows at a time where that is not None."""
    if size is None or (rows.shape[0] is not None and rows.shape[0] <= size):
        return tower(rows, training=training)
    return InChunks(tower, size)(rows, training=training)
