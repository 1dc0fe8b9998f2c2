"""A model with other weights for a while."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import keras
import numpy as np

from ....keras_models.store.variables import variables_by_name
from . import row_scales
from .options import Options, Plan
from .weights import Weight, weights_of


def changes(weights: list[Weight], options: Options, plan: Plan) -> dict[str, np.ndarray]:
    """The variables that a plan changes, by name."""
    found = {}
    for weight in weights:
        if plan[weight.name] == "float32":
            continue
        chosen = options[weight.name][plan[weight.name]]
        found[weight.name] = chosen.kernel
        if chosen.stored is not None:
            found[weight.name], found[f"{weight.name}{row_scales.NAME}"] = chosen.stored
        if chosen.bias is not None:
            found[f"{weight.layer_name}/bias"] = chosen.bias
    return found


@contextmanager
def changed(
    weights: list[Weight], changes: Mapping[str, np.ndarray], others: Mapping[str, Any] | None = None
) -> Iterator[None]:
    """Within this context, variables have other values, and rows of tables the factors that are given for them.

    Args:
        weights: whose variables, and whose layers' biases, may be among the changes.
        changes: values by name.
        others: more variables that may be, by name.
    """
    tables = [(weight.layer, changes.get(f"{weight.name}{row_scales.NAME}")) for weight in weights]
    changes = {name: array for name, array in changes.items() if not name.endswith(row_scales.NAME)}
    variables = {**(others or {}), **{weight.name: weight.variable for weight in weights}}
    variables |= {f"{weight.layer_name}/bias": weight.bias for weight in weights if weight.bias is not None}
    before = {name: np.array(keras.ops.convert_to_numpy(variables[name])) for name in changes}
    try:
        for name, array in changes.items():
            variables[name].assign(array)
        with ExitStack() as stack:
            for layer, factors in tables:
                if factors is not None:
                    stack.enter_context(row_scales.multiplied(layer, factors))
            yield
    finally:
        for name, array in before.items():
            variables[name].assign(array)


@contextmanager
def changed_model(model: Any, file: str | None) -> Iterator[None]:
    """Within this context, a model has the rounded weights of a file; None for its own."""
    if file is None:
        yield
        return
    with np.load(file) as arrays, changed(weights_of(model), dict(arrays), variables_by_name(model)):
        yield
