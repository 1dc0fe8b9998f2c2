"""Every normalisation of the towers in keras.ops, as plain.py has all else."""

import math
from collections.abc import Callable, Sequence

import keras
from keras import ops

from ..types import Tensor

Root = Callable[[Tensor], Tensor]
Moments = Callable[[Tensor], tuple[Tensor, Tensor]]


def _root(numbers: Tensor) -> Tensor:
    """keras.ops.sqrt turns float64 into float32 on JAX and PyTorch."""
    return numbers**0.5


def layer_norm(inputs: Tensor, gamma: Tensor, beta: Tensor, epsilon: float, root: Root = _root) -> Tensor:
    """Layer normalisation over the last axis, computed in float32 at least. Source: arXiv 1607.06450.

    Args:
        inputs: float (..., channels).
        gamma: float (channels,).
        beta: float (channels,).
        epsilon: added to the variance.
        root: the backend's square root, in the dtype that it is given.

    Returns:
        Float (..., channels), in the dtype of `inputs`.
    """
    dtype = keras.backend.standardize_dtype(inputs.dtype)
    wide = float32_at_least(dtype)
    states, gamma, beta = (ops.cast(array, wide) for array in (inputs, gamma, beta))
    mean, variance = ops.moments(states, axes=-1, keepdims=True)
    scale = gamma * _inverse_root(variance + epsilon, root)
    return ops.cast(states * scale + (beta - mean * scale), dtype)


def batch_norm(
    inputs: Tensor,
    mean: Tensor,
    variance: Tensor,
    gamma: Tensor,
    beta: Tensor,
    epsilon: float,
    root: Root = _root,
) -> Tensor:
    """Batch normalisation over the last axis by given statistics, computed in float32 at least.

    Source: arXiv 1502.03167.

    Args:
        inputs: float (..., channels).
        mean: float (channels,).
        variance: float (channels,).
        gamma: float (channels,).
        beta: float (channels,).
        epsilon: added to the variance.
        root: the backend's square root, in the dtype that it is given.

    Returns:
        Float (..., channels), in the dtype of `inputs`.
    """
    dtype = keras.backend.standardize_dtype(inputs.dtype)
    wide = float32_at_least(dtype)
    mean, variance, gamma, beta = (ops.cast(array, wide) for array in (mean, variance, gamma, beta))
    scale = gamma * _inverse_root(variance + epsilon, root)
    return ops.cast(ops.cast(inputs, wide) * scale + (beta - mean * scale), dtype)


def batch_moments(inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and (biased) variance of each channel over a batch, in float32 at least.

    Args:
        inputs: float (..., channels).

    Returns:
        Two arrays (channels,).
    """
    wide = ops.cast(inputs, float32_at_least(keras.backend.standardize_dtype(inputs.dtype)))
    return ops.moments(wide, axes=list(range(len(inputs.shape) - 1)))


def batch_norm_in_training(
    inputs: Tensor,
    gamma: Tensor,
    beta: Tensor,
    mean: Tensor,
    variance: Tensor,
    momentum: float,
    epsilon: float,
    root: Root = _root,
    moments: Moments = batch_moments,
) -> tuple[Tensor, Tensor, Tensor]:
    """Batch normalisation by the batch's own statistics, and the averages that these move.

    As in PyTorch, a batch is normalised by its biased variance and moves the average by its unbiased one.

    Args:
        inputs: float (..., channels).
        gamma: float (channels,).
        beta: float (channels,).
        mean: float (channels,), the moving average, in float32 at least.
        variance: as `mean`.
        momentum: how much of an average stays, 0 to 1.
        epsilon: added to the variance.
        root: the backend's square root, in the dtype that it is given.
        moments: the backend's `batch_moments`.

    Returns:
        Float (..., channels) in the dtype of `inputs`, and both averages as the batch moves them.
    """
    batch_mean, batch_variance = moments(inputs)
    outputs = batch_norm(inputs, batch_mean, batch_variance, gamma, beta, epsilon, root)
    unbiased = _unbiased(batch_variance, inputs)
    return outputs, _moved(mean, batch_mean, momentum), _moved(variance, unbiased, momentum)


def sum_of_batch_norms_in_training(
    inputs: Tensor,
    signs: Sequence[int],
    factors: Sequence[Tensor | None],
    gammas: Sequence[Tensor],
    betas: Sequence[Tensor],
    means: Sequence[Tensor],
    variances: Sequence[Tensor],
    momentum: float,
    epsilon: float,
    root: Root = _root,
    moments: Moments = batch_moments,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """The sum of several of `batch_norm_in_training`, each of the inputs times a factor of its own for each channel.

    All see the same moments but for the factor, and each multiplies and shifts a channel. So does their sum: images are
    gone through as often as for one of them.

    Args:
        inputs: float (..., channels).
        signs: of each norm 1, or -1 where it is taken away in place of added.
        factors: of each norm (channels,), or None for 1.
        gammas: of each norm (channels,).
        betas: as `gammas`.
        means: of each norm (channels,), the moving average, in float32 at least.
        variances: as `means`.
        momentum: as for `batch_norm_in_training`.
        epsilon: as there.
        root: as there.
        moments: as there.

    Returns:
        Float (..., channels) in the dtype of `inputs`, and of each norm both averages as the batch moves them.
    """
    dtype = keras.backend.standardize_dtype(inputs.dtype)
    batch_mean, batch_variance = moments(inputs)
    wide = keras.backend.standardize_dtype(batch_mean.dtype)
    ones = ops.ones_like(batch_mean)
    columns = [ones if factor is None else factor for factor in factors], gammas, betas, means, variances
    factor, gamma, beta, old_mean, old_variance = (
        ops.stack([ops.cast(array, wide) for array in column]) for column in columns
    )
    mean, variance = batch_mean * factor, batch_variance * factor * factor  # (norms, channels)
    scale = gamma * _inverse_root(variance + epsilon, root)
    sign = ops.convert_to_tensor([[sign] for sign in signs], dtype=wide)
    outputs = ops.cast(inputs, wide) * ops.sum(sign * scale * factor, axis=0)
    outputs = outputs + ops.sum(sign * (beta - mean * scale), axis=0)
    moved = (
        _moved(old_mean, mean, momentum),
        _moved(old_variance, _unbiased(variance, inputs), momentum),
    )
    return ops.cast(outputs, dtype), *([averages[norm] for norm in range(len(factors))] for averages in moved)


def _unbiased(variance: Tensor, inputs: Tensor) -> Tensor:
    """The variance of the inputs that so many numbers are a sample of."""
    dtype = keras.backend.standardize_dtype(variance.dtype)
    numbers = ops.cast(math.prod(ops.shape(inputs)[:-1]), dtype)
    return variance * (numbers / ops.clip(numbers - 1.0, 1.0, float("inf")))


def _moved(average: Tensor, value: Tensor, momentum: float) -> Tensor:
    dtype = keras.backend.standardize_dtype(average.dtype)
    return ops.stop_gradient(average * momentum + ops.cast(value, dtype) * (1.0 - momentum))


def _inverse_root(numbers: Tensor, root: Callable[[Tensor], Tensor]) -> Tensor:
    """1 / sqrt(numbers), with an error that is 0 in the mean.

    TensorFlow's rsqrt is 2e-8 too small in the mean on CPUs, and its graphs make an rsqrt of any division by a root.
    Every layer is then off to the same side, and over a tower that adds up to twice the error of the features.
    """
    return root(numbers) / numbers


def float32_at_least(dtype: str) -> str:
    """A dtype that sums are right in."""
    return "float32" if dtype in ("float16", "bfloat16") else dtype
