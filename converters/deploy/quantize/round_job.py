"""The job that decides what each weight becomes; TensorFlow computes, whatever runtime the files are for."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from ..request import Request
from .changing import changes
from .means import measuring
from .measured_rows import measured_rows
from .options import Plan, option, precisions, uniform_plan
from .planning import Judge, search_integers, search_plan, with_room
from .recipes import DEFAULT_BUDGET, PLANNED, weight_sets
from .rounded_inputs import in_integers
from .shares import Measured, measure_shares
from .smoothing import smooth
from .weights import Weight, weights_of

ROWS = 8
"""Computed at once."""


def round_weights(model: Any, request: Request, rows: Mapping[str, np.ndarray], out: Path) -> dict[str, Any]:
    """Writes the rounded weights that a recipe needs, a file for each set of them.

    Args:
        model: in its inference form. Some of its variables are divided and others multiplied (smoothing.py), which
            leaves its features as they are.
        request: says recipe and budget.
        rows: by tower, what to measure on.
        out: a folder for the files, `<set>.npz`: arrays by the names of the variables that change.

    Returns:
        "sets", the names of the files. Of each set with a precision for each layer: "layers", by tower, what every
        layer became, and its share of the error, and "floats", the layers that compute with floats though they could
        compute in integers.
    """
    weights = weights_of(model, request.how.formulation)
    wanted = weight_sets(request.recipe, request.how.recipes)
    sets: dict[str, dict[str, np.ndarray]] = {name: {} for name in wanted}
    layers: dict[str, Any] = {}
    floats: dict[str, list[str]] = {}
    exact = {tower: features(model, tower, rows[tower]) for tower in request.towers}
    with measuring(weights) as means:
        for tower in request.towers:
            features(model, tower, measured_rows(tower, rows[tower]))
    smoothed = smooth(model, weights, means) if request.how.integers else {}
    for name in wanted:
        sets[name] |= smoothed
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
        if not planned:
            continue
        others = next((exact[each] for each in request.towers if each != tower), None)
        compute = partial(features, model, tower, rows[tower])
        judge = Judge(own, options, compute, exact[tower], others, request.budget or DEFAULT_BUDGET)
        dynamic = [weight for weight in own if weight.kind in request.how.integers]
        measured = measure_shares(_encoder(model, tower), rows[tower], exact[tower], own, options, dynamic)
        for name in planned:
            how = request.how if name == PLANNED[0] else request.how.in_floats()
            shares = measured.of({each.name: precisions(each, how) for each in own}, bool(how.integers))
            plan, small = search_plan(judge, shares, how), name != PLANNED[0]
            if small:
                plan = with_room(options, shares, plan)
            in_part = in_integers(own, plan, request.how)
            computed = search_integers(judge, plan, measured) if small else in_part
            sets[name] |= changes(own, options, plan)
            floats.setdefault(name, []).extend(each.layer_name for each in in_part if each not in computed)
            layers.setdefault(name, {})[tower] = _listed(own, plan, measured, computed)
    for name, arrays in sets.items():
        np.savez(out / f"{name}.npz", **arrays)  # type: ignore[arg-type]
    return {"sets": list(sets), "layers": layers, "floats": floats}


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


def _listed(weights: list[Weight], plan: Plan, measured: Measured, computed: list[Weight]) -> list[dict[str, Any]]:
    """For bundle.json: what each layer's weight became, how the layer computes, and its share of the squared error."""
    own = {
        weight.name: measured.weights[weight.name].get(plan[weight.name], 0.0)
        + (measured.inputs.get(weight.name, 0.0) if weight in computed else 0.0)
        for weight in weights
    }
    whole = sum(own.values()) or 1.0
    return [
        {
            "layer": weight.layer_name,
            "numbers": int(np.prod(weight.variable.shape)),
            "precision": plan[weight.name],
            "computes_in": "integers" if weight in computed else "floats",
            "share_of_error": own[weight.name] / whole,
        }
        for weight in weights
    ]
