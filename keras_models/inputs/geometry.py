"""Where "resize the shortest side, then crop the centre" puts an image's pixels.

Follows torchvision's `Resize(size)` and `CenterCrop(size)` (torchvision/transforms/functional.py, 0.29),
roundings included. Both functions take integers, or whole numbers in float64 tensors.
"""

from typing import Any


def resized_size(height: Any, width: Any, shortest: Any, target: int) -> tuple[Any, Any]:
    """(height, width) once the `shortest` side is `target`; the other side is rounded down."""
    return target * height // shortest, target * width // shortest


def centre_offset(side: Any, target: int) -> Any:
    """First of the `target` middle pixels of `side`; a half is rounded to even, as `round` does."""
    half = (side - target) // 2
    return half + (side - target) % 2 * (half % 2)
