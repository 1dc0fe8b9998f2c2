"""The recipes by which weights are stored, and what each needs."""

from collections.abc import Mapping

RECIPES = ("float32", "fp16", "int8-weights", "int8", "int4-weights", "auto")
"""How weights are kept.

float32: as they are. fp16: halved; layers whose activations leave float16's range stay float32. int8-weights: integers
of 8 bits, computed with as floats. int8: the same, and dense layers compute in integers. int4-weights: integers of 4
bits where the runtime has them, else of 8; dense layers of 4 bits compute in integers in LiteRT, which has no other
program for them. auto: a precision for each layer, the smallest file whose ranking holds and that is not slower than
float32's.
"""
MEASURED = RECIPES[1:]
"""Those that are compared with float32, and whose result is written down."""
BY_LAYER = ("int8-weights", "int8", "int4-weights", "auto")
"""Those that are measured on inputs: of the user's where there are some."""
IN_INTEGERS = ("int8", "mixed", "mixed-small")
"""Candidates whose dense layers compute in integers where their weights are integers, if the runtime can."""
PLANNED = ("mixed", "mixed-small")
"""Candidates with a precision for each layer. Where the runtime computes in integers, all layers of the first do so
that can. The second is little larger than the smallest that computes with floats, and then as many layers compute in
integers as the budget allows: rounding what layers are given may cost more than all of it, whatever their weights are.
"""
CANDIDATES = {"int8-weights": "int8", "int8": "int8", "int4-weights": "int4", **{name: name for name in PLANNED}}
"""What can be tried, and the set of rounded weights that it stores."""
WORDS = {
    "mixed": "a precision for each layer",
    "mixed-small": "a precision for each layer, some computed with as floats for the sake of size",
}
"""What a bundle says of how its weights are stored, where the candidate's name does not say it."""
DEFAULT_BUDGET = 0.995
"""Of "auto": the smallest cosine, and the share of best matches that stay."""


def in_words(stored: Mapping[str, str]) -> str:
    """How a bundle's weights are stored.

    Args:
        stored: by tower, the candidate.
    """
    words = {tower: WORDS.get(name, name) for tower, name in stored.items()}
    if len(set(words.values())) == 1:
        return next(iter(words.values()))
    return "; ".join(f"{tower} tower: {each}" for tower, each in words.items())


def candidates(recipe: str, able: tuple[str, ...]) -> list[str]:
    """What is tried: float32, which all is measured by, and the recipe; for "auto" all that a runtime has.

    Args:
        recipe: that is asked for.
        able: those that the runtime has.
    """
    if recipe != "auto":
        return ["float32", recipe]
    planned = PLANNED if "int8" in able else PLANNED[:1]
    return ["float32", *(name for name in able if name not in ("float32", "auto")), *planned]


def weight_sets(recipe: str, able: tuple[str, ...]) -> list[str]:
    """The sets of rounded weights that these need."""
    return list(dict.fromkeys(CANDIDATES[name] for name in candidates(recipe, able) if name in CANDIDATES))
