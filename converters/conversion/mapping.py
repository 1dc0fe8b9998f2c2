"""Moving arrays between a checkpoint and a Keras model, row by row of a weight table."""

from collections.abc import Callable

import keras
import numpy as np

from ...keras_models.errors import MobileClipError
from ...keras_models.kernels.memory import copy, fill, no_collection
from ...keras_models.models.model import MobileClipModel
from ...keras_models.store.variables import logit_variables, variables_by_name
from ...weight_maps.audit import Problem, audit, report
from ...weight_maps.axes import to_source, to_target
from ...weight_maps.table import NONE, Row
from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.values import float_problems, read_row


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
    variables = _variables(model, rows)
    problems = audit(rows, checkpoint.shapes, {name: tuple(v.shape) for name, v in variables.items()})
    if problems:
        raise MappingError(f"{checkpoint.path.name} does not fit the model:\n{report(problems)}")
    for row in rows:
        variable = variables.get(row.target)
        if variable is None and row.source == NONE:
            continue
        array, found = read_row(checkpoint, row)
        if array is not None and not found:
            found = _value_problems(checkpoint, row, array, variable)
            if variable is not None and not found:
                fill(variable, to_target(row.axes, array, row.target_shape))
        problems += found
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
    variables = _variables(model, rows)
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


def _variables(model: MobileClipModel, rows: tuple[Row, ...]) -> dict[str, keras.Variable]:
    """A model's variables by name; of one tower alone also the logits' scale and bias, where the rows have them."""
    targets = {row.target for row in rows}
    scalars = {name: variable for name, variable in logit_variables(model).items() if name in targets}
    return {**scalars, **variables_by_name(model)}


def _value_problems(
    checkpoint: Checkpoint, row: Row, array: np.ndarray, variable: keras.Variable | None
) -> list[Problem]:
    """What keeps the values of one tensor from being assigned unchanged."""
    name = checkpoint.named.get(row.source, row.source)
    if variable is None:
        detail = f"is not zero, and the model has no {row.target} of shape {row.target_shape}"
        return [Problem("without a place", name, detail)] if np.any(array) else []
    if row.dtype != "int64":
        return float_problems(checkpoint, row, array, variable.dtype)
    if array.size and int(array.max()) > np.iinfo(variable.dtype).max:
        return [Problem("too large", name, f"{array.max()} does not fit {variable.dtype}")]
    return []
