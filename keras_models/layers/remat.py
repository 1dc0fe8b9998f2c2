"""Rematerialisation: blocks that keep only their inputs, and are computed again for the gradient."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import wraps
from typing import Any

from ..types import Tensor
from .pure_call import Recomputed

_asked: ContextVar[bool] = ContextVar("remat", default=False)


def remat(asked: bool) -> AbstractContextManager[None]:
    """Within this context, in this thread, blocks called by `run_block` are computed again for the gradient.

    Where it is not asked for, nothing is touched: `torch.compile` cannot follow the setting of a context variable.
    """
    return _asked_for() if asked else nullcontext()


@contextmanager
def _asked_for() -> Iterator[None]:
    token = _asked.set(True)
    try:
        yield
    finally:
        _asked.reset(token)


def run_block(block: Any, inputs: Tensor, training: bool | None = None, **options: Any) -> Tensor:
    """What a block makes of its inputs."""
    if training and _asked.get():
        return Recomputed(block)(inputs, training=training, **options)
    return block(inputs, training=training, **options)


class Rematerializes:
    """Mixed into a model of towers: `keras.RematScope` around its making does what `remat=True` does.

    Keras would run the whole model again. On PyTorch each batch norm would then move its averages twice, and on JAX the
    averages would leave the function that they are computed in.
    """

    def rematerialized_call(self, layer_call: Callable[..., Any], *args: Any, **kwargs: Any) -> Callable[..., Any]:
        """The call of a model that was made in a `keras.RematScope`: block by block, where Keras would run it again."""
        again = super().rematerialized_call(layer_call, *args, **kwargs)  # type: ignore[misc]
        if again is layer_call:
            return layer_call

        @wraps(layer_call)
        def block_by_block(*args: Any, **kwargs: Any) -> Any:
            with remat(True):
                return layer_call(*args, **kwargs)

        return block_by_block
