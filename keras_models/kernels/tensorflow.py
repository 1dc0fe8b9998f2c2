"""What TensorFlow computes in another shape than plain.py, so that it makes one operation of several."""

import math
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ..formulation import current, parts_of_depthwise
from ..types import Tensor
from . import plain, plain_norms
from .chunks import changes
from .processor import processor_name, processor_precisions
from .tensorflow_adamw import update_by_adamw as update_by_adamw
from .tensorflow_chunks import in_chunks as in_chunks

XLA_IS_FAST = False
"""XLA takes several times longer to compile a tower than TensorFlow takes to make a graph of it, and its depthwise
convolutions then run several times slower on CPUs."""

FIRST_WITH_BFLOAT16 = (8, 0)
"""The first compute capability of NVIDIA's GPUs that multiplies bfloat16."""


def gelu(inputs: Any) -> Tensor:
    """Written so that TensorFlow fuses it with the matrix product before it, and LiteRT knows its own GELU.

    `tf.nn.gelu` rounds the square root of 2 to float32, which costs 5e-9 in float64.
    """
    return inputs * 0.5 * (tf.math.erf(inputs * math.sqrt(0.5)) + 1.0)


def dense(inputs: Any, kernel: Any, bias: Any = None, activation: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """TensorFlow makes one operation of product, bias and GELU, but of matrices alone.

    That took image towers to 0.65 to 0.8 of their time.
    """
    if len(inputs.shape) == 4 and current().dense_as_convolution:
        outputs = tf.nn.conv2d(inputs, kernel[None, None], strides=1, padding="VALID")
        outputs = outputs if bias is None else outputs + bias
        return outputs if activation is None else activation(outputs)
    rows = inputs if len(inputs.shape) == 2 else tf.reshape(inputs, (-1, inputs.shape[-1]))
    outputs = tf.matmul(rows, kernel)
    if bias is not None:
        outputs = tf.nn.bias_add(outputs, bias)  # "+" is not fused
    if activation is not None:
        outputs = activation(outputs)
    if rows is inputs:
        return outputs
    return tf.reshape(outputs, (*keras.ops.shape(inputs)[:-1], kernel.shape[-1]))


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
    """In a program for a runtime that is slow at large depthwise kernels, a sum of convolutions by parts of them."""
    height, width = kernel.shape[:2]
    parts = parts_of_depthwise(current(), (height, width), strides, padding) if depthwise else []
    if not parts:
        options: dict[str, Any] = {"strides": strides, "padding": padding, "depthwise": depthwise, "training": training}
        return plain.convolve(inputs, kernel, bias, **options)
    outputs = bias
    for rows, columns, apart in parts:
        added = tf.nn.depthwise_conv2d(inputs, kernel[rows, columns], (1, 1, 1, 1), "SAME", dilations=apart)
        outputs = added if outputs is None else added + outputs
    return outputs


def attention(packed: Any, heads: int, causal: bool) -> Tensor:
    """In a program for another runtime, scaled where that costs nothing there."""
    how = current()
    if how.scaled == "queries":
        return plain.attention(packed, heads, causal)
    length, channels = keras.ops.shape(packed)[1], packed.shape[-1] // 3
    width = channels // heads
    scale = width**-0.5
    if how.scaled == "packed":
        packed = packed * tf.constant([scale] * channels + [1.0] * 2 * channels, packed.dtype)
    is_one = how.one_without_batch and packed.shape[0] == 1
    shape = (length, heads, width) if is_one else (-1, length, heads, width)
    heads_first, as_columns = ((1, 0, 2), (1, 2, 0)) if is_one else ((0, 2, 1, 3), (0, 2, 3, 1))
    query, key, value = (tf.reshape(part, shape) for part in tf.split(packed, 3, -1))
    scores = tf.transpose(query, heads_first) @ tf.transpose(key, as_columns)
    if how.scaled == "scores":
        scores = scores * scale
    if causal:
        scores = scores + plain.causal_mask(length, scores.dtype)
    attended = tf.nn.softmax(scores) @ tf.transpose(value, heads_first)
    return tf.reshape(tf.transpose(attended, heads_first), (-1, length, channels))


def layer_norm(inputs: Any, gamma: Any, beta: Any, epsilon: float) -> Tensor:
    """With TensorFlow's square root, which is exact. A power of 0.5, run on its own, is off by up to a whole last bit.

    What follows from weights alone is off by the same for all inputs, so nothing averages it away.
    """
    if not current().norm_of_distances:
        return plain_norms.layer_norm(inputs, gamma, beta, epsilon, tf.sqrt)
    dtype = inputs.dtype
    states, gamma, beta = (tf.cast(array, plain_norms.float32_at_least(dtype.name)) for array in (inputs, gamma, beta))
    # OpenVINO's converter stumbles over an axis that is no list.
    distances = states - tf.reduce_mean(states, [-1], keepdims=True)
    variance = tf.reduce_mean(distances * distances, [-1], keepdims=True)
    return tf.cast(distances / tf.sqrt(variance + epsilon) * gamma + beta, dtype)


def batch_norm(inputs: Any, mean: Any, variance: Any, gamma: Any, beta: Any, epsilon: float) -> Tensor:
    """As `layer_norm`."""
    return plain_norms.batch_norm(inputs, mean, variance, gamma, beta, epsilon, tf.sqrt)


def batch_norm_in_training(
    inputs: Any, gamma: Any, beta: Any, mean: Any, variance: Any, momentum: float, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """One operation forward and one backward. It takes images, and no float64."""
    if len(inputs.shape) != 4 or inputs.dtype == tf.float64:
        return plain_norms.batch_norm_in_training(inputs, gamma, beta, mean, variance, momentum, epsilon, tf.sqrt)
    gamma, beta = tf.cast(gamma, tf.float32), tf.cast(beta, tf.float32)
    options = {"epsilon": epsilon, "exponential_avg_factor": 1 - momentum, "is_training": True}
    outputs, *moved = tf.raw_ops.FusedBatchNormV3(
        x=inputs, scale=gamma, offset=beta, mean=mean, variance=variance, **options
    )[:3]
    return outputs, *moved


def sum_of_batch_norms_in_training(*arguments: Any, **options: Any) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """As `layer_norm`."""
    return plain_norms.sum_of_batch_norms_in_training(*arguments, **{**options, "root": tf.sqrt})


def embed(table: Any, ids: Any) -> Tensor:
    """A look-up of a plain list of ids of 32 bits, which LiteRT has an operation for. Keras' own also takes negative
    ids, which there are none of, and has seven operations more."""
    rows = _look_up(table, tf.reshape(tf.cast(ids, tf.int32), (-1,)))
    return tf.reshape(rows, (-1, keras.ops.shape(ids)[1], table.shape[-1]))


@tf.function(experimental_implements="embedding_matmul", autograph=False, reduce_retracing=True)
def _look_up(table: Any, ids: Any) -> Tensor:
    """LiteRT's converter knows this function by the name that it implements."""
    return tf.gather(table, ids)


def recomputed(run: Any, weights: Any, state: Any, inputs: Any) -> tuple[Tensor, dict[int, Tensor]]:
    """As `tf.recompute_grad`, which does not take results without a gradient within a `tf.function`."""
    # Read now: a variable would be read again, with the value that it has then.
    weights, state = ([tf.convert_to_tensor(value) for value in values] for values in (weights, state))
    places: list[int] = []

    @tf.custom_gradient
    def call(inputs: Any, *weights: Any) -> Any:
        results, after = run([*weights], state, inputs)
        changed = changes(state, after)
        places[:] = changed

        def gradient(upstream: Any, *_: Any) -> Any:
            # Nothing that depends on the gradient can be what was computed before. 0, unless it is not a number.
            first = tf.reshape(upstream, (-1,))[0]
            zero = tf.where(tf.equal(first, first), tf.zeros_like(first), first)
            arguments = [inputs + tf.cast(zero, inputs.dtype), *weights]
            with tf.GradientTape() as tape:
                tape.watch(arguments)
                again, _ = run(arguments[1:], state, arguments[0])
            return tape.gradient(again, arguments, upstream, tf.UnconnectedGradients.ZERO)

        return (results, *map(tf.stop_gradient, changed.values())), gradient

    results, *changed = call(inputs, *weights)
    return results, dict(zip(places, changed, strict=True))


@contextmanager
def full_float32() -> Iterator[None]:
    """The switch is one for the whole process."""
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)


def precision_switches() -> dict[str, str]:
    """TensorFlow reads the environment variable once, when it starts."""
    enabled = tf.config.experimental.tensor_float_32_execution_enabled()
    return {
        "tf.config.experimental.tensor_float_32_execution_enabled()": str(enabled),
        "TF_SET_ONEDNN_FPMATH_MODE": os.environ.get("TF_SET_ONEDNN_FPMATH_MODE", "not set"),
    }


def device_name() -> str:
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return processor_name()
    return str(tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU"))


def half_precisions() -> tuple[str, ...]:
    """On CPUs bfloat16 alone, by oneDNN. TensorFlow's own float16 takes minutes for 16 images."""
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return tuple(dtype for dtype in processor_precisions() if dtype == "bfloat16")
    capability = tf.config.experimental.get_device_details(gpus[0]).get("compute_capability", (0, 0))
    return ("bfloat16", "float16") if capability >= FIRST_WITH_BFLOAT16 else ("float16",)


def compiled(
    model: keras.Model, thorough: bool = False
) -> tuple[str, Callable[[dict[str, np.ndarray]], dict[str, Any]]]:
    """Traced before it is called: TensorFlow warns of calls that trace, and counts Keras' models together."""

    def predict(batch: dict[str, np.ndarray]) -> dict[str, Any]:
        model.make_predict_function()
        if hasattr(model.predict_function, "get_concrete_function"):  # not if it runs eagerly
            model.predict_function.get_concrete_function([(batch,)])
        return model.predict_on_batch(batch)

    return "predict", predict


def export_saved_model(model: Any, folder: Any, input_signature: Any, verbose: bool | None = None) -> None:
    """By its variables and one function. `track` would have TensorFlow trace the model for floats, see TakesTokens."""
    archive = keras.export.ExportArchive()
    archive.add_variable_collection("model_variables", model.variables)
    archive.add_endpoint("serve", lambda inputs: model(inputs, training=False), input_signature)
    archive.write_out(folder, verbose=verbose is None or verbose)


def short_variable_names() -> AbstractContextManager[Any]:
    """TensorFlow makes a program for each name and shape of a variable, which takes half a millisecond.

    For a model whose variables all have names of their own that is a second; a tenth where all kernels are called
    "kernel".
    """
    return tf.name_scope("")


def is_on_host(variable: keras.Variable) -> bool:
    return "CPU" in variable.value.device


def tensor(array: np.ndarray) -> Tensor:
    """Keras' own function copies the array."""
    return tf.experimental.dlpack.from_dlpack(array.__dlpack__())


def hand_over(variable: keras.Variable, array: np.ndarray) -> None:
    variable.value.assign(tensor(array), read_value=False)  # Keras lets TensorFlow read the value again


def view(variable: keras.Variable) -> np.ndarray | None:
    value = variable.value
    if "CPU" not in value.device or value.dtype == tf.bfloat16:
        return None
    return np.asarray(memoryview(value.value()))
