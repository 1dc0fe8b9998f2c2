"""Lines that differ in indices alone, written once: compact where they form a grid, exact always."""

import re
from itertools import product

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mobileclip_keras.weight_maps.audit import fold_indices

BRACES = re.compile(r"\{(?:(\w+)=)?([\d,-]+)\}|\{(\w+)\}")


def expand(folded: str) -> list[str]:
    """The lines that a folded one stands for, by the notation alone."""
    found = list(BRACES.finditer(folded))
    ranges = [match for match in found if match[2]]
    lines = []
    for numbers in product(*(_numbers(match[2]) for match in ranges)):
        chosen = dict(zip((match.start() for match in ranges), numbers, strict=True))
        named = {match[1]: chosen[match.start()] for match in ranges if match[1]}
        lines.append(BRACES.sub(lambda m: str(chosen[m.start()] if m[2] else named[m[3]]), folded))  # noqa: B023
    return lines


def _numbers(text: str) -> list[int]:
    runs = [[int(number) for number in run.split("-")] for run in text.split(",")]
    return [number for run in runs for number in range(run[0], run[-1] + 1)]


SHAPES = st.sampled_from(
    [
        "layers.{}.weight",
        "stages.{}.blocks.{}.weight",
        "stages.{}.blocks.{}.norm of shape (3, 3), for stages_{}/blocks_{}/norm of shape (3, 3)",
        "a/{}/b_{}/{}",
        "no index",
        "conv{}.weight",
    ]
)
# Written as they stand in names, where 007 and 7 are not the same.
INDICES = st.one_of(st.integers(0, 4).map(str), st.sampled_from(["11", "00", "07", "1234567890123", "٣"]))
LINES = st.lists(st.builds(lambda shape, given: shape.format(*given), SHAPES, st.tuples(*[INDICES] * 4)), max_size=40)


@given(LINES)
@example(["a.0.x.0", "a.1.x.1"])
@example(["a.0.x.0", "a.1.x.1", "a.0.x.1"])
@example([f"a.{i}.{i}.{j}.{j}" for i in range(3) for j in range(2)])
@example(["a\0.1", "a.1\0.2", "a\0.2"])
def test_folded_lines_stand_for_exactly_those_that_they_were_made_of(lines: list[str]) -> None:
    expanded = [line for folded in fold_indices(lines) for line in expand(folded)]
    assert len(expanded) == len(set(expanded)), "none stands for a line twice"
    assert set(expanded) == set(lines)


def test_names_of_any_length_are_folded() -> None:
    first, *others = fold_indices(["a" + ".1" * 3000, "a" + ".2" * 3000])
    assert not others and first == "a.{i=1-2}" + ".{i}" * 2999


@pytest.mark.parametrize(
    ("lines", "folded"),
    [
        ([f"layers.{i}.norm.{j}.x" for i in (0, 1, 2, 5) for j in (0, 1)], ["layers.{0-2,5}.norm.{0-1}.x"]),
        (["a.1.b", "a.1.b"], ["a.1.b"]),
        (["conv2.weight", "conv3.weight"], ["conv2.weight", "conv3.weight"]),
        (["blocks_3/x", "blocks_4/x"], ["blocks_{3-4}/x"]),
        # As many blocks as each stage has.
        (
            [f"stages.{s}.blocks.{b}.x" for s, blocks in enumerate((2, 6, 10, 2)) for b in range(blocks)],
            ["stages.{0,3}.blocks.{0-1}.x", "stages.1.blocks.{0-5}.x", "stages.2.blocks.{0-9}.x"],
        ),
        # The target's indices go along with the source's.
        (
            [f"stages.{s}.blocks.{b}.x, for stages_{s}/blocks_{b}/x" for s in (0, 1) for b in range(3)],
            ["stages.{i=0-1}.blocks.{j=0-2}.x, for stages_{i}/blocks_{j}/x"],
        ),
        (
            [f"network.{2 * s}.{b}.x, for stages_{s}/blocks_{b}/x" for s in (0, 1) for b in range(2)],
            ["network.0.{i=0-1}.x, for stages_0/blocks_{i}/x", "network.2.{i=0-1}.x, for stages_1/blocks_{i}/x"],
        ),
        (["a.0.x.0", "a.1.x.1"], ["a.{i=0-1}.x.{i}"]),
        (["a.0.x.0", "a.1.x.1", "a.1.x.0"], ["a.0.x.0", "a.1.x.{0-1}"]),
    ],
)
def test_usual_lists_become_short(lines: list[str], folded: list[str]) -> None:
    assert fold_indices(lines) == folded
