"""The plan of a tower: what each weight becomes, and which layers compute in integers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..runtimes.registry import Runtime
from .changing import changed, changes
from .options import Options, Plan
from .ranking import agreement, centre_of, cosines, likely_errors
from .rounded_inputs import OTHER_STEPS, STEPS, in_integers, rounded_inputs
from .rounding import BITS
from .search import plans_by_size, smallest_that_holds
from .shares import Measured, Shares
from .weights import Weight

MARGIN = 0.01
"""Of what the budget allows that a plan leaves to the runtime's own rounding: float32's, on the same weights."""
MARGIN_OF_INTEGERS, MARGIN_OF_LIKELY = 0.1, 0.05
"""The same where layers compute in integers: of each way to round that is computed, and of what the next is likely to
cost. A hair's difference of what layers are given is another level here or there, and all that follows differs."""
ROOM_FOR_SPEED = 1.02
"""Times the bytes of the smallest plan that one may take whose layers compute in integers where the budget allows: what
its weights leave of the budget is what inputs may cost."""
MORE_STEPS, MORE_LAYERS = 16, 8
"""Steps of a plan, and layers that may compute in integers, that are tried one by one in the end. No steps of a plan
whose layers all compute in integers: what is left of the budget is room for the runtime."""


@dataclass(frozen=True)
class Judge:
    """Says of a tower's plans whether their features are near enough.

    Attributes:
        weights: of the tower.
        options: by weight and precision.
        compute: the tower's features, with the weights that it has then.
        exact: the float tower's features.
        others: the other tower's; None where there is none.
        budget: in smallest cosine and agreement.
    """

    weights: list[Weight]
    options: Options
    compute: Callable[[], np.ndarray]
    exact: np.ndarray
    others: np.ndarray | None
    budget: float

    def holds(self, plan: Plan, computed: Sequence[Weight]) -> bool:
        """Whether a plan is within the budget, with some room.

        Where layers compute in integers, one way of rounding what they are given says little of the next: the smallest
        cosine is that of one row, and one error of it is twice another. So it is judged by several.

        Args:
            plan: of all weights.
            computed: those whose layers compute in integers.
        """
        room = 1 - self.budget
        allowed = (1 - (MARGIN_OF_INTEGERS if computed else MARGIN)) * room
        errors: list[np.ndarray] = []
        with changed(self.weights, changes(self.weights, self.options, plan)):
            for steps in (STEPS, *OTHER_STEPS) if computed else (STEPS,):
                with rounded_inputs(computed, steps=steps):
                    found = self.compute()
                with np.errstate(all="ignore"):
                    errors.append(1 - cosines(found, self.exact, centre_of(self.exact)))
                if not (errors[-1].max() <= allowed and agreement(found, self.exact, self.others) >= self.budget):
                    return False  # nor where they are no numbers
        return not computed or bool(likely_errors(np.stack(errors)).max() <= (1 - MARGIN_OF_LIKELY) * room)


def search_plan(judge: Judge, shares: Shares, how: Runtime) -> Plan:
    """The smallest plan that holds.

    Args:
        judge: of the tower.
        shares: of the error.
        how: the runtime, and which of its layers compute in integers.
    """

    def holds(plan: Plan) -> bool:
        return judge.holds(plan, in_integers(judge.weights, plan, how))

    plans = plans_by_size(_allowed(judge.options, shares), shares)
    return smallest_that_holds(plans, holds, 0 if how.integers else MORE_STEPS)


def with_room(options: Options, shares: Shares, plan: Plan) -> Plan:
    """The plan of the least error that takes at most ROOM_FOR_SPEED times the bytes of another, which holds.

    Args:
        options: by weight and precision.
        shares: of the error; they say which precisions there are.
        plan: the other, which is taken where none is better.
    """

    def size(each: Plan) -> float:
        return sum(options[name][precision].bytes for name, precision in each.items())

    def error(each: Plan) -> float:
        return sum(shares[name][precision] for name, precision in each.items())

    plans = plans_by_size(_allowed(options, shares), shares)
    largest = next((each for each in plans if size(each) <= ROOM_FOR_SPEED * size(plan)), plan)
    return largest if error(largest) <= error(plan) else plan


def _allowed(options: Options, shares: Shares) -> Options:
    return {name: {precision: options[name][precision] for precision in shares[name]} for name in options}


def search_integers(judge: Judge, plan: Plan, measured: Measured) -> list[Weight]:
    """The layers of a plan that compute in integers, which is faster, as far as the budget goes.

    Those come first that save most multiplications of floats for what they cost.

    Args:
        judge: of the tower.
        plan: that holds where all compute with floats.
        measured: what rounding the inputs of layers costs.
    """
    able = {each.name: each for each in judge.weights if each.name in measured.inputs and plan[each.name] in BITS}
    order = sorted(able, key=lambda name: measured.inputs[name] / measured.products[name])
    steps = [{name: _WAYS[place < count] for place, name in enumerate(order)} for count in range(len(order) + 1)]

    def computed(ways: Plan) -> list[Weight]:
        return [able[name] for name, way in ways.items() if way == "integers"]

    def holds(ways: Plan) -> bool:
        return judge.holds(plan, computed(ways))

    return computed(smallest_that_holds(steps, holds, MORE_LAYERS))


_WAYS = {False: "floats", True: "integers"}
