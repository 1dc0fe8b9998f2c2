"""What a device computes float32 in when nobody asks for anything."""

from typing import Any

import keras
import numpy as np

from .. import kernels

FLOAT32_BITS = 23
"""Bits of a float32 number behind the first. TF32 has 10 of them, bfloat16 7."""

_SIZE = 256
"""Of the probe's matrices: GPUs compute small ones without TF32."""


def kept_bits() -> int:
    """How many bits of what they multiply products and convolutions keep, FLOAT32_BITS in full float32.

    Each row of a matrix is 1 plus a power of 2, once. Times 1 that is itself, unless it was rounded before.
    """
    bits = np.arange(_SIZE) % FLOAT32_BITS + 1
    matrix = np.diag(1 + 0.5**bits).astype(np.float32)
    ones = np.eye(_SIZE, dtype=np.float32)
    product = kernels.dense(*map(keras.ops.convert_to_tensor, (matrix, ones)))
    pixels, kernel = matrix.reshape(1, 16, 16, _SIZE), np.zeros((3, 3, _SIZE, _SIZE), np.float32)
    kernel[1, 1] = ones
    convolved = kernels.convolve(*map(keras.ops.convert_to_tensor, (pixels, kernel)), padding=(1, 1))
    found: list[Any] = [keras.ops.convert_to_numpy(x).reshape(_SIZE, _SIZE) for x in (product, convolved)]
    changed = [bits[np.diagonal(x) != np.diagonal(matrix)] for x in found]
    return int(min((FLOAT32_BITS + 1, *np.concatenate(changed)))) - 1
