"""Weights of pairs, which have no targets."""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from ..training.class_weights import check_class_weight


class WeighsPairs:
    """Mixed into a model whose loss needs no targets: `sample_weight` weighs pairs, and `class_weight` is refused.

    Keras leaves out the weights of arrays that come without targets, and says nothing. So they get targets that nobody
    reads. Datasets and generators give (inputs, None, weights), which Keras leaves whole.
    """

    def fit(self, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.fit`. Without targets, `sample_weight` weighs pairs; `class_weight` has no classes there.

        Raises:
            ValueError: for a `class_weight` without targets.
        """
        return self._weighed(super().fit, args, kwargs)  # type: ignore[misc]

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.evaluate`; see `fit`."""
        return self._weighed(super().evaluate, args, kwargs)  # type: ignore[misc]

    def train_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.train_on_batch`; see `fit`."""
        return self._weighed(super().train_on_batch, args, kwargs)  # type: ignore[misc]

    def test_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.test_on_batch`; see `fit`."""
        return self._weighed(super().test_on_batch, args, kwargs)  # type: ignore[misc]

    def _weighed(self, method: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        model: Any = self
        check_class_weight(model, method, args, kwargs)
        given = inspect.signature(method).bind(*args, **kwargs)
        weights = given.arguments.get("sample_weight")
        if model.loss is None and given.arguments.get("y") is None and weights is not None:
            given.arguments["y"] = np.zeros(len(weights), "float32")
        return method(*given.args, **given.kwargs)
