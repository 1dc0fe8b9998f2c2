"""What JAX computes in another way than the plain files: on CPUs, where XLA compiles some operations badly."""

import math
import os
from contextlib import AbstractContextManager
from functools import cache
from typing import Any

import jax
import keras
import numpy as np
from jax import lax
from jax import numpy as jnp

from ..types import Tensor
from . import plain, plain_norms, plain_runtime
from .chunks import changes
from .jax_depthwise import sum_of_shifted, with_quick_gradient
from .processor import processor_name

COMPILES_EACH_OPERATION = True

LONGEST_SUM = 512
"""Matrix products on CPUs that add up more terms than this are taken in parts."""

TERMS_OF_PART = 256
"""At most so many terms are added up one after the other in each of those parts."""

FEW_CHANNELS = 4
"""Convolutions of so many channels at most are products of what the kernel sees, in training on CPUs."""

FIRST_WITH_BFLOAT16 = 8.0
"""The first compute capability of NVIDIA's GPUs that multiplies bfloat16."""


def convolve(
    inputs: Any,
    kernel: Any,
    bias: Any = None,
    *,
    strides: int = 1,
    padding: tuple[int, int] = (0, 0),
    depthwise: bool = False,
    training: bool = False,
) -> Tensor:
    """Depthwise on CPUs, compiled: the sum of the shifted input times each of the kernel's taps.

    XLA compiles depthwise kernels for CPUs to code that runs some 25 times slower than the arithmetic takes, and their
    gradients to code that runs hundreds of times slower. The sum is one loop over the output, which XLA vectorises over
    the channels. Run operation by operation it would be slow.

    In training, kernels of one tap and those for few channels are products, of which XLA knows quick gradients.
    """
    options: dict[str, Any] = {"strides": strides, "padding": padding}
    if not compiles_for_cpu() or not isinstance(inputs, jax.core.Tracer) or not (depthwise or training):
        return plain.convolve(inputs, kernel, bias, depthwise=depthwise, **options)
    wide = jnp.promote_types(inputs.dtype, jnp.float32)  # so many terms are not added up in half precision
    taps, channels, filters = math.prod(kernel.shape[:2]), kernel.shape[2], kernel.shape[3]
    if not training:
        outputs = sum_of_shifted(inputs, kernel, strides, padding)
    elif depthwise and taps == 1:
        outputs = jnp.repeat(_patches(inputs, (1, 1), strides, padding), filters, axis=-1) * jnp.reshape(kernel, (-1,))
    elif depthwise:
        outputs = with_quick_gradient(inputs.astype(wide), kernel.astype(wide), strides, padding).astype(inputs.dtype)
    elif taps == 1 or channels <= FEW_CHANNELS:
        outputs = dense(_patches(inputs, kernel.shape[:2], strides, padding), jnp.reshape(kernel, (-1, filters)))
    else:
        outputs = plain.convolve(inputs, kernel, **options)
    return outputs if bias is None else outputs + bias


def _patches(inputs: Any, size: tuple[int, int], strides: int, padding: tuple[int, int]) -> Any:
    """What a kernel of some size sees at each of its places, tap by tap.

    Args:
        inputs: float (batch, height, width, channels).
        size: (height, width) of the kernel.
        strides: as for `convolve`.
        padding: as for `convolve`.

    Returns:
        Float (batch, new height, new width, height x width x channels of the kernel).
    """
    (tall, wide), (rows, columns) = size, padding
    height, width = (
        (length + 2 * pad - taps) // strides + 1
        for length, pad, taps in zip(inputs.shape[1:3], padding, size, strict=True)
    )
    padded = jnp.pad(inputs, [(0, 0), (rows, rows), (columns, columns), (0, 0)])
    seen = [
        padded[:, y : y + strides * (height - 1) + 1 : strides, x : x + strides * (width - 1) + 1 : strides]
        for y in range(tall)
        for x in range(wide)
    ]
    return seen[0] if len(seen) == 1 else jnp.concatenate(seen, axis=-1)


@cache
def compiles_for_cpu() -> bool:
    """Whether XLA compiles for CPUs what layers compute."""
    return keras.distribution.list_devices()[0].startswith("cpu")


