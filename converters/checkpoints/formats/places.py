"""Where in a nested checkpoint tensors lie: every mapping that holds named tensors is a place."""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from ....keras_models.shown import shown_name

DEEPEST = 6
MOST_NAMED = 6
LOGITS = ("logit_scale", "logit_bias")


@dataclass
class Place:
    """A mapping with tensors.

    Attributes:
        name: the keys that lead to it, joined by "/".
        tensors: by name.
        numbers: plain numbers beside them.
        notes: what lies around it, in words.
    """

    name: str
    tensors: dict[str, Any]
    numbers: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def places_in(loaded: Any, tensor: type) -> list[Place]:
    """The places of what a file holds, from the top down.

    Args:
        loaded: what torch.load returned.
        tensor: the class of tensors.
    """
    found: list[Place] = []
    seen: set[int] = set()
    waiting: deque[tuple[Mapping, str, list[str]]] = deque()
    if isinstance(loaded, Mapping):
        waiting.append((loaded, "", []))
    while waiting:  # in the order of depth; a pickle can hold itself, so each mapping is looked at once
        content, name, notes = waiting.popleft()
        if id(content) in seen:
            continue
        seen.add(id(content))
        tensors = {key: v for key, v in content.items() if isinstance(key, str) and isinstance(v, tensor)}
        if tensors:
            found.append(Place(name, tensors, _numbers(content), [*notes, *_passed_over(content, tensors)]))
        if name.count("/") + 1 < DEEPEST:
            waiting += [
                (value, f"{name}/{key}" if name else key, [*notes, _under(content, key)])
                for key, value in content.items()
                if isinstance(key, str) and isinstance(value, Mapping)
            ]
    return found


def _numbers(content: Mapping) -> dict[str, float]:
    return {
        key: float(value)
        for key, value in content.items()
        if isinstance(key, str)
        and isinstance(value, float | int)
        and not isinstance(value, bool)
        and abs(value) < 1e300
    }


def _under(content: Mapping, key: str) -> str:
    others = _some(other for other in content if other != key)
    return f'weights under "{key}"' + (f", beside {others}" if others else "")


def _passed_over(content: Mapping, tensors: dict[str, Any]) -> list[str]:
    # A plain number of the logits is used, which is noted where it happens.
    known = {*tensors, *LOGITS}
    others = _some(key for key in content if not (isinstance(key, str) and key in known))
    return [f"entries that are no tensors, passed over: {others}"] if others else []


def _some(keys: Iterable[Any]) -> str:
    return ", ".join(map(_in_words, islice(keys, MOST_NAMED)))


def _in_words(key: Any) -> str:
    """A key of a mapping. Other keys than strings may be of any size."""
    return shown_name(key) if isinstance(key, str) else f"a key that is a {type(key).__name__}"
