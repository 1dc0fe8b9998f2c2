"""The plan with the fewest bytes whose ranking holds."""

from collections.abc import Callable, Mapping
from itertools import pairwise

from .options import Option, Plan
from .shares import Shares

Holds = Callable[[Plan], bool]


def plans_by_size(options: Mapping[str, Mapping[str, Option]], shares: Shares) -> list[dict[str, str]]:
    """Plans from the largest to the smallest. Each has the least error that its size can have.

    The first leaves all in float32. Each next one makes that weight smaller which costs the least error for each byte
    that it saves. A precision that a larger one beats in error for each byte is passed over.
    """
    steps = []
    for name, choices in options.items():
        steps += [(price, name, precision) for price, precision in _worthwhile(choices, shares[name])]
    plan = dict.fromkeys(options, "float32")
    plans = [dict(plan)]
    for _, name, precision in sorted(steps):
        plan[name] = precision
        plans.append(dict(plan))
    return plans


def _worthwhile(choices: Mapping[str, Option], share: Mapping[str, float]) -> list[tuple[float, str]]:
    """Error for each byte that is saved, and the precision, at the corners of the convex hull of both."""
    found: list[tuple[float, str]] = []
    at = "float32"
    while True:
        smaller = [name for name in choices if choices[name].bytes < choices[at].bytes]
        if not smaller:
            return found

        def price(name: str, at: str = at) -> float:
            return max(share[name] - share[at], 0.0) / (choices[at].bytes - choices[name].bytes)

        best = min(smaller, key=lambda name: (price(name), choices[name].bytes))
        found.append((price(best), best))
        at = best


def smallest_that_holds(plans: list[dict[str, str]], holds: Holds, more: int = 0) -> dict[str, str]:
    """The last plan that holds, found by halving, with those of its next steps that it can take besides.

    What is smaller is taken to be worse, so the first step behind that plan is too large for what is left of the
    budget. Later ones may be smaller.

    Args:
        plans: from the largest to the smallest, each with one weight changed. The first always holds.
        holds: whether a plan is within the budget.
        more: steps that are tried one by one in the end.
    """
    low, high = 0, len(plans)  # plans[low] holds, plans[high] does not
    while high - low > 1:
        middle = (low + high) // 2
        if holds(plans[middle]):
            low = middle
        else:
            high = middle
    found = plans[low]
    for before, after in pairwise(plans[high : high + more + 1]):
        (name,) = (name for name in after if after[name] != before[name])
        if found[name] == before[name] and holds(tried := {**found, name: after[name]}):
            found = tried
    return found
