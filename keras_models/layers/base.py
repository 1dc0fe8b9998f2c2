"""What every layer of a tower inherits."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras

from .. import kernels
from ..types import Tensor
from .initializers import starts_as


class _Calls(threading.local):
    """Of this thread."""

    inside = False
    """Whether it is within the call of a tower's layer."""
    named = False
    """Whether each call goes through Keras."""


_thread = _Calls()


@contextmanager
def named_layers() -> Iterator[None]:
    """Within this context, in this thread, every layer is called through Keras, which names what it computes.

    A traced program then holds the path of each layer in the names of its operations.
    """
    before, _thread.named = _thread.named, True
    try:
        yield
    finally:
        _thread.named = before


@contextmanager
def called_by_keras(outer: keras.Layer, inner: keras.Layer) -> Iterator[None]:
    """Within this context, in this thread, layers run as inside a layer that Keras called, with the same dtype."""
    before, _thread.inside = _thread.inside, _thread.inside or outer.compute_dtype == inner.compute_dtype
    try:
        yield
    finally:
        _thread.inside = before


@contextmanager
def called_by_keras_again() -> Iterator[None]:
    """Within this context, in this thread, the next layer is called through Keras: nothing has been cast for it."""
    before, _thread.inside = _thread.inside, False
    try:
        yield
    finally:
        _thread.inside = before


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
        if _thread.inside and not _thread.named and not self._needs_keras:
            return self.call(*args, **kwargs)  # type: ignore[attr-defined]
        outer, _thread.inside = _thread.inside, True
        try:
            return super().__call__(*args, **kwargs)  # type: ignore[misc]
        finally:
            _thread.inside = outer

    @property
    def _needs_keras(self) -> bool:
        return self.activity_regularizer is not None  # type: ignore[attr-defined]

    def rematerialized_call(self, layer_call: Any, *args: Any, **kwargs: Any) -> Any:
        """A `keras.RematScope` concerns whole towers, see `remat.Rematerializes`."""
        return layer_call

    def add_weight(self, *args: Any, **kwargs: Any) -> Any:
        zeros = starts_as(kwargs.get("dtype") or self.variable_dtype)  # type: ignore[attr-defined]
        if zeros is None:
            return super().add_weight(*args, **kwargs)  # type: ignore[misc]
        with kernels.short_variable_names():
            return super().add_weight(*args, **{**kwargs, "initializer": zeros})  # type: ignore[misc]


class Layer(TowerLayer, keras.layers.Layer):
    """A layer of a tower that is none of Keras' own kinds."""
