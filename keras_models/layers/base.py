"""What every layer of a tower inherits."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras

from .. import kernels
from ..types import Tensor
from .initializers import starts_as

_thread = threading.local()
"""`inside`: whether this thread is within the call of a tower's layer. `named`: whether each goes through Keras."""


@contextmanager
def named_layers() -> Iterator[None]:
    """Within this context, in this thread, every layer is called through Keras, which names what it computes.

    A traced program then holds the path of each layer in the names of its operations.
    """
    before, _thread.named = getattr(_thread, "named", False), True
    try:
        yield
    finally:
        _thread.named = before


class TowerLayer:
    """Mixed into every layer of a tower, Keras' own kinds included: calls and new weights without detours.

    Calls. Keras casts the inputs, follows masks and looks for symbolic tensors whenever a layer is called, which takes
    about 0.1 ms. For the layers inside a tower, the outermost layer has had all that done already, for the same dtype
    policy, and there are no masks. Over 150 layers it would take as long as the arithmetic of one image. So only the
    outermost layer is called through Keras. Layers that Keras runs in another way than by `call` are left to Keras:
    quantised ones, and ones with a penalty on their outputs.

    Weights. `initializers.to_be_overwritten` says that a file is about to replace all weights.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        if getattr(_thread, "inside", False) and not self._needs_keras and not getattr(_thread, "named", False):
            return self.call(*args, **kwargs)  # type: ignore[attr-defined]
        outer, _thread.inside = getattr(_thread, "inside", False), True
        try:
            return super().__call__(*args, **kwargs)  # type: ignore[misc]
        finally:
            _thread.inside = outer

    @property
    def _needs_keras(self) -> bool:
        layer: Any = self
        return getattr(layer, "quantization_mode", None) is not None or layer.activity_regularizer is not None

    def add_weight(self, *args: Any, **kwargs: Any) -> Any:
        zeros = starts_as(kwargs.get("dtype") or self.variable_dtype)  # type: ignore[attr-defined]
        if zeros is None:
            return super().add_weight(*args, **kwargs)  # type: ignore[misc]
        with kernels.short_variable_names():
            return super().add_weight(*args, **{**kwargs, "initializer": zeros})  # type: ignore[misc]


class Layer(TowerLayer, keras.layers.Layer):
    """A layer of a tower that is none of Keras' own kinds."""
