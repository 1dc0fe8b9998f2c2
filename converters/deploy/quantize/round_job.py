"""The job that decides what each weight becomes; TensorFlow computes, whatever runtime the files are for."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from ..request import Request
from ..runtimes.registry import Runtime
from . import row_scales
from .means import measuring
from .options import Option, Plan, option, precisions, uniform_plan
from .ranking import nearness
from .recipes import DEFAULT_BUDGET, IN_INTEGERS, PLANNED, weight_sets
from .rounded_inputs import in_integers, rounded_inputs
from .search import plans_by_size, smallest_that_holds
from .shares import Shares, measure_shares
from .weights import Weight, weights_of

ROWS = 8
"""Computed at once."""
MARGIN = 0.01
"""Of what the budget allows that the plan leaves to the runtime's own rounding: float32's, on the same weights."""
MORE_STEPS = 16
"""That are tried one by one in the end. None where layers compute in integers: what the runtime rounds there is known
less well, and what is left of the budget is room for it."""

Options = dict[str, dict[str, Option]]


def round_weights(model: Any, request: Request, rows: Mapping[str, np.ndarray], out: Path) -> dict[str, Any]:
    """Writes the rounded weights that a recipe needs, a file for each set of them.

    Args:
        model: in its inference form.
        request: says recipe and budget.
        rows: by tower, what to measure on.
        out: a folder for the files, `<set>.npz`: arrays by the names of the variables that change.

    Returns:
        "sets", the names of the files, and "layers": of each set with a precision for each layer, by tower, what every
        layer became, and its share of the error.
    """
    weights = weights_of(model)
    wanted = weight_sets(request.recipe, request.how.recipes)
    sets: dict[str, dict[str, np.ndarray]] = {name: {} for name in wanted}
    layers: dict[str, Any] = {}
    exact = {tower: features(model, tower, rows[tower]) for tower in request.towers}
    with measuring(weights) as means:
        for tower in request.towers:
            features(model, tower, rows[tower][::2])  # the others show whether it holds for what is unseen
    for tower in request.towers:
        own = [weight for weight in weights if weight.tower == tower]
        able = {weight.name: precisions(weight, request.how) for weight in own}
        planned = [name for name in PLANNED if name in wanted]
        if not planned:
            able = {name: tuple(one for one in each if one != "float32") for name, each in able.items()}
        options = {w.name: {each: option(w, each, means) for each in able[w.name]} for w in own}
        for name in ("int8", "int4"):
            if name in wanted:
                sets[name] |= changes(own, options, uniform_plan(own, name, request.how))
        compute = partial(features, model, tower, rows[tower])
        others = next((exact[each] for each in request.towers if each != tower), None)
        for name in planned:
            how = request.how if name in IN_INTEGERS else request.how.in_floats()
            allowed = {w.name: {each: options[w.name][each] for each in precisions(w, how)} for w in own}
            dynamic = [weight for weight in own if weight.kind in how.integers]
            shares = measure_shares(_encoder(model, tower), rows[tower], exact[tower], own, allowed, dynamic)
            plan = search_plan(own, allowed, shares, compute, exact[tower], others, request, how)
            sets[name] |= changes(own, options, plan)
            layers.setdefault(name, {})[tower] = _listed(own, plan, shares)
    for name, arrays in sets.items():
        np.savez(out / f"{name}.npz", **arrays)  # type: ignore[arg-type]
    return {"sets": list(sets), "layers": layers}


def search_plan(
    weights: list[Weight],
    options: Options,
    shares: Shares,
    compute: Callable[[], np.ndarray],
    exact: np.ndarray,
    others: np.ndarray | None,
    request: Request,
    how: Runtime,
) -> Plan:
    """The smallest plan whose features are within the budget, with some room for the runtime's own rounding.

    Args:
        weights: of one tower.
        options: by weight and precision.
        shares: of the error.
        compute: the tower's features, with the weights that it has then.
        exact: the float tower's features.
        others: the other tower's; None where there is none.
        request: says the budget.
        how: the runtime, and which of its layers compute in integers.
    """
    budget = request.budget or DEFAULT_BUDGET
    stricter = 1 - (1 - MARGIN) * (1 - budget)

    def holds(plan: Plan) -> bool:
        computed = in_integers(weights, plan, how)
        with changed(weights, changes(weights, options, plan)), rounded_inputs(computed):
            near = nearness(compute(), exact, others)
        return near.smallest_cosine >= stricter and near.agreement >= budget

    return smallest_that_holds(plans_by_size(options, shares), holds, 0 if how.integers else MORE_STEPS)


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
def changed(weights: list[Weight], changes: Mapping[str, np.ndarray]) -> Iterator[None]:
    """Within this context, variables have other values, and rows of tables the factors that are given for them."""
    tables = [(weight.layer, changes.get(f"{weight.name}{row_scales.NAME}")) for weight in weights]
    changes = {name: array for name, array in changes.items() if not name.endswith(row_scales.NAME)}
    variables = {weight.name: weight.variable for weight in weights}
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
    with np.load(file) as arrays, changed(weights_of(model), dict(arrays)):
        yield


def _encoder(model: Any, tower: str) -> Callable[[Any], Any]:
    from ....keras_models import kernels

    encoder = getattr(model, f"{tower}_encoder")
    return lambda batch: kernels.unit_length(encoder(batch, training=False))


def features(model: Any, tower: str, rows: np.ndarray) -> np.ndarray:
    """A tower's features of length 1, (rows, embed_dim), with the weights that it has then."""
    encode = _encoder(model, tower)
    made = [encode(keras.ops.convert_to_tensor(each)) for each in _batches(rows)]
    return np.concatenate([keras.ops.convert_to_numpy(each) for each in made])


def _batches(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[start : start + ROWS] for start in range(0, len(rows), ROWS)]


def _listed(weights: list[Weight], plan: Plan, shares: Shares) -> list[dict[str, Any]]:
    """For bundle.json: what each layer's weight became, and its share of the squared error."""
    own = {weight.name: shares[weight.name].get(plan[weight.name], 0.0) for weight in weights}
    whole = sum(own.values()) or 1.0
    return [
        {
            "layer": weight.layer_name,
            "numbers": int(np.prod(weight.variable.shape)),
            "precision": plan[weight.name],
            "share_of_error": own[weight.name] / whole,
        }
        for weight in weights
    ]
