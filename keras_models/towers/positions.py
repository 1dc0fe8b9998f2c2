"""Position embeddings for image sizes other than the one that they were trained for."""

from typing import Any

from keras import ops

from ..types import Tensor


def resize_positions(positions: Tensor, old: tuple[int, int], new: tuple[Any, Any], before: int = 0) -> Tensor:
    """Resamples a grid of position embeddings by antialiased bicubic interpolation.

    Written as two matrix products, so that every backend gives the same values and a size that is known only at
    run time works. The kernel is Keys' cubic with a = -0.5, widened when shrinking, with rows normalised to one:
    what Pillow and PyTorch's antialiased bicubic compute.

    Args:
        positions: float (1, before + rows * columns, width).
        old: (rows, columns) of the grid that `positions` holds.
        new: (rows, columns) wanted; integers, or scalar tensors where unknown.
        before: how many positions stand before the grid, and stay as they are.

    Returns:
        Float (1, before + new rows * new columns, width).
    """
    if all(isinstance(size, int) for size in new) and tuple(new) == tuple(old):
        return positions
    width = positions.shape[-1]
    grid = ops.reshape(positions[:, before:], (old[0], old[1], width))
    grid = ops.einsum("yr,rcw->ycw", _weights(old[0], new[0], positions.dtype), grid)
    grid = ops.einsum("xc,ycw->yxw", _weights(old[1], new[1], positions.dtype), grid)
    grid = ops.reshape(grid, (1, new[0] * new[1], width))
    return ops.concatenate([positions[:, :before], grid], axis=1) if before else grid


def _weights(old: int, new: Any, dtype: Any) -> Tensor:
    """(new, old): how much of each old position goes into each new one."""
    source = ops.cast(ops.arange(old), dtype) + 0.5
    scale = old / ops.cast(new, dtype)
    centre = (ops.cast(ops.arange(new), dtype) + 0.5) * scale
    distance = ops.abs(source[None, :] - centre[:, None]) / ops.clip(scale, 1.0, float("inf"))
    near = (1.5 * distance - 2.5) * distance * distance + 1.0
    far = ((-0.5 * distance + 2.5) * distance - 4.0) * distance + 2.0
    kernel = ops.where(distance < 1.0, near, ops.where(distance < 2.0, far, 0.0))
    return kernel / ops.sum(kernel, axis=1, keepdims=True)
