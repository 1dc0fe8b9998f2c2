"""The order of a tensor's axes in a checkpoint and in Keras, as einops text: "o i h w -> h w i o"."""

import math
import re

import einops
import numpy as np


def to_target(axes: str, array: np.ndarray, target_shape: tuple[int, ...]) -> np.ndarray:
    """A checkpoint's tensor with its axes in Keras' order; a view where that is possible."""
    return einops.rearrange(array, axes, **_split_sizes(axes, target_shape))


def to_source(axes: str, array: np.ndarray) -> np.ndarray:
    """A Keras variable with its axes in the checkpoint's order: the inverse of `to_target`."""
    source, target = sides(axes)
    return einops.rearrange(array, f"{target} -> {source}")


def source_shape(axes: str, target_shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that a tensor must have to become one of `target_shape`."""
    sizes = _sizes(axes, target_shape)
    source, _ = sides(axes)
    return tuple(math.prod(sizes[name] for name in group) for group in _groups(source))


def sides(axes: str) -> tuple[str, str]:
    """The two sides of the text: the checkpoint's, then Keras'."""
    source, target = axes.split("->")
    return source.strip(), target.strip()


def _groups(side: str) -> list[list[str]]:
    """ "(c m) 1 h w" -> [[c, m], [1], [h], [w]]"""
    return [group.strip("()").split() for group in re.findall(r"\([^)]*\)|\S+", side)]


def _sizes(axes: str, target_shape: tuple[int, ...]) -> dict[str, int]:
    _, target = sides(axes)
    names = [group[0] for group in _groups(target)]
    return {"1": 1} | dict(zip(names, target_shape, strict=True))


def _split_sizes(axes: str, target_shape: tuple[int, ...]) -> dict[str, int]:
    """Sizes of the axes that share a dimension of the checkpoint's tensor. einops cannot infer them."""
    source, _ = sides(axes)
    sizes = _sizes(axes, target_shape)
    return {name: sizes[name] for group in _groups(source) if len(group) > 1 for name in group}
