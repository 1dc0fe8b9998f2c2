"""Weights of classes, where there may be no classes."""

import inspect
from collections.abc import Callable
from typing import Any

import keras


def check_class_weight(
    model: keras.Model, method: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Refuses a `class_weight` that nothing could be weighed by.

    Args:
        model: compiled; without a loss it minimises the contrastive one.
        method: of Keras, that is about to be called.
        args, kwargs: what it is called with.

    Raises:
        ValueError: where `class_weight` is given, and no targets.
    """
    given = inspect.signature(method).bind(*args, **kwargs).arguments
    untargeted = model.loss is None or (given.get("y") is None and isinstance(given.get("x"), dict))
    if given.get("class_weight") is not None and untargeted:
        raise ValueError(
            "class_weight needs targets, a class for each row, and has none: the contrastive loss compares the "
            "pairs of a batch. Give sample_weight, one for each pair, or compile with a loss of your own and give y."
        )
