"""Comparing names and shapes on both sides with a table, before any array is read."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..keras_models.shown import shown_name
from .table import NONE, Row

Shapes = Mapping[str, tuple[int, ...]]

UNEXPECTED = "unexpected in the checkpoint"


@dataclass(frozen=True)
class Problem:
    """One thing that does not fit.

    kind: what is wrong, in words; problems of one kind are reported together.
    name: of the tensor or variable concerned.
    detail: the rest of the sentence, naming the other side and both shapes; it may hold the indices of `name`.
    """

    kind: str
    name: str
    detail: str


def audit(rows: Iterable[Row], source: Shapes, target: Shapes) -> list[Problem]:
    """Every difference between a table, a checkpoint and a model; empty where they fit exactly.

    Args:
        rows: the table.
        source: shape of each tensor of the checkpoint.
        target: shape of each variable of the Keras model.
    """
    rows = list(rows)
    problems = _duplicates(rows)
    for row in rows:
        problems += _source_problems(row, source) + _target_problems(row, target)
    known_sources, known_targets = {row.source for row in rows}, {row.target for row in rows}
    for name in source:
        if name not in known_sources:
            problems.append(Problem(UNEXPECTED, name, f"of shape {_text(source[name])}"))
    for name in target:
        if name not in known_targets:
            problems.append(Problem("in the Keras model without a row", name, f"of shape {_text(target[name])}"))
    return problems


def _duplicates(rows: list[Row]) -> list[Problem]:
    problems = []
    for side in ("source", "target"):
        counts = Counter(getattr(row, side) for row in rows)
        for name, count in counts.items():
            if count > 1 and name != NONE:
                problems.append(Problem("in the table more than once", name, f"as a {side}, {count} times"))
    return problems


def _source_problems(row: Row, source: Shapes) -> list[Problem]:
    if row.source == NONE:
        return []
    if row.source not in source:
        if row.may_be_absent:
            return []
        detail = f"of shape {_text(row.source_shape)}, for {row.target} of shape {_text(row.target_shape)}"
        return [Problem("missing from the checkpoint", row.source, detail)]
    shape = tuple(source[row.source])
    if shape != row.source_shape:
        detail = f"has shape {_text(shape)}, but {_text(row.source_shape)} is needed for {row.target}"
        return [Problem("of the wrong shape in the checkpoint", row.source, detail)]
    return []


def _target_problems(row: Row, target: Shapes) -> list[Problem]:
    if row.target not in target:
        if row.may_be_absent:
            return []
        detail = f"of shape {_text(row.target_shape)}, for {row.source} of shape {_text(row.source_shape)}"
        return [Problem("missing from the Keras model", row.target, detail)]
    shape = tuple(target[row.target])
    if shape != row.target_shape:
        detail = f"has shape {_text(shape)}, but {_text(row.target_shape)} comes from {row.source}"
        return [Problem("of the wrong shape in the Keras model", row.target, detail)]
    return []


def report(problems: Iterable[Problem], limit: int = 20) -> str:
    """Problems in plain words, grouped by kind. Lines that differ only in their indices are written once.

    Args:
        problems: what `audit` returned.
        limit: lines shown per kind; the rest is counted.
    """
    kinds: dict[str, list[Problem]] = defaultdict(list)
    for problem in problems:
        kinds[problem.kind].append(problem)
    lines = []
    for kind, members in kinds.items():
        lines.append(f"{len(members)} {'tensor' if len(members) == 1 else 'tensors'} {kind}:")
        folded = fold_indices([f"{shown_name(member.name)} {member.detail}" for member in members])
        lines += [f"  {line}" for line in folded[:limit]]
        if len(folded) > limit:
            lines.append(f"  ... and {len(folded) - limit} more lines like these")
    return "\n".join(lines)


# No leading zeros: "07" and "7" are two names.
_INDEX = re.compile(r"(?<=[._/])(0|[1-9][0-9]{0,8})(?=[./ ]|$)")
_LETTERS = "ijklmnopqrstuvwxyz"

Box = tuple[frozenset[int], ...]
"""The numbers that each index takes, every one with every one of the others."""


def fold_indices(lines: Iterable[str]) -> list[str]:
    """Writes lines that differ only in the indices of their names as one: "layers.{0-11}.weight".

    A folded line stands for exactly the lines that it was made of, so one group of lines may need several folded ones.
    Where two indices are always equal, the second is written as the first one's letter:
    "layers.{i=0-11}.weight, for blocks_{i}/kernel".
    """
    alike: dict[tuple[str, ...], dict[tuple[int, ...], None]] = defaultdict(dict)
    for line in lines:
        parts = _INDEX.split(line)
        alike[tuple(parts[::2])][tuple(map(int, parts[1::2]))] = None
    folded = []
    for words, indices in alike.items():
        columns = list(zip(*indices, strict=True))
        first: dict[tuple[int, ...], int] = {}
        number = [first.setdefault(column, len(first)) for column in columns]  # equal indices, equal numbers
        folded += [_write(words, number, box) for box in _boxes(zip(*first, strict=True) if first else [()])]
    return folded


def _boxes(points: Iterable[tuple[int, ...]]) -> list[Box]:
    """Grids that together hold each of these points exactly once."""
    boxes: list[Box] = [tuple(frozenset([number]) for number in point) for point in points]
    # Points that differ in one index become one grid. The last index goes first, so that blocks stay with their stages.
    for at in reversed(range(len(boxes[0]))):
        joined: dict[Box, frozenset[int]] = {}
        for box in boxes:
            others = box[:at] + box[at + 1 :]
            joined[others] = joined.get(others, frozenset()) | box[at]
        boxes = [(*others[:at], numbers, *others[at:]) for others, numbers in joined.items()]
    return boxes


def _write(words: tuple[str, ...], number: list[int], box: Box) -> str:
    """Words with the indices of a grid between them."""
    several = [n for n, numbers in enumerate(box) if len(numbers) > 1 and number.count(n) > 1]
    names = {n: _LETTERS[i] if i < len(_LETTERS) else f"i{i}" for i, n in enumerate(several)}
    written = words[0]
    seen: set[int] = set()
    for n, word in zip(number, words[1:], strict=True):
        ranges = _ranges(sorted(box[n]))
        if n in names:
            ranges = f"{{{names[n]}}}" if n in seen else f"{{{names[n]}={ranges[1:]}"
        seen.add(n)
        written += ranges + word
    return written


def _ranges(numbers: list[int]) -> str:
    """[0, 1, 2, 5] -> "{0-2,5}"; a single number stays bare."""
    if len(numbers) == 1:
        return str(numbers[0])
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return "{" + ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs) + "}"


def _text(shape: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, shape))})"
