"""Rounding one input after the other, each time moving the weights that are still floats to make up for the error.

"GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", arXiv 2210.17323, section 3.
"""

import numpy as np

from .rounding import rounded, to_integers

DAMPING = 0.01
"""Of the mean of the moments, added to each input's own: what was not seen is not trusted."""
BLOCK = 128
"""Inputs whose errors reach the rest together."""


def compensated(kernel: np.ndarray, moment: np.ndarray, bits: int) -> np.ndarray:
    """A dense layer's kernel on the levels that `rounded` would give it, with less error in what the layer puts out.

    A convolution is a dense layer whose inputs are all that its kernel covers.

    Args:
        kernel: float32 (inputs, outputs).
        moment: (inputs, inputs): the sum of the products of two inputs.
        bits: of a level.

    Returns:
        Float32 of the same shape. Each output has a number at its outermost level.
    """
    levels = 2 ** (bits - 1) - 1
    _, scale = to_integers(rounded(kernel, (1,), bits), (1,), bits)
    order = np.argsort(-np.diag(moment), kind="stable")
    rest, spread = kernel[order].astype(np.float64), _spread(moment[np.ix_(order, order)])
    integers = np.empty_like(rest)
    for start in range(0, len(rest), BLOCK):
        rows = slice(start, min(start + BLOCK, len(rest)))
        block, errors = rest[rows], np.empty_like(rest[rows])
        within = spread[rows, rows]
        for place in range(len(block)):
            whole = np.clip(np.rint(block[place] / scale), -levels, levels)
            integers[start + place] = whole
            errors[place] = (block[place] - whole * scale) / within[place, place]
            block[place + 1 :] -= np.outer(within[place, place + 1 :], errors[place])
        rest[rows.stop :] -= spread[rows, rows.stop :].T @ errors
    made = np.empty_like(kernel)
    made[order] = _to_the_end(integers, levels).astype(np.float32) * scale
    return made


def _spread(moment: np.ndarray) -> np.ndarray:
    """The upper Cholesky factor of the inverse: how an input's error is made up for by the inputs behind it."""
    damped = moment.astype(np.float64)
    damped[np.diag_indices_from(damped)] += DAMPING * np.diag(damped).mean() + 1e-30
    return np.linalg.cholesky(np.linalg.inv(damped)).T


def _to_the_end(integers: np.ndarray, levels: int) -> np.ndarray:
    """Moves each output's outermost number to the outermost level, so that a file can read the scale off it."""
    outermost = np.abs(integers).argmax(0)
    columns = np.arange(integers.shape[1])
    signs = np.sign(integers[outermost, columns])
    integers[outermost, columns] = np.where(signs == 0, 0, signs * levels)
    return integers
