"""Moving arrays between a checkpoint and a Keras model, row by row of a weight table."""

from collections.abc import Callable

import keras
import numpy as np

from ...keras_models.errors import MobileClipError
from ...keras_models.kernels.memory import copy, fill, no_collection
from ...keras_models.models.model import MobileClipModel
from ...keras_models.store.variables import variables_by_name
from ...weight_maps.audit import Problem, audit, report
from ...weight_maps.axes import to_source, to_target
from ...weight_maps.table import NONE, Row
from ..checkpoints.checkpoint import Checkpoint


class MappingError(MobileClipError):
    """A checkpoint and a model do not fit, or a value cannot be carried over; the message lists all."""


@no_collection()
def load_into(
    model: MobileClipModel,
    checkpoint: Checkpoint,
    rows: tuple[Row, ...],
    progress: Callable[[int], None] = lambda _: None,
) -> None:
    """Assigns every tensor of a checkpoint to its variable.

    Args:
        model: in the form that `rows` describes; its variables are overwritten.
        checkpoint: opened, read one tensor at a time.
        rows: the table. Names and shapes on both sides must fit it exactly.
        progress: called with 1 after each row.

    Raises:
        MappingError: listing every tensor and variable that is missing, unexpected, duplicate or mis-shaped,
            or every value that is not finite or does not fit. Nothing is assigned where names or shapes do
            not fit.
    """
    variables = variables_by_name(model)
    problems = audit(rows, checkpoint.shapes, {name: tuple(v.shape) for name, v in variables.items()})
    if problems:
        raise MappingError(f"{checkpoint.path.name} does not fit the model:\n{report(problems)}")
    for row in rows:
        variable = variables.get(row.target)
        if variable is None and row.source == NONE:
            continue
        array = np.zeros(row.source_shape) if row.source == NONE else checkpoint.read(row.source)
        found = _value_problems(row, array, variable)
        problems += found
        if variable is not None and not found:
            fill(variable, to_target(row.axes, array, row.target_shape))
        progress(1)
    if problems:
        raise MappingError(f"{checkpoint.path.name} holds values that cannot be used:\n{report(problems)}")


def read_from(
    model: MobileClipModel, rows: tuple[Row, ...], progress: Callable[[int], None] = lambda _: None
) -> dict[str, np.ndarray]:
    """The tensors of a checkpoint that equals a model: `load_into` undone.

    Args:
        model: in the form that `rows` describes.
        rows: the table of the layout to write.
        progress: called with 1 after each row.

    Returns:
        Arrays by the names of the layout, float32 or int64 as published.

    Raises:
        MappingError: where the layout has no tensor for a variable that is not zero.
    """
    variables = variables_by_name(model)
    sources = {row.source: row.source_shape for row in rows if row.source != NONE}
    problems = audit(rows, sources, {name: tuple(v.shape) for name, v in variables.items()})
    tensors = {}
    for row in rows if not problems else ():
        variable = variables.get(row.target)
        if variable is None:
            if row.source != NONE:
                tensors[row.source] = np.zeros(row.source_shape, row.dtype)
        elif row.source == NONE:
            if np.any(keras.ops.convert_to_numpy(variable)):
                detail = f"of shape {row.target_shape} is not zero, and this layout has no tensor for it"
                problems.append(Problem("without a place", row.target, detail))
        else:
            tensors[row.source] = np.empty(row.source_shape, row.dtype)
            copy(tensors[row.source], to_source(row.axes, keras.ops.convert_to_numpy(variable)))
        progress(1)
    if problems:
        raise MappingError(f"The model does not fit the layout:\n{report(problems)}")
    return tensors


def _value_problems(row: Row, array: np.ndarray, variable: keras.Variable | None) -> list[Problem]:
    """What keeps the values of one tensor from being assigned unchanged."""
    problems = []
    if row.dtype != "int64":
        if array.dtype.kind != "f":
            problems.append(Problem("of the wrong kind", row.source, f"holds {array.dtype}, not floats"))
        elif bad := _not_finite(array, variable):
            detail = f"{bad} of {array.size} numbers are NaN, infinite or too large"
            problems.append(Problem("not finite", row.source, detail))
    else:
        if array.dtype.kind not in "iu":
            problems.append(Problem("of the wrong kind", row.source, f"holds {array.dtype}, not whole numbers"))
        elif variable is not None and array.size and int(array.max()) > np.iinfo(variable.dtype).max:
            problems.append(Problem("too large", row.source, f"{array.max()} does not fit {variable.dtype}"))
    if variable is None and np.any(array):
        detail = f"is not zero, and the model has no {row.target} of shape {row.target_shape}"
        problems.append(Problem("without a place", row.source, detail))
    return problems


def _not_finite(array: np.ndarray, variable: keras.Variable | None) -> int:
    """How many numbers are not finite, or would not be in the variable's dtype."""
    if variable is not None and array.dtype == np.float64 and variable.dtype != "float64":
        with np.errstate(over="ignore"):
            array = array.astype(np.float32)
    return array.size - int(np.count_nonzero(np.isfinite(array)))
