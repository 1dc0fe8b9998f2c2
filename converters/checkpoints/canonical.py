"""A set of weights under the published names, with what training code did to it undone."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ...weight_maps.walks import IMAGE_PREFIX, TEXT_PREFIX
from .extras import CAUSAL, NO_MASK, carries_nothing
from .weight_sets import SCALARS, WeightSet

MOST_NAMED = 6


@dataclass
class Canonical:
    """What a `Checkpoint` is made of; the attributes are described there."""

    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]
    named: dict[str, str]
    notes: list[str]
    read: Callable[[str], np.ndarray]
    left: tuple[str, ...]
    causal: bool | None


def canonical(chosen: WeightSet, beside: set[str], ignore_extra: bool) -> Canonical:
    """The tensors of a set by their published names.

    Args:
        chosen: the set.
        beside: tensors of the same place that belong to other sets.
        ignore_extra: whether tensors that belong to no tower are left out.
    """
    tensors, notes = chosen.tensors, list(chosen.notes)
    named = _published_names(chosen)  # the name in the file by the published one
    notes += _prefix_notes(chosen)
    absent = _absent_counters(chosen, named)
    if absent:
        notes.append(f"{_count(len(absent), 'counter')} num_batches_tracked not in the file, taken as 0")
    numbers = _plain_numbers(chosen, named)
    notes += [f"{name} is a plain number in the file" for name in numbers]
    used = set(named.values()) | beside
    extras = [original for original in tensors.shapes if original not in used]
    meanings = {name: carries_nothing(tensors, name) for name in extras} if chosen.is_whole else {}
    notes += [f"{meaning} in the file, left out: {_some(names)}" for meaning, names in _by_meaning(meanings).items()]
    extras = [name for name in extras if not meanings.get(name)]
    short = {original: name for name, original in chosen.names.items()}
    left = tuple(name for name in extras if ignore_extra and _is_beside(chosen, short[name]))
    if left:
        notes.append(f"{_count(len(left), 'tensor')} left out on request: {_some(left)}")
    for name in extras:
        if name not in left:
            named[_free(short[name].removeprefix(chosen.root), named)] = name

    shapes = {name: tensors.shapes[original] for name, original in named.items()}
    dtypes = {name: tensors.dtypes[original] for name, original in named.items()}
    for name in SCALARS:
        if shapes.get(name) == (1,):
            notes.append(f"{name} is a vector of one number, taken as a scalar")
            shapes[name] = ()
    shapes |= dict.fromkeys((*absent, *numbers), ())
    dtypes |= dict.fromkeys(absent, "int64") | dict.fromkeys(numbers, "float64")
    floating = [name for name in named if name.endswith("num_batches_tracked") and "float" in dtypes[name]]
    if floating:
        notes.append(f"{_count(len(floating), 'counter')} num_batches_tracked stored as {dtypes[floating[0]]}")

    def read(name: str) -> np.ndarray:
        if name in numbers:
            return np.array(numbers[name])
        if name in absent:
            return np.zeros((), np.int64)
        array = tensors.read(named[name])
        return _whole_numbers(array) if name in floating else array

    others = {name: original for name, original in named.items() if name != original}
    return Canonical(shapes, dtypes, others, notes, read, left, _is_causal(meanings))


def _published_names(chosen: WeightSet) -> dict[str, str]:
    """The name in the file of each tensor of the towers and of the logits' scale and bias, by its published name."""
    if not chosen.towers:
        return dict(chosen.names)
    found = {}
    for tower in chosen.towers:
        prefix = (IMAGE_PREFIX if tower.table.kind == "image" else TEXT_PREFIX)[chosen.layout]
        for base, name in tower.names.items():
            if name in chosen.names:
                found[prefix + base] = chosen.names[name]
    for scalar in SCALARS:
        there = _name_of_scalar(chosen, scalar)
        if there is not None:
            found[scalar] = chosen.names[there]
    return found


def _name_of_scalar(chosen: WeightSet, scalar: str) -> str | None:
    """Where a set's logit scale or bias stands: beside the towers; else the only one there is."""
    if chosen.root + scalar in chosen.names:
        return chosen.root + scalar
    ending = [name for name in chosen.names if name.rpartition(".")[2] == scalar]
    one_set = len(ending) == 1 and len(chosen.towers) == 2 and any(tower.is_bare for tower in chosen.towers)
    return ending[0] if one_set else None


def _prefix_notes(chosen: WeightSet) -> list[str]:
    notes = []
    if chosen.root:
        every = all(name.startswith(chosen.root) for name in chosen.names)
        whose = "every name begins" if every else "the weights' names begin"
        notes.append(f'{whose} with "{chosen.root}"')
    for tower in chosen.towers if len(chosen.towers) > 1 else ():
        if tower.is_bare:
            notes.append(f'the {tower.table.kind} tower stands under "{tower.prefix}"')
    return notes


def _absent_counters(chosen: WeightSet, named: dict[str, str]) -> set[str]:
    if not chosen.is_whole:
        return set()
    found = set()
    for tower in chosen.towers:
        prefix = (IMAGE_PREFIX if tower.table.kind == "image" else TEXT_PREFIX)[chosen.layout]
        found |= {prefix + row.source for row in tower.table.rows if row.is_counter}
    return found - named.keys()


def _plain_numbers(chosen: WeightSet, named: dict[str, str]) -> dict[str, float]:
    """The logit scale and bias, where the file holds them as numbers of Python."""
    if not chosen.is_whole:
        return {}
    numbers = chosen.tensors.numbers
    return {
        name: numbers[chosen.root + name] for name in SCALARS if name not in named and chosen.root + name in numbers
    }


def _is_beside(chosen: WeightSet, name: str) -> bool:
    """Whether a tensor stands beside the towers. One inside a tower belongs to a network of another kind."""
    return chosen.is_whole and not any(
        name.startswith(tower.prefix) and name.removeprefix(tower.prefix).split(".")[0] in tower.table.roots
        for tower in chosen.towers
    )


def _free(name: str, taken: dict[str, str]) -> str:
    """A name for a tensor that belongs to no tower."""
    while name in taken:
        name = f"/{name}"
    return name


def _by_meaning(meanings: dict[str, str | None]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, meaning in meanings.items():
        if meaning:
            found.setdefault(meaning, []).append(name)
    return found


def _is_causal(meanings: dict[str, str | None]) -> bool | None:
    masks = {CAUSAL: True, NO_MASK: False}
    said = Counter(masks[meaning] for meaning in meanings.values() if meaning in masks)
    return next(iter(said)) if len(said) == 1 else None


def _whole_numbers(array: np.ndarray) -> np.ndarray:
    """Counts that were stored as floats; as they are where they are no counts."""
    counts = bool(np.isfinite(array).all()) and bool((array == np.floor(array)).all()) and abs(array).max() < 2**63
    return array.astype(np.int64) if counts else array


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _some(names: list[str] | tuple[str, ...]) -> str:
    return ", ".join(names[:MOST_NAMED]) + (f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else "")
