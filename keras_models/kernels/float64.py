"""Float64 that stays float64."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import keras
from keras.src.backend.common import dtypes


def kept(dtype: str) -> AbstractContextManager[None]:
    """Within this context, what is computed in `dtype` keeps it; only for float64 is anything to be done.

    On JAX and PyTorch, Keras' type promotion narrows the results of matrix products, means and normalisations from
    float64 to float32, whatever the dtype policy of a layer says. There is no public switch for it.

    Raises:
        ValueError: for float64 on JAX where JAX itself has been left to turn it into float32, as it does by default.
    """
    if dtype != "float64" or keras.backend.backend() == "tensorflow":
        return nullcontext()
    if keras.backend.backend() == "jax" and _dtype_of(keras.ops.ones((), dtype="float64")) != "float64":
        raise ValueError("JAX computes in float32 unless told otherwise: set JAX_ENABLE_X64=1 for a float64 model.")
    return _float64_kept()


def _dtype_of(tensor: Any) -> str:
    return keras.backend.standardize_dtype(tensor.dtype)


@contextmanager
def _float64_kept() -> Iterator[None]:
    narrowed = dtypes.BIT64_TO_BIT32_DTYPE
    dtypes.BIT64_TO_BIT32_DTYPE = {**narrowed, "float64": "float64"}
    try:
        yield
    finally:
        dtypes.BIT64_TO_BIT32_DTYPE = narrowed
