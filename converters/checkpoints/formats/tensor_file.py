"""What is known of a checkpoint file, whatever its format, before its arrays are read."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ....keras_models.errors import MobileClipError
from ....keras_models.shown import shown_name


class CheckpointError(MobileClipError):
    """A file cannot be read as a checkpoint; the message says why."""


@dataclass
class TensorFile:
    """The tensors of a file, or of one place in it, none of them read yet.

    Attributes:
        shapes: of each tensor, by its name in the file.
        dtypes: of each tensor, as in the file ("float32", "bfloat16", "int64", ...).
        read: gives one tensor; half-precision floats as float32.
        notes: what is odd about the file, in words.
        place: the keys under which the tensors lie in the file, joined by "/"; "" where they lie at the top.
        numbers: the plain numbers that lie beside the tensors, by name.
    """

    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]
    read: Callable[[str], np.ndarray]
    notes: list[str] = field(default_factory=list)
    place: str = ""
    numbers: dict[str, float] = field(default_factory=dict)


def first_line(error: Exception) -> str:
    """What an error says, on one line."""
    lines = str(error).strip().splitlines()
    return shown_name(lines[0].rstrip(".")) if lines else type(error).__name__
