"""Depthwise convolutions on CPUs by JAX, as sums of shifted inputs, with a gradient that compiles in half a second.

Measured for 4 images of 64 x 64 pixels and 64 channels, with a kernel of 7 x 7 pixels, strides of 2 and a multiplier of
2: XLA's own gradient takes 12 s to compile and 15 s to run, this one 0.5 and 0.05 s, PyTorch's 0.07 s to run.
"""

import math
from functools import partial
from typing import Any

import jax
from jax import lax
from jax import numpy as jnp

ROWS_TOGETHER = 8
"""So many rows, of as many images as divide a batch, are added up at once in the gradient of a kernel."""


def sum_of_shifted(inputs: Any, kernel: Any, strides: int, padding: tuple[int, int]) -> Any:
    """A depthwise convolution, without bias. Arguments are those of `convolve`."""
    height, width = (
        (size + 2 * pad - length) // strides + 1
        for size, pad, length in zip(inputs.shape[1:3], padding, kernel.shape[:2], strict=True)
    )
    rows, columns = padding
    padded = _repeated(jnp.pad(inputs, [(0, 0), (rows, rows + strides), (columns, columns), (0, 0)]), kernel)
    return _sum(padded, kernel, strides, height, width)


def _sum(padded: Any, kernel: Any, strides: int, height: int, width: int) -> Any:
    """The sum over the kernel's taps. `padded` has a row more than is needed for each step, which is dropped.

    Without it the middle one of the shifted inputs would be the input itself, which XLA would compute anew, and with it
    all that is added up along a residual path.
    """
    tall, wide = kernel.shape[:2]
    taps = jnp.reshape(kernel, (tall, wide, -1))
    total: Any = 0.0
    for y in range(tall):
        for x in range(wide):
            seen = padded[:, y : y + strides * height + 1 : strides, x : x + strides * (width - 1) + 1 : strides]
            total = total + seen * taps[y, x]
    return total[:, :height]


def _repeated(inputs: Any, kernel: Any) -> Any:
    """Each channel as many times as it has filters."""
    multiplier = kernel.shape[-1]
    return inputs if multiplier == 1 else jnp.repeat(inputs, multiplier, axis=-1)


def _image_by_image(convolve: Any, images: Any) -> Any:
    """In a loop: XLA would compute a sum anew for each of the operations that follow it, and a loop it computes once.

    One image at a time stays in the processor's cache, from padding to sum.
    """
    found = lax.map(convolve, images[:, None])
    return jnp.reshape(found, (images.shape[0], *found.shape[2:]))


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def with_quick_gradient(inputs: Any, kernel: Any, strides: int, padding: tuple[int, int]) -> Any:
    """`sum_of_shifted` for training. What JAX makes of its gradient takes minutes to compile."""
    return _image_by_image(lambda images: sum_of_shifted(images, kernel, strides, padding), inputs)


def _forward(inputs: Any, kernel: Any, strides: int, padding: tuple[int, int]) -> tuple[Any, tuple[Any, Any]]:
    return with_quick_gradient(inputs, kernel, strides, padding), (inputs, kernel)


def _backward(strides: int, padding: tuple[int, int], kept: tuple[Any, Any], gradient: Any) -> tuple[Any, Any]:
    inputs, kernel = kept
    return (
        _image_by_image(
            lambda images: _gradient_of_inputs(images, kernel, inputs.shape[1:3], strides, padding), gradient
        ),
        _gradient_of_kernel(gradient, inputs, kernel, strides, padding),
    )


with_quick_gradient.defvjp(_forward, _backward)


def _gradient_of_inputs(
    gradient: Any, kernel: Any, size: tuple[int, int], strides: int, padding: tuple[int, int]
) -> Any:
    """The convolution of the gradient, strides - 1 zeros between its pixels, with the kernel turned by half a turn."""
    margins = []
    for length, pad, taps, extra, found in zip(
        size, padding, kernel.shape[:2], (1, 0), gradient.shape[1:3], strict=True
    ):
        before, spread = taps - 1 - pad, strides * (found - 1) + 1
        margins.append((before, length + taps - 1 - before - spread + extra, strides - 1))
    spread_out = lax.pad(gradient, jnp.zeros((), gradient.dtype), [(0, 0, 0), *margins, (0, 0, 0)])
    found = _sum(spread_out, kernel[::-1, ::-1], 1, *size)
    channels, multiplier = kernel.shape[2:]
    return found if multiplier == 1 else found.reshape(*found.shape[:3], channels, multiplier).sum(-1)


def _gradient_of_kernel(gradient: Any, inputs: Any, kernel: Any, strides: int, padding: tuple[int, int]) -> Any:
    """Of each tap, the sum of the input that it saw times the gradient.

    Row by row, added up for each column on its own: what is added to stays in the processor's cache, where a sum for
    each tap would go through both images as often as there are taps. With 8 images of 64 x 64 pixels, 64 channels and
    7 x 7 taps that takes 10 ms in place of 35; PyTorch takes 13 for both gradients.
    """
    (tall, wide), (rows, columns) = kernel.shape[:2], padding
    images, height, width, channels = gradient.shape
    padded = _repeated(jnp.pad(inputs, [(0, 0), (rows, rows), (columns, columns), (0, 0)]), kernel)
    together = math.gcd(images, ROWS_TOGETHER)
    count = math.gcd(height, ROWS_TOGETHER // together)  # rows of each image
    reach = strides * (count - 1) + tall

    def add_rows(total: Any, place: Any) -> tuple[Any, None]:
        image, row = together * (place * count // height), place * count % height
        upstream = lax.dynamic_slice(gradient, (image, row, 0, 0), (together, count, width, channels))
        seen = lax.dynamic_slice(padded, (image, strides * row, 0, 0), (together, reach, *padded.shape[2:]))

        def of_column(x: int) -> Any:
            shifted = seen[:, :, x : x + strides * (width - 1) + 1 : strides]
            terms = [
                shifted[i, strides * y : strides * y + tall] * upstream[i, y]
                for i in range(together)
                for y in range(count)
            ]
            return sum(terms[1:], start=terms[0])

        return total + jnp.stack([of_column(x) for x in range(wide)], axis=1), None

    zeros = jnp.zeros((tall, wide, width, channels), gradient.dtype)
    total, _ = lax.scan(add_rows, zeros, jnp.arange(images // together * height // count))
    return total.sum(2).reshape(kernel.shape)
