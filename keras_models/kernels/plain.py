"""Every operation of the towers in keras.ops: the readable truth, which each backend's own way must equal.

A backend whose own file has a function of the same name computes by that one; tests/test_kernels.py compares the two,
forward and gradient, eager and compiled.

On JAX and PyTorch, Keras' type promotion turns float64 into float32 in some of its operations (`matmul` on PyTorch,
`mean`, `sqrt`, `exp` and `maximum` on both). Operators such as `@` and `**` stand in for them here. So a float64 model
computes in float64, which the verification relies on.
"""

import math
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from ..types import Tensor
from .chunks import changes, interleaved
from .plain_norms import float32_at_least

Picks = Tensor | slice
"""Which positions are wanted; see `at`."""

TERMS_OF_GROUP = 64
"""`dense_of_vectors` adds up at most so many products one after the other."""

SMALLEST_GROUP = 8
"""Many smaller groups would be one long sum again."""

MASKED = -30_000.0
"""Added to the scores of positions that are not to be seen. e to the power of it is 0 in every dtype, float16 holds it,
and 0 times it is 0, where 0 times infinity would not be."""


def gelu(inputs: Tensor) -> Tensor:
    """GELU with the error function. Its tanh approximation is off by up to 5e-4.

    Source: GELU (arXiv 1606.08415).
    """
    half = inputs * 0.5
    return half + half * ops.erf(inputs * math.sqrt(0.5))


def convolve(
    inputs: Tensor,
    kernel: Tensor,
    bias: Tensor | None = None,
    *,
    strides: int = 1,
    padding: tuple[int, int] = (0, 0),
    depthwise: bool = False,
    training: bool = False,
) -> Tensor:
    """A convolution that pads both sides alike with zeros, as PyTorch does.

    Args:
        inputs: float (batch, height, width, channels).
        kernel: float (kernel height, kernel width, channels, filters); where depthwise, (kernel height, kernel
            width, channels, multiplier).
        bias: float (filters,), or None.
        strides: step in both directions.
        padding: (rows above and below, columns left and right).
        depthwise: whether each channel is convolved on its own. Output channel c * multiplier + m then comes from
            input channel c.
        training: whether a gradient will be asked for. It is right in any case; a backend may choose a way whose
            gradient compiles faster.

    Returns:
        Float (batch, new height, new width, filters).
    """
    if strides > 1 and tuple(kernel.shape[:2]) == (1, 1) and not any(padding):
        # oneDNN's backward pass of this convolution, over images of three channels, writes outside its memory.
        inputs, strides = inputs[:, ::strides, ::strides], 1
    is_same = strides == 1 and all(2 * pad + 1 == size for pad, size in zip(padding, kernel.shape[:2], strict=True))
    if not is_same and any(padding):
        inputs = ops.pad(inputs, [(0, 0), *((pad, pad) for pad in padding), (0, 0)])
    operation = ops.depthwise_conv if depthwise else ops.conv
    how = {"strides": strides, "padding": "same" if is_same else "valid"}
    outputs = operation(inputs, kernel, data_format="channels_last", **how)
    return outputs if bias is None else outputs + bias


