"""Whether the numbers of a checkpoint can be used: what `convert` and `inspect` both ask of each tensor."""

from collections.abc import Mapping

import numpy as np

from ...weight_maps.audit import Problem
from ...weight_maps.table import NONE, Row
from .checkpoint import Checkpoint
from .formats.tensor_file import CheckpointError

LARGEST_COUNT = np.iinfo(np.int64).max
_FLOATS = ("float16", "bfloat16", "float32", "float64")
_WHOLE = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


def read_row(checkpoint: Checkpoint, row: Row) -> tuple[np.ndarray | None, list[Problem]]:
    """The array of one row, zeros where the layout has none, and what keeps it from being used.

    The array is None where its numbers are of a kind that is not even read.
    """
    if row.source == NONE:
        return np.zeros(row.source_shape), []
    dtype = checkpoint.dtypes[row.source]
    wrong = _wrong_kind(row, dtype)
    if wrong:
        return None, [_problem(checkpoint, row, "of the wrong kind", wrong)]
    try:
        array = checkpoint.read(row.source)
    except CheckpointError as error:
        return None, [_problem(checkpoint, row, "that cannot be read", str(error))]
    if row.dtype == "int64":
        return array, _count_problems(checkpoint, row, array)
    return array, []


def _wrong_kind(row: Row, dtype: str) -> str | None:
    if dtype.startswith(("qint", "quint")):
        return f"holds quantised numbers ({dtype}); convert the checkpoint from before it was quantised"
    if row.dtype == "int64":
        return None if dtype in (*_WHOLE, *_FLOATS) else f"holds {dtype}, not whole numbers"
    if dtype.lower().startswith(("float8", "f8")):
        return f"holds {dtype}; give a checkpoint of float16 or wider"
    return None if dtype in _FLOATS else f"holds {dtype}, not floats"


def _count_problems(checkpoint: Checkpoint, row: Row, array: np.ndarray) -> list[Problem]:
    """Of a counter, which may be stored as a float."""
    if array.dtype.kind == "f":
        return [_problem(checkpoint, row, "of the wrong kind", f"holds {array.item()}, which is no whole number")]
    if array.size and int(array.max()) > LARGEST_COUNT:
        return [_problem(checkpoint, row, "too large", f"{array.max()} does not fit int64")]
    return []


def float_problems(checkpoint: Checkpoint, row: Row, array: np.ndarray, dtype: str = "float32") -> list[Problem]:
    """Floats that are not finite, or would not be in the dtype that they are to become."""
    if array.dtype.kind != "f":
        return []
    if array.dtype == np.float64 and dtype != "float64":
        with np.errstate(over="ignore"):
            array = array.astype(np.float32)
    bad = array.size - int(np.count_nonzero(np.isfinite(array)))
    if not bad:
        return []
    return [_problem(checkpoint, row, "not finite", f"{bad} of {array.size} numbers are NaN, infinite or too large")]


def value_problems(checkpoint: Checkpoint, rows: tuple[Row, ...]) -> list[Problem]:
    """Every tensor of a checkpoint whose values cannot be used, without a model."""
    problems = []
    for row in rows:
        array, found = read_row(checkpoint, row)
        problems += found
        if array is not None and not found:
            problems += float_problems(checkpoint, row, array)
    return problems


def _problem(checkpoint: Checkpoint, row: Row, kind: str, detail: str) -> Problem:
    named: Mapping[str, str] = checkpoint.named
    return Problem(kind, named.get(row.source, row.source), detail)
