"""Refusing float64 where a backend would compute it in float32."""

from . import float64_is_kept


def check_float64(dtype: str) -> None:
    """Refuses a float64 model that would silently compute in float32.

    Args:
        dtype: what a model computes in.

    Raises:
        ValueError: for float64 on JAX as it is by default.
    """
    if dtype == "float64" and not float64_is_kept():
        raise ValueError("JAX computes in float32 unless told otherwise: set JAX_ENABLE_X64=1 for a float64 model.")
