"""Weights of pairs, which have no targets."""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any

import keras
import numpy as np


class WeighsPairs:
    """Mixed into a model whose loss needs no targets: `sample_weight` is heeded all the same.

    Keras leaves out the weights of arrays that come without targets, and says nothing. So they get targets that nobody
    reads. Datasets and generators give (inputs, None, weights), which Keras leaves whole.
    """

    @wraps(keras.Model.fit)  # so that its arguments can be looked up
    def fit(self, *args: Any, **kwargs: Any) -> Any:
        return self._weighed(super().fit, args, kwargs)  # type: ignore[misc]

    @wraps(keras.Model.evaluate)
    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        return self._weighed(super().evaluate, args, kwargs)  # type: ignore[misc]

    @wraps(keras.Model.train_on_batch)
    def train_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        return self._weighed(super().train_on_batch, args, kwargs)  # type: ignore[misc]

    @wraps(keras.Model.test_on_batch)
    def test_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        return self._weighed(super().test_on_batch, args, kwargs)  # type: ignore[misc]

    def _weighed(self, method: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        model: Any = self
        given = inspect.signature(method).bind(*args, **kwargs)
        weights = given.arguments.get("sample_weight")
        if model.loss is None and given.arguments.get("y") is None and weights is not None:
            given.arguments["y"] = np.zeros(len(weights), "float32")
        return method(*given.args, **given.kwargs)
