"""Between a model and what became of it: fine-tuned weights that keep what the model knew."""

from typing import Any

import keras
import numpy as np

from ..errors import MobileClipError
from ..layers.adapters import has_adapters, is_quantized
from ..layers.initializers import to_be_overwritten
from ..layers.paths import layers_by_path
from ..store.model_config import TOWERS
from ..store.variables import variables_by_name

TRAITS = ("backbone", "form", "embed_dim", "projection_bias", "norm_epsilon", "stem_padding", "position_size")
"""Entries of a tower's config that must be the same."""

MOST_NAMED = 5
"""Differences that a message names."""


class InterpolationError(MobileClipError, ValueError):
    """Two models have no weights between them; also a ValueError."""


def interpolate(model: Any, tuned: Any, alpha: float = 0.5) -> Any:
    """A new model whose weights lie between those of two: (1 - alpha) * model + alpha * tuned.

    The mean of a model and of its fine-tuned self is often better than either on what it was tuned for, and keeps most
    of what the model could do before. Source: WiSE-FT (arXiv 2109.01903), section 3. All weights take part, the
    statistics of batch norms and the logit scale too; counters are those of `tuned`, unless alpha is 0.

    Args:
        model: a MobileClipModel before it was tuned.
        tuned: the same after.
        alpha: from 0, the weights of `model` bit for bit, to 1, those of `tuned`.

    Returns:
        A new model in the dtype of `model`, not compiled.

    Raises:
        InterpolationError: naming what differs, or for adapters, int8 weights or another `alpha`.
    """
    if not 0 <= alpha <= 1:
        raise InterpolationError(f"alpha lies between 0, the model before, and 1, the tuned model; got {alpha!r}.")
    _check(model, tuned)
    with to_be_overwritten():
        made = type(model).from_config(model.get_config())
    for variable, before, after in zip(made.weights, model.weights, tuned.weights, strict=True):
        variable.assign(_between(before, after, alpha))
    return made


def _between(one: keras.Variable, other: keras.Variable, alpha: float) -> np.ndarray:
    first, second = (keras.ops.convert_to_numpy(variable) for variable in (one, other))
    if alpha in (0, 1) or "int" in str(first.dtype):
        return second if alpha else first
    return ((1 - alpha) * first.astype("float64") + alpha * second.astype("float64")).astype(first.dtype)


def _check(model: Any, tuned: Any) -> None:
    for each in (model, tuned):
        layers = [layer for _, layer in layers_by_path(each)]
        if any(map(has_adapters, layers)):
            raise InterpolationError("A model has LoRA adapters. Call its merge_lora first.")
        if any(map(is_quantized, layers)):
            raise InterpolationError("A model has int8 weights, and there is nothing between whole numbers.")
    if different := _differences(model, tuned):
        named, more = "; ".join(different[:MOST_NAMED]), len(different) - MOST_NAMED
        raise InterpolationError(f"The models differ: {named}{f'; and {more} more' if more > 0 else ''}.")


def _differences(model: Any, tuned: Any) -> list[str]:
    """What keeps two models from having weights between them."""
    one, other = _traits(model), _traits(tuned)
    traits = [
        f"{name} is {one.get(name)} and {other.get(name)}" for name in one | other if one.get(name) != other.get(name)
    ]
    if [tuple(v.shape) for v in model.weights] == [tuple(v.shape) for v in tuned.weights]:
        return traits
    first, second = ({name: tuple(v.shape) for name, v in variables_by_name(m).items()} for m in (model, tuned))
    shapes = [
        f"{name} is {first[name]} and {second[name]}" for name in first if first[name] != second.get(name, first[name])
    ]
    return traits + shapes + [f"only one has {name}" for name in sorted(first.keys() ^ second.keys())]


def _traits(model: Any) -> dict[str, Any]:
    """What makes a model compute what it does, besides its weights, by name."""
    traits = {"variant": model.variant}
    for tower in TOWERS:
        encoder = getattr(model, f"{tower}_encoder")
        config = {} if encoder is None else encoder.get_config()
        traits |= {
            f"the {tower} tower's {key}": config[key]
            for key in TRAITS
            if not isinstance(config.get(key), dict | type(None))
        }
    return traits
