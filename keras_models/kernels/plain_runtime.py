"""What is no arithmetic, as every backend can do it: dtypes, compiling, the device, and variables' memory.

`plain.py` says what the towers compute. As there, a backend whose own file has a function of the same name uses that.
What NumPy and a backend share is in memory.py.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import keras
import numpy as np
from keras import ops

from ..types import Tensor
from .processor import processor_name, processor_precisions

COMPILES_EACH_OPERATION = False
"""Whether an operation outside a compiled program is compiled on its own, for each shape."""

COMPILES_IN_SECONDS = True
"""Whether a tower is compiled in the time that a few batches take."""

XLA_IS_FAST = True
"""Whether Keras should compile by XLA what it trains or predicts with."""


def float64_is_kept() -> bool:
    """Whether the backend computes float64 in float64."""
    return True


def float64_enabled() -> AbstractContextManager[Any]:
    """Within this context, in this thread, the backend computes float64 in float64."""
    return nullcontext()


def full_float32() -> AbstractContextManager[Any]:
    """Within this context, float32 products and convolutions are computed in float32.

    GPUs round what they multiply to TF32's 10 bits where a backend lets them, which is the default of most.
    """
    return nullcontext()


def without_gradients() -> AbstractContextManager[Any]:
    """Within this context the backend keeps nothing for a gradient of what it runs."""
    return nullcontext()


def precision_switches() -> dict[str, str]:
    """The backend's switches that let float32 be computed with fewer bits, and their present settings."""
    return {}


def device_name() -> str:
    """What the backend computes on: the GPU's own name, or the processor's."""
    return processor_name()


def half_precisions() -> tuple[str, ...]:
    """The half precisions, of "bfloat16" and "float16", that the device multiplies in."""
    return processor_precisions()


def compiled(
    model: keras.Model, thorough: bool = False
) -> tuple[str, Callable[[dict[str, np.ndarray]], dict[str, Any]]] | None:
    """The compiled program that people run a model of dicts by, and what they call it; None where there is none.

    Args:
        model: from a dict of arrays to a dict of arrays.
        thorough: whether the backend may take minutes to compile.
    """
    return "predict", model.predict_on_batch


def export_saved_model(model: Any, folder: Any, input_signature: Any, verbose: bool | None = None) -> None:
    """Writes a model as a TensorFlow SavedModel whose `serve` is the model's call in inference.

    Args:
        model: a keras.Model.
        folder: where to write.
        input_signature: shapes and dtypes of the inputs.
        verbose: whether to say what was written.
    """
    keras.Model.export(model, folder, "tf_saved_model", verbose, input_signature)


def short_variable_names() -> AbstractContextManager[Any]:
    """Within this context the backend's own names of new variables may be short. Keras' paths stay whole."""
    return nullcontext()


def is_on_host(variable: keras.Variable) -> bool:
    """Whether a variable's value lies in the host's memory."""
    return True


def tensor(array: np.ndarray) -> Tensor:
    """A tensor of an array of `memory.empty` or `memory.zeros`. It may share the array's memory."""
    return ops.convert_to_tensor(array, dtype=str(array.dtype))


def copy_value(source: keras.Variable, target: keras.Variable) -> None:
    """Gives a variable the value of another, in its own dtype. They share no memory afterwards."""
    target.assign(source)


def hand_over(variable: keras.Variable, array: np.ndarray) -> None:
    """Assigns an array of `memory.empty`, of the variable's shape and dtype. Nobody may write to it afterwards."""
    variable.assign(array)


def lay_out_as_convolved(kernel: keras.Variable, depthwise: bool) -> None:
    """Lays a convolution's kernel out in memory as the backend convolves with it. Its shape and numbers stay.

    Args:
        kernel: as for `convolve`.
        depthwise: as for `convolve`.
    """


def variables_changed(model: keras.Model) -> None:
    """Tells the backend that layers of a built model have other variables now."""


def view(variable: keras.Variable) -> np.ndarray | None:
    """The variable's value for reading at once, without a copy; None where that cannot be had."""
    return None


def weight(variable: Tensor) -> Tensor:
    """A variable as a tensor to compute with. A tensor, such as a kernel with adapters, comes back as it is."""
    return ops.convert_to_tensor(variable)


def update_by_adamw(
    optimizer: Any,
    gradients: list[Tensor],
    variables: list[keras.Variable],
    momentums: list[keras.Variable],
    velocities: list[keras.Variable],
    decayed: list[bool],
) -> bool:
    """A step of AdamW over all variables at once. Source: arXiv 1711.05101, algorithm 2.

    Args:
        optimizer: the `AdamW` of training/optimizer.py, with its rates and constants. Epsilon stands beside the root of
            the uncorrected average, as in Keras. `steps_taken` is the number of steps so far, or None.
        gradients: of the variables.
        variables: to be changed.
        momentums: averages of gradients, to be changed.
        velocities: averages of squared gradients, to be changed.
        decayed: which variables the weight decay shrinks.

    Returns:
        Whether it was done. Where not, Keras' own way remains.
    """
    return False
