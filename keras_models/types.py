"""Names for what Keras has no types of."""

from typing import Any

Tensor = Any
"""An array of whatever backend Keras runs on, or a symbolic one."""

Shape = tuple[Any, ...]
"""Sizes of an array's axes; None where unknown."""