def dense(inputs: Any, kernel: Any, bias: Any = None, activation: Any = None) -> Tensor:
    """On CPUs, a long product is the sum of shorter ones, but where a gradient is asked for.

    On processors without AVX-512, XLA adds up one term after the other. The errors of the longest products, at the end
    of each feed-forward, made features 1.8 times as wrong as PyTorch's, whose library adds up in parts, too. Shorter
    products are left whole: their kernels would be copied, which takes as long as one text.

    Of two dimensions: for the gradient of a kernel XLA would copy inputs that have more.
    """
    if not compiles_for_cpu():
        return plain.dense(inputs, kernel, bias, activation)
    rows = jnp.reshape(inputs, (-1, kernel.shape[0]))
    outputs = _product_in_parts(rows, kernel) if kernel.shape[0] > LONGEST_SUM else rows @ kernel
    outputs = jnp.reshape(outputs, (*inputs.shape[:-1], kernel.shape[1]))
    if bias is not None:
        outputs = outputs + bias
    return outputs if activation is None else activation(outputs)


@jax.custom_jvp
def _product_in_parts(rows: Any, kernel: Any) -> Any:
    starts = range(0, kernel.shape[0], TERMS_OF_PART)
    parts = [rows[:, i : i + TERMS_OF_PART] @ kernel[i : i + TERMS_OF_PART] for i in starts]
    return sum(parts[1:], start=parts[0])


@_product_in_parts.defjvp
def _product_to_train_with(primals: Any, tangents: Any) -> Any:
    """One product where a gradient is asked for: weights that move need no sums that are so exact."""
    (rows, kernel), (rows_moved, kernel_moved) = primals, tangents
    return rows @ kernel, rows_moved @ kernel + rows @ kernel_moved


@jax.custom_jvp
def gelu(inputs: Any) -> Tensor:
    return plain.gelu(inputs)


@gelu.defjvp
def _gelu_and_slope(primals: Any, tangents: Any) -> Any:
    """The slope from the inputs alone. XLA would keep the error function, and so go through the inputs once more.

    It would see that both are the same function, were it not of the negated inputs here.
    """
    (inputs,), (moved,) = primals, tangents
    below = 0.5 - 0.5 * lax.erf(inputs * -math.sqrt(0.5))
    density = jnp.exp(inputs * inputs * -0.5) * (1 / math.sqrt(2 * math.pi))
    return gelu(inputs), moved * (below + inputs * density)


def batch_moments(inputs: Any) -> tuple[Tensor, Tensor]:
    return _moments(inputs.astype(jnp.promote_types(inputs.dtype, jnp.float32)))


@jax.custom_jvp
def _moments(inputs: Any) -> tuple[Tensor, Tensor]:
    return plain_norms.batch_moments(inputs)


@_moments.defjvp
def _moments_and_slopes(primals: Any, tangents: Any) -> Any:
    """What a variance changes by the mean adds up to 0. XLA would add it up."""
    (inputs,), (moved,) = primals, tangents
    mean, variance = _moments(inputs)
    axes = tuple(range(inputs.ndim - 1))
    return (mean, variance), (jnp.mean(moved, axes), 2.0 * jnp.mean((inputs - mean) * moved, axes))


def batch_norm_in_training(*arguments: Any, **options: Any) -> tuple[Tensor, Tensor, Tensor]:
    return plain_norms.batch_norm_in_training(*arguments, **{**options, "moments": batch_moments})


def sum_of_batch_norms_in_training(*arguments: Any, **options: Any) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    return plain_norms.sum_of_batch_norms_in_training(*arguments, **{**options, "moments": batch_moments})