def dense(
    inputs: Tensor,
    kernel: Tensor,
    bias: Tensor | None = None,
    activation: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """activation(inputs @ kernel + bias).

    Args:
        inputs: float (..., inputs).
        kernel: float (inputs, units).
        bias: float (units,), or None.
        activation: applied to each number, or None.

    Returns:
        Float (..., units).
    """
    outputs = inputs @ kernel
    if bias is not None:
        outputs = outputs + bias
    return outputs if activation is None else activation(outputs)


def dense_of_vectors(inputs: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    """inputs @ kernel + bias, added up in groups: less than half the rounding error of one long sum.

    Pooling averages away the rounding errors of single positions. What stays is the error of the few products after
    it, which so decides how exact the features of a whole tower are. PyTorch's library adds up in short sums, too.

    Args:
        inputs: float (batch, inputs).
        kernel: float (inputs, units).
        bias: float (units,), or None.

    Returns:
        Float (batch, units).
    """
    length = kernel.shape[0]
    group = group_of(length)
    if group == length:
        outputs = inputs @ kernel
        return outputs if bias is None else outputs + bias
    # Plain products of slices: converters to other runtimes, and their integer kernels, know these as dense layers.
    starts = range(0, length, group)
    parts = [inputs[:, start : start + group] @ kernel[start : start + group] for start in starts]
    outputs = sum(parts[1:], start=parts[0])
    return outputs if bias is None else outputs + bias


def group_of(length: int) -> int:
    """How many of so many inputs `dense_of_vectors` adds up one after the other: `length` where all."""
    group = math.gcd(length, TERMS_OF_GROUP)
    return length if group < SMALLEST_GROUP else group


def attention(packed: Tensor, heads: int, causal: bool) -> Tensor:
    """Scaled dot-product attention of every position. Source: arXiv 1706.03762, section 3.2.1.

    Args:
        packed: float (batch, length, 3 x channels), ordered (query, key, value) x head x channel.
        heads: attention heads.
        causal: whether a position sees only itself and those before it.

    Returns:
        Float (batch, length, channels).
    """
    length, channels = ops.shape(packed)[1], packed.shape[-1] // 3
    # Never more than four dimensions, which is all that many runtimes of phones take.
    query, key, value = (ops.reshape(part, (-1, length, heads, channels // heads)) for part in ops.split(packed, 3, -1))
    query = ops.transpose(query, (0, 2, 1, 3)) * (channels // heads) ** -0.5
    scores = query @ ops.transpose(key, (0, 2, 3, 1))
    if causal:
        scores = scores + causal_mask(length, scores.dtype)
    attended = ops.softmax(scores, axis=-1) @ ops.transpose(value, (0, 2, 1, 3))
    return ops.reshape(ops.transpose(attended, (0, 2, 1, 3)), (-1, length, channels))


def causal_mask(length: Any, dtype: Any) -> Tensor:
    """(length, length), to be added to scores: MASKED where a position stands behind the one that looks, else 0."""
    place = ops.arange(length)
    return ops.cast(place[None, :] > place[:, None], keras.backend.standardize_dtype(dtype)) * MASKED


def attention_at(inputs: Tensor, picks: Picks, kernel: Tensor, bias: Tensor | None, heads: int, causal: bool) -> Tensor:
    """`attention(inputs @ kernel + bias)` at a few positions, without the keys and values of all positions.

    A query times a key, q (K x), is (q K) x, and a weighted sum of values, sum of a (V x), is V (sum of a x). So both
    products are with what the wanted positions have, not with what all have. The bias of the keys adds the same to
    all scores of a query, which changes no weight.

    Args:
        inputs: float (batch, length, channels).
        picks: the positions, as for `at`.
        kernel: float (channels, 3 x channels), ordered (query, key, value) x head x channel.
        bias: float (3 x channels,), or None.
        heads: attention heads.
        causal: whether a position sees only itself and those before it.

    Returns:
        Float (batch, wanted, channels).
    """
    channels = inputs.shape[-1]
    width = channels // heads
    to_query, to_key, to_value = (kernel[:, i * channels : (i + 1) * channels] for i in range(3))
    states = at(inputs, picks)
    wanted = ops.shape(states)[1]
    query = states @ to_query
    if bias is not None:
        query = query + bias[:channels]
    # Of each head, every query times its own part of the matrix: (heads, batch x wanted, ...), three dimensions.
    by_head = ops.transpose(ops.reshape(query * width**-0.5, (-1, heads, width)), (1, 0, 2))
    by_head = by_head @ ops.transpose(ops.reshape(to_key, (channels, heads, width)), (1, 2, 0))
    query = ops.reshape(ops.transpose(by_head, (1, 0, 2)), (-1, wanted * heads, channels))
    scores = query @ ops.transpose(inputs, (0, 2, 1))
    if causal:
        unseen = ops.cast(_unseen(picks, ops.shape(inputs)[1]), keras.backend.standardize_dtype(scores.dtype))
        # One row stands for all heads; of several positions, each row is repeated for its heads.
        scores = scores + (unseen if wanted == 1 else ops.repeat(unseen, heads, axis=1)) * MASKED
    attended = ops.reshape(ops.softmax(scores, axis=-1) @ inputs, (-1, heads, channels))
    attended = ops.transpose(attended, (1, 0, 2))
    attended = attended @ ops.transpose(ops.reshape(to_value, (channels, heads, width)), (1, 0, 2))
    attended = ops.reshape(ops.transpose(attended, (1, 0, 2)), (-1, wanted, channels))
    return attended if bias is None else attended + bias[2 * channels :]


def _unseen(picks: Picks, length: Any) -> Tensor:
    """(batch, wanted, length): 1 where a position stands behind the one that is picked, else 0."""
    place = ops.arange(length, dtype="float32")
    if isinstance(picks, slice):
        picked = place[None, picks, None]
    else:
        picked = ops.sum(ops.cast(picks, "float32") * place, axis=-1, keepdims=True)
    return ops.clip(place - picked, 0.0, 1.0)


def at(states: Tensor, picks: Picks) -> Tensor:
    """The states at some positions of each row.

    A product with ones and zeros, which is exact. Looking positions up takes integers of 64 bits or operations that
    many runtimes of phones lack.

    Args:
        states: float (batch, length, channels).
        picks: float (batch, wanted, length), each row 1 at the position that is wanted and 0 elsewhere. A row of
            zeros gives zeros. Or a slice: the same positions of each row.

    Returns:
        Float (batch, wanted, channels).
    """
    return states[:, picks] if isinstance(picks, slice) else picks @ states


def end_of_text(tokens: Tensor) -> Tensor:
    """Where each text ends: at its largest token id, the first of several.

    In whole numbers of 32 bits: half precision, which runtimes of phones compute floats in, cannot tell the ids of the
    start and of the end apart.

    Args:
        tokens: integers (batch, length).

    Returns:
        Float32 (batch, length): 1 at the end and 0 elsewhere.
    """
    tokens = ops.cast(tokens, "int32")
    length = ops.shape(tokens)[1]
    place = ops.arange(length, dtype="int32")
    is_smaller = ops.cast(tokens < ops.amax(tokens, axis=-1, keepdims=True), "int32")
    first = ops.amin(place + length * is_smaller, axis=-1, keepdims=True)
    return ops.cast(ops.equal(place, first), "float32")


def only_end(tokens: Tensor) -> int | None:
    """Where the only text of a batch ends, as `end_of_text`, if looking is cheap and saves operations; else None.

    Args:
        tokens: integers (batch, length).
    """
    return None


def with_class_token(patches: Tensor, class_token: Tensor, positions: Tensor, has_position: bool) -> Tensor:
    """Patches with their positions, behind the class token.

    The class token is added to a row of zeros. Repeating it along the batch would take an operation that many runtimes
    of phones lack, and so would making zeros for a batch of any size. `torch.compile` cannot follow Keras' padding.

    Args:
        patches: float (batch, patches, width).
        class_token: float (1, 1, width).
        positions: float (1, patches, width), or (1, 1 + patches, width).
        has_position: whether the first position is the class token's.

    Returns:
        Float (batch, 1 + patches, width).
    """
    first = class_token + positions[:, :1] if has_position else class_token
    others = positions[:, 1:] if has_position else positions
    return ops.concatenate([patches[:, :1] * 0.0, patches], axis=1) + ops.concatenate([first, others], axis=1)


def embed(table: Tensor, ids: Tensor) -> Tensor:
    """The rows of a table.

    Args:
        table: float (rows, width).
        ids: integers (batch, length), each from 0 to rows - 1.

    Returns:
        Float (batch, length, width).
    """
    return ops.take(table, ids, axis=0)


def mean_over_positions(inputs: Tensor) -> Tensor:
    """The mean of each channel over height and width, added up in float32 at least.

    Args:
        inputs: float (batch, height, width, channels).

    Returns:
        Float (batch, channels), in the dtype of `inputs`.
    """
    dtype = keras.backend.standardize_dtype(inputs.dtype)
    wide = ops.cast(inputs, float32_at_least(dtype))
    _, height, width, _ = ops.shape(inputs)
    return ops.cast(ops.sum(wide, axis=(1, 2)) / ops.cast(height * width, wide.dtype), dtype)


def unit_length(features: Tensor) -> Tensor:
    """Features scaled to length 1, computed in float32 at least. Zero stays zero.

    Args:
        features: float (batch, embed_dim).

    Returns:
        Float (batch, embed_dim), in the dtype of `features`.
    """
    dtype = keras.backend.standardize_dtype(features.dtype)
    wide = ops.cast(features, float32_at_least(dtype))
    length = ops.sum(wide * wide, axis=-1, keepdims=True) ** 0.5
    return ops.cast(wide / ops.clip(length, 1e-12, float("inf")), dtype)


def exp(inputs: Tensor) -> Tensor:
    """e to the power of each number. On JAX this function is in float32 at most."""
    return ops.exp(inputs)


# --- A function that is computed again for its gradient ---

Run = Callable[[list[Tensor], list[Tensor], Tensor], tuple[Tensor, list[Tensor]]]
"""From weights, state and rows to results, (rows, ...), and the state afterwards. What of the state did not change is
the same object."""


def in_chunks(
    run: Run, weights: list[Tensor], state: list[Tensor], rows: Tensor, size: int
) -> tuple[Tensor, dict[int, Tensor]]:
    """The results of a function over a batch, of which a chunk is computed at a time.

    There are len(rows) / size chunks, rounded up. Of k chunks, chunk i has the rows i, i + k, i + 2 k, ... Each starts
    from the state that the one before left. A backend's own way keeps nothing of a chunk but its results, and computes
    it again for the gradient, from the same state. This one keeps all.

    Args:
        run: the function. It reads no variables but by its arguments.
        weights: what gradients are asked for.
        state: what else it reads. Its changes have no gradient.
        rows: (batch, ...), with no gradient of its own.
        size: rows of a chunk, at most.

    Returns:
        The results in the order of the rows, and the last state, by place, of what changed.
    """
    count = -(-rows.shape[0] // size)
    parts, now = [], state
    for index in range(count):
        part, after = run(weights, now, rows[index::count])
        now = [old if old is new else ops.stop_gradient(new) for old, new in zip(now, after, strict=True)]
        parts.append(part)
    return interleaved(parts), changes(state, now)


def recomputed(
    run: Run, weights: list[Tensor], state: list[Tensor], inputs: Tensor
) -> tuple[Tensor, dict[int, Tensor]]:
    """The results of a function, of which nothing but arguments and results is kept for the gradient.

    A backend's own way runs the function again when the gradient is asked for, from the same state. This one keeps all.

    Args:
        run: the function. It reads no variables but by its arguments.
        weights: what gradients are asked for.
        state: what else it reads. Its changes have no gradient.
        inputs: as `weights`.

    Returns:
        The results, and the last state, by place, of what changed.
    """
    results, after = run(weights, state, inputs)
    return results, {place: ops.stop_gradient(value) for place, value in changes(state, after).items()}
