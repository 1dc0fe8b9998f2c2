"""How a program is written that another runtime will run: the same function, in the operations that are fast there.

TensorFlow traces what is exported. Its kernels ask `current()`; run by TensorFlow itself, they follow the default.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Formulation:
    """What a runtime is fast at. The defaults are TensorFlow's.

    Attributes:
        dense_as_convolution: whether dense layers over images are 1 x 1 convolutions. Runtimes that keep channels first
            would else turn every image around before and after: twice the time of S0's image tower in ONNX Runtime
            with 8 images, 1.4 times in OpenVINO.
        most_taps: how many numbers a depthwise kernel may have; larger ones are computed in parts. None for any number.
            XNNPACK, which computes for LiteRT, has fast programs for up to 25: a 7 x 7 kernel in three parts takes a
            ninth of the time.
        norm_of_distances: whether a layer norm divides the distances from the mean by their root mean square, as in the
            paper, in place of one factor and one sum for each row. So converters know it: ONNX has one operation for
            it, OpenVINO one for all but gamma and beta, in place of five.
        scaled: what attention multiplies by its scale. TensorFlow is fastest with "queries". ONNX Runtime scales
            "scores" within the product that makes them. OpenVINO multiplies weights, once, by what their products are
            multiplied by; that has to be all that is "packed", keys and values by 1.
        one_without_batch: whether the attention of one input has no axis for the batch. ONNX Runtime then multiplies
            heads where they lie. With four dimensions it copies queries, keys and values into another order first.
    """

    dense_as_convolution: bool = False
    most_taps: int | None = None
    norm_of_distances: bool = False
    scaled: Literal["queries", "scores", "packed"] = "queries"
    one_without_batch: bool = False


TENSORFLOW = Formulation()
_current: ContextVar[Formulation] = ContextVar("formulation", default=TENSORFLOW)


def current() -> Formulation:
    """The one that programs are traced by now."""
    return _current.get()


@contextmanager
def formulated(formulation: Formulation) -> Iterator[None]:
    """Within this context, TensorFlow's programs are written for another runtime."""
    token = _current.set(formulation)
    try:
        yield
    finally:
        _current.reset(token)


Part = tuple[slice, slice, tuple[int, int]]
"""Rows and columns of a kernel, and how far apart they lie."""


def parts_of_depthwise(
    formulation: Formulation, size: tuple[int, int], strides: int, padding: tuple[int, int]
) -> list[Part]:
    """The parts that a depthwise kernel is computed in; one that is computed whole has none.

    Args:
        formulation: of the program.
        size: rows and columns of the kernel.
        strides: of the convolution.
        padding: rows and columns of zeros at each side.
    """
    keeps_size = strides == 1 and (2 * padding[0] + 1, 2 * padding[1] + 1) == size
    if formulation.most_taps is None or not keeps_size:
        return []
    parts = parts_of_kernel(*size, formulation.most_taps)
    return parts if len(parts) > 1 else []


def parts_of_kernel(rows: int, columns: int, most: int) -> list[Part]:
    """Parts of a kernel of odd sides, each centred where the whole is, so that none needs another padding.

    The two outer rows are one part, the two outer columns another, the middle is the next kernel.

    Args:
        rows: of the kernel.
        columns: of the kernel.
        most: numbers of the middle part; the kernel is one part where it has no more, or cannot be split.
    """
    found: list[Part] = []
    edge = 0
    while (rows - 2 * edge) * (columns - 2 * edge) > most and min(rows, columns) - 2 * edge >= 3:
        top, bottom, left, right = edge, rows - 1 - edge, edge, columns - 1 - edge
        found.append((slice(top, bottom + 1, bottom - top), slice(left, right + 1), (bottom - top, 1)))
        found.append((slice(top + 1, bottom), slice(left, right + 1, right - left), (1, right - left)))
        edge += 1
    return [(slice(edge, rows - edge), slice(edge, columns - edge), (1, 1)), *found]