def in_chunks(run: Any, weights: Any, state: Any, rows: Any, size: int) -> tuple[Tensor, dict[int, Tensor]]:
    """A scan, so that the function is compiled once for all chunks of one size, of which there are at most two.

    A scan keeps what it hands on, once for each chunk. So only what the function changes is handed on. It also
    copies what it goes through, which are numbers here, by which the rows of a chunk are looked up.
    """
    count = -(-rows.shape[0] // size)
    least, longer = divmod(rows.shape[0], count)
    even = jnp.reshape(rows[: least * count], (least, count, *rows.shape[1:]))
    last = rows[least * count :]  # one more for each of the first chunks
    changing = _changing(run, weights, state, even[:, 0])

    def chunk(index: Any) -> Any:
        return lax.dynamic_index_in_dim(even, index, axis=1, keepdims=False)

    def longer_chunk(index: Any) -> Any:
        return jnp.concatenate([chunk(index), lax.dynamic_index_in_dim(last, index)])

    def scan(rows_of: Any, moving: Any, indices: Any) -> Any:
        @jax.checkpoint
        def step(moving: Any, index: Any) -> Any:
            now = [*state]
            for place, value in zip(changing, moving, strict=True):
                now[place] = value
            part, after = run(weights, now, rows_of(index))
            return [lax.stop_gradient(after[place]) for place in changing], part

        return lax.scan(step, moving, indices)

    moving, parts = [state[place] for place in changing], []
    if longer:
        moving, part = scan(longer_chunk, moving, jnp.arange(longer))
        parts, last_part = [part[:, :least]], part[:, least]
    if longer < count:
        moving, part = scan(chunk, moving, jnp.arange(longer, count))
        parts.append(part)
    results = jnp.reshape(jnp.concatenate(parts).swapaxes(0, 1), (least * count, *parts[0].shape[2:]))
    if longer:
        results = jnp.concatenate([results, last_part])
    return results, dict(zip(changing, moving, strict=True))


def recomputed(run: Any, weights: Any, state: Any, inputs: Any) -> tuple[Tensor, dict[int, Tensor]]:
    """By a gradient of its own. On CPUs XLA sees through `jax.checkpoint`, and keeps what it would compute again."""
    places: list[int] = []

    def call(weights: Any, state: Any, inputs: Any) -> Any:
        results, after = run(weights, state, inputs)
        changed = changes(state, after)
        places[:] = changed
        return results, [*changed.values()]

    def forward(*arguments: Any) -> Any:
        return call(*arguments), arguments

    def backward(kept: Any, upstream: Any) -> Any:
        weights, state, inputs = kept
        # Nothing that depends on the gradient can be what was computed before. 0, unless it is not a number.
        first = upstream[0].ravel()[0]
        inputs = inputs + jnp.where(first == first, 0.0, jnp.nan).astype(inputs.dtype)
        of_weights, of_inputs = jax.vjp(lambda w, x: call(w, state, x)[0], weights, inputs)[1](upstream[0])
        return of_weights, None, of_inputs

    differentiable = jax.custom_vjp(call)
    differentiable.defvjp(forward, backward)
    results, changed = differentiable(weights, state, inputs)
    return results, {place: lax.stop_gradient(value) for place, value in zip(places, changed, strict=True)}


def _changing(run: Any, weights: Any, state: Any, rows: Any) -> list[int]:
    """Which of the state a function changes."""
    places: list[int] = []

    def watched(*arguments: Any) -> Any:
        part, after = run(*arguments)
        places.extend(changes(arguments[1], after))
        return part

    jax.eval_shape(watched, weights, state, rows)
    return places


def exp(inputs: Any) -> Tensor:
    """keras.ops.exp turns float64 into float32."""
    return jnp.exp(inputs)


def float64_is_kept() -> bool:
    """JAX turns float64 into float32 unless told otherwise."""
    return jax.dtypes.canonicalize_dtype("float64") == np.float64


def float64_enabled() -> AbstractContextManager[Any]:
    return jax.enable_x64(True)


def full_float32() -> AbstractContextManager[Any]:
    """What is compiled within is compiled anew; what was compiled before stays for outside."""
    return jax.default_matmul_precision("highest")


def precision_switches() -> dict[str, str]:
    return {
        "jax_default_matmul_precision": str(jax.config.jax_default_matmul_precision),
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
    }


def device_name() -> str:
    device = jax.devices()[0]
    return processor_name() if device.platform == "cpu" else device.device_kind


def half_precisions() -> tuple[str, ...]:
    """On CPUs none: XLA converts to float32 and back, whatever the processor has."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        return ()
    if device.platform == "tpu":
        return ("bfloat16",)
    capability = str(getattr(device, "compute_capability", "0"))
    return ("bfloat16", "float16") if float(capability) >= FIRST_WITH_BFLOAT16 else ("float16",)


def is_on_host(variable: keras.Variable) -> bool:
    return {device.platform for device in variable.value.devices()} == {"cpu"}


def copy_value(source: keras.Variable, target: keras.Variable) -> None:
    """Keras would hand over the array itself. `fit` and `predict` of one model then delete the other's: they donate."""
    value = np.asarray(source.value) if is_on_host(source) else source.value
    target.assign(jnp.array(value, dtype=target.dtype, copy=True))


def hand_over(variable: keras.Variable, array: np.ndarray) -> None:
    variable.assign(plain_runtime.tensor(array))


def view(variable: keras.Variable) -> np.ndarray | None:
    return np.asarray(variable.value) if is_on_host(variable) else None
