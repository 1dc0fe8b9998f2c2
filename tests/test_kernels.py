"""Every kernel equals the plain one, which equals its definition: forward and gradient, eager and compiled."""

import inspect
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

from mobileclip_keras.keras_models import kernels
from mobileclip_keras.keras_models.kernels import float64_enabled, plain, plain_norms, plain_runtime

from .support import error

pytestmark = [pytest.mark.backend, pytest.mark.usefixtures("quickly_compiled")]

RANDOM = np.random.default_rng(0)
EXACT = 1e-12

Arrays = tuple[np.ndarray, ...]
Function = Callable[..., Any]


def normal(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape)


def positive(*shape: int) -> np.ndarray:
    return RANDOM.uniform(0.5, 2.0, shape)


def case(name: str, *arrays: np.ndarray, **options: Any) -> Any:
    """A kernel with the arrays that gradients are taken of, and its other arguments by name."""
    words = [f"{key}={value}" for key, value in options.items() if not isinstance(value, np.ndarray)]
    return pytest.param(name, arrays, options, id="-".join([name, *words, *("x".join(map(str, arrays[0].shape)),)]))


CONVOLUTIONS = [
    case("convolve", normal(2, 9, 11, 3), normal(3, 3, 3, 6), normal(6), strides=2, padding=(1, 1)),
    case("convolve", normal(2, 9, 11, 3), normal(3, 3, 3, 6), strides=1, padding=(0, 0)),
    case("convolve", normal(2, 9, 12, 3), normal(4, 4, 3, 6), normal(6), strides=4, padding=(1, 1)),
    case("convolve", normal(2, 8, 8, 3), normal(1, 1, 3, 6), strides=2, padding=(0, 0)),
    *(  # on JAX products of what the kernel sees, where it has one tap or few channels
        case("convolve", normal(2, 9, 11, channels), normal(*kernel, channels, 6), normal(6), **how, training=True)
        for channels, kernel, how in (
            (3, (3, 3), {"strides": 2, "padding": (1, 1)}),
            (5, (3, 3), {"strides": 1, "padding": (1, 1)}),
            (5, (1, 1), {"strides": 2, "padding": (0, 0)}),
        )
    ),
    *(
        case(
            "convolve",
            normal(2, *size, 5),
            normal(*kernel, 5, times),
            normal(5 * times),
            **how,
            depthwise=True,
            training=training,
        )
        for training in (False, True)
        for times, kernel, size, how in (
            (1, (7, 7), (8, 8), {"strides": 1, "padding": (3, 3)}),
            (2, (7, 7), (9, 12), {"strides": 2, "padding": (3, 3)}),
            (1, (3, 3), (6, 7), {"strides": 2, "padding": (1, 1)}),
            (2, (3, 3), (6, 7), {"strides": 1, "padding": (1, 1)}),
            (1, (1, 11), (1, 77), {"strides": 1, "padding": (0, 5)}),
            (1, (1, 1), (6, 7), {"strides": 2, "padding": (0, 0)}),
            (2, (1, 1), (6, 7), {"strides": 1, "padding": (0, 0)}),
        )
    ),
]
DENSE = [
    case("dense", normal(2, 3, length), normal(length, 7), *bias)
    for length in (6, 512, 1100)  # on JAX one sum, one sum, and five
    for bias in ((), (normal(7),))
]
DENSE_OF_VECTORS = [
    case("dense_of_vectors", normal(rows, length), normal(length, 5), *bias)
    for rows, length in ((3, 1024), (3, 640), (3, 80), (3, 64), (3, 7), (3, 130), (1, 1024))  # in groups, and whole
    for bias in ((), (normal(5),))
]
ATTENTION = [case("attention", normal(2, 5, 24), heads=2, causal=causal) for causal in (False, True)]
ATTENTION_AT = [
    case("attention_at", normal(2, 6, 8), normal(8, 24), *bias, heads=2, causal=causal, picks=np.array(positions))
    for causal in (False, True)
    for bias in ((normal(24),), ())
    for positions in ([[5], [0]], [[1, 2, 2, 5], [5, 4, 3, 0]])
]
BATCH_NORM: dict[str, Any] = {"mean": normal(8), "variance": positive(8), "momentum": 0.9, "epsilon": 1e-2}
NORMS = [
    case("layer_norm", normal(2, 5, 8), normal(8), normal(8), epsilon=1e-2),
    case("layer_norm", normal(5, 8), normal(8), normal(8), epsilon=1e-5),
    case("batch_norm", normal(2, 3, 4, 8), normal(8), positive(8), normal(8), normal(8), epsilon=1e-2),
    case("batch_moments", normal(2, 3, 4, 8)),
    *(
        case("batch_norm_in_training", normal(*shape, 8), normal(8), normal(8), **BATCH_NORM)
        for shape in ((2, 3, 4), (2, 5), (5,), (1,))
    ),
    case("sum_of_batch_norms_in_training", normal(2, 3, 4, 8), normal(8), normal(3, 8), normal(3, 8), **BATCH_NORM),
]
OTHERS = [
    case("gelu", normal(3, 7)),
    case("exp", normal(5)),
    case("mean_over_positions", normal(2, 3, 4, 8)),
    case("unit_length", normal(3, 8)),
    case("with_class_token", normal(3, 4, 8), normal(1, 1, 8), normal(1, 4, 8), has_position=False),
    case("with_class_token", normal(3, 4, 8), normal(1, 1, 8), normal(1, 5, 8), has_position=True),
    case("at", normal(2, 6, 8), picks=np.array([[5, 1], [0, 3]])),
    case("embed", normal(9, 4), ids=np.array([[8, 0, 1], [3, 3, 8]])),
]
CASES = [*CONVOLUTIONS, *DENSE, *DENSE_OF_VECTORS, *ATTENTION, *ATTENTION_AT, *NORMS, *OTHERS]

# Memory, dtypes, export and sizes of groups. Their tests stand below, in test_saving.py, test_threads.py,
# test_tensorflow.py and test_rounding.py.
NOT_ARITHMETIC = {
    "in_chunks",
    "compiled",
    "copy_value",
    "device_name",
    "end_of_text",
    "export_saved_model",
    "float64_enabled",
    "float64_is_kept",
    "full_float32",
    "group_of",
    "half_precisions",
    "hand_over",
    "is_on_host",
    "lay_out_as_convolved",
    "only_end",
    "precision_switches",
    "recomputed",
    "short_variable_names",
    "tensor",
    "update_by_adamw",
    "variables_changed",
    "view",
    "weight",
    "without_gradients",
}


def test_every_kernel_has_a_plain_one_and_is_tested() -> None:
    def functions(module: Any) -> set[str]:
        found = inspect.getmembers(module, inspect.isfunction)
        return {name for name, value in found if not name.startswith("_") and value.__module__ == module.__name__}

    tested = {parameter.values[0] for parameter in CASES}
    known = functions(plain) | functions(plain_norms) | functions(plain_runtime)
    known -= {"causal_mask", "float32_at_least"}  # parts of kernels, which backends share
    assert known == tested | NOT_ARITHMETIC
    assert not functions(plain_runtime) & tested, "arithmetic stands in plain.py"
    assert all(hasattr(kernels, name) for name in known)
    own = functions(kernels._backend) - known
    assert own <= {"compiles_for_cpu"}, "a kernel without a plain one"


def plain_one(name: str) -> Function:
    return getattr(plain, name, None) or getattr(plain_norms, name)


def call(operation: Function, options: dict[str, Any]) -> Function:
    """A kernel of its arrays alone. Arrays among the options are no numbers to take a gradient of."""
    given = {k: keras.ops.convert_to_tensor(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}
    if operation.__name__ == "sum_of_batch_norms_in_training":
        averages = [[given.pop(name)] * 3 for name in ("mean", "variance")]

        def of_three(inputs: Any, factor: Any, gammas: Any, betas: Any) -> Any:
            rows = [[array[norm] for norm in range(3)] for array in (gammas, betas)]
            outputs, means, variances = operation(inputs, [1, 1, -1], [None, factor, None], *rows, *averages, **given)
            return outputs, *means, *variances

        return of_three
    if "picks" not in given:
        return lambda *arrays: operation(*arrays, **given)
    picks = one_hot(options["picks"], 6)
    given.pop("picks")
    if operation.__name__ == "at":
        return lambda states: operation(states, picks)
    return lambda inputs, kernel, bias=None: operation(inputs, picks, kernel, bias, **given)


def one_hot(positions: np.ndarray, length: int) -> Any:
    """What `at` takes for positions, (batch, wanted)."""
    return keras.ops.convert_to_tensor(np.eye(length)[positions])


def first(outputs: Any) -> Any:
    """One array of numbers, whatever a kernel gives."""
    return (
        keras.ops.concatenate([keras.ops.reshape(o, (-1,)) for o in outputs]) if isinstance(outputs, tuple) else outputs
    )


FULLY_OPTIMISED = {"xla_backend_optimization_level": "3", "xla_llvm_disable_expensive_passes": "False"}
"""What XLA does by default. `quickly_compiled` takes it from gradients and from operations that run one by one: they
are judged in float64, where a vectorised loop gives the same."""


def compiled(function: Function) -> Function:
    """A function as one program of the backend's own compiler; an error where it is not one.

    PyTorch versions that cannot follow Keras run it as it is.
    """
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function, compiler_options=FULLY_OPTIMISED)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(function, autograph=False)
    import torch

    from mobileclip_keras.keras_models.kernels.torch import can_compile

    if not can_compile():
        return function
    torch.compiler.reset()  # one function compiled for every case would meet a limit
    # One graph of all, but without the translation to machine code, for which there may be no compiler.
    return torch.compile(function, backend="eager", fullgraph=True)


def gradients(function: Function, arrays: Arrays, weights: np.ndarray, compile_it: bool = False) -> list[np.ndarray]:
    """The gradient of a weighted sum of what a function puts out, for each of its arrays."""
    factors = keras.ops.convert_to_tensor(weights)

    def total(*values: Any) -> Any:
        return keras.ops.sum(first(function(*values)) * factors)

    tensors = [keras.ops.convert_to_tensor(array) for array in arrays]
    if keras.backend.backend() == "jax":
        import jax

        gradient = jax.grad(total, argnums=tuple(range(len(arrays))))
        found = (jax.jit(gradient) if compile_it else gradient)(*tensors)
    elif keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        def gradient(*values: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(values)
                made = total(*values)
            return tape.gradient(made, values)

        found = (tf.function(gradient, autograph=False) if compile_it else gradient)(*tensors)
    else:
        import torch

        values = [tensor.clone().requires_grad_() for tensor in tensors]
        found = torch.autograd.grad(compiled(total)(*values) if compile_it else total(*values), values)
    return [keras.ops.convert_to_numpy(each) for each in found]


@pytest.mark.parametrize(("name", "arrays", "options"), CASES)
def test_a_kernel_equals_the_plain_one(name: str, arrays: Arrays, options: dict[str, Any]) -> None:
    with float64_enabled():
        tensors = [keras.ops.convert_to_tensor(array) for array in arrays]
        own, truth = call(getattr(kernels, name), options), call(plain_one(name), options)
        expected = keras.ops.convert_to_numpy(first(truth(*tensors)))
        assert expected.dtype == np.float64
        for way in (own, compiled(own)):
            assert error(keras.ops.convert_to_numpy(first(way(*tensors))), expected) < EXACT
        # Of a gradient that is 0 everywhere, rounding is all that is left: judged by the largest of all gradients.
        weights = np.cos(np.arange(expected.size, dtype="float64")).reshape(expected.shape)
        plain_gradients = gradients(truth, arrays, weights)
        largest = max(np.abs(gradient).max() for gradient in plain_gradients)
        for compile_it in (False, True):
            for made, wanted in zip(gradients(own, arrays, weights, compile_it), plain_gradients, strict=True):
                assert made.shape == wanted.shape
                assert np.abs(made - wanted).max() < 1e-11 * largest


# --- The plain ones, by their definitions in NumPy ---


def made_plain(name: str, arrays: Arrays, options: dict[str, Any]) -> np.ndarray:
    with float64_enabled():
        tensors = [keras.ops.convert_to_tensor(array) for array in arrays]
        return keras.ops.convert_to_numpy(first(call(plain_one(name), options)(*tensors)))


@pytest.mark.parametrize(("name", "arrays", "options"), CONVOLUTIONS)
def test_convolution_by_its_definition(name: str, arrays: Arrays, options: dict[str, Any]) -> None:
    images, kernel, *bias = arrays
    (rows, columns), strides = options["padding"], options["strides"]
    padded = np.pad(images, [(0, 0), (rows, rows), (columns, columns), (0, 0)])
    seen = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape[:2], axis=(1, 2))[:, ::strides, ::strides]
    if options.get("depthwise"):
        expected = np.einsum("byxchw,hwcm->byxcm", seen, kernel)
        expected = expected.reshape(*expected.shape[:3], -1)
    else:
        expected = np.einsum("byxchw,hwcf->byxf", seen, kernel)
    assert error(made_plain(name, arrays, options), expected + sum(bias)) < EXACT


@pytest.mark.parametrize(("name", "arrays", "options"), [*DENSE, *DENSE_OF_VECTORS])
def test_products_by_their_definition(name: str, arrays: Arrays, options: dict[str, Any]) -> None:
    inputs, kernel, *bias = arrays
    assert error(made_plain(name, arrays, options), inputs @ kernel + sum(bias)) < EXACT


def softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def attend(packed: np.ndarray, heads: int, causal: bool) -> np.ndarray:
    batch, length, channels = packed.shape[0], packed.shape[1], packed.shape[2] // 3
    query, key, value = np.moveaxis(packed.reshape(batch, length, 3, heads, channels // heads), 2, 0)
    scores = np.einsum("bqhc,bkhc->bhqk", query, key) / np.sqrt(channels // heads)
    if causal:
        scores += np.where(np.tri(length), 0, -np.inf)
    return np.einsum("bhqk,bkhc->bqhc", softmax(scores), value).reshape(batch, length, channels)


@pytest.mark.parametrize(("name", "arrays", "options"), ATTENTION)
def test_attention_by_its_definition(name: str, arrays: Arrays, options: dict[str, Any]) -> None:
    assert error(made_plain(name, arrays, options), attend(*arrays, **options)) < EXACT


@pytest.mark.parametrize(("name", "arrays", "options"), ATTENTION_AT)
def test_attention_at_some_positions_is_that_at_all(name: str, arrays: Arrays, options: dict[str, Any]) -> None:
    inputs, kernel, *bias = arrays
    whole = attend(inputs @ kernel + sum(bias), options["heads"], options["causal"])
    expected = np.take_along_axis(whole, options["picks"][:, :, None], axis=1)
    assert error(made_plain(name, arrays, options), expected) < EXACT


@pytest.mark.parametrize("causal", [False, True])
def test_a_slice_picks_the_same_positions_of_each_row(causal: bool) -> None:
    inputs, kernel, bias = (
        keras.ops.convert_to_tensor(a.astype("float32")) for a in (normal(2, 6, 8), normal(8, 24), normal(24))
    )
    ones = keras.ops.cast(one_hot(np.array([[2, 3], [2, 3]]), 6), "float32")
    made = [
        keras.ops.convert_to_numpy(operation(inputs, picks, *more))
        for operation, more in ((kernels.at, ()), (kernels.attention_at, (kernel, bias, 2, causal)))
        for picks in (slice(2, 4), ones)
    ]
    assert np.array_equal(made[0], made[1])
    assert error(made[2], made[3]) < 1e-6


def test_nothing_is_picked_by_zeros() -> None:
    states = keras.ops.convert_to_tensor(normal(2, 6, 8))
    zeros = keras.ops.zeros((2, 1, 6), dtype=states.dtype)
    assert not keras.ops.convert_to_numpy(kernels.at(states, zeros)).any()


def test_norms_by_their_definitions() -> None:
    states, gamma, beta, mean, variance = normal(2, 5, 8), normal(8), normal(8), normal(8), positive(8)
    centred = states - states.mean(-1, keepdims=True)
    expected = centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + 1e-2) * gamma + beta
    assert error(made_plain("layer_norm", (states, gamma, beta), {"epsilon": 1e-2}), expected) < EXACT
    expected = (states - mean) / np.sqrt(variance + 1e-2) * gamma + beta
    given = (states, mean, variance, gamma, beta)
    assert error(made_plain("batch_norm", given, {"epsilon": 1e-2}), expected) < EXACT
    expected = np.concatenate([states.mean((0, 1)), states.var((0, 1))])
    assert error(made_plain("batch_moments", (states,), {}), expected) < EXACT


def test_batch_norm_in_training_by_its_definition() -> None:
    states, gamma, beta = normal(2, 5, 8), normal(8), normal(8)
    mean, variance = states.mean((0, 1)), states.var((0, 1))
    outputs = (states - mean) / np.sqrt(variance + 1e-2) * gamma + beta
    moved = [0.9 * BATCH_NORM["mean"] + 0.1 * mean, 0.9 * BATCH_NORM["variance"] + 0.1 * variance * 10 / 9]
    expected = np.concatenate([outputs.reshape(-1), *moved])
    assert error(made_plain("batch_norm_in_training", (states, gamma, beta), BATCH_NORM), expected) < EXACT


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_batch_norm_in_training_equals_the_plain_one_in_lower_precision(dtype: str) -> None:
    """TensorFlow's own operation takes no float64."""
    images, gamma, beta = normal(4, 6, 5, 8).astype("float32"), positive(8).astype("float32"), normal(8)
    options = {
        name: np.float32(value) if isinstance(value, np.ndarray) else value for name, value in BATCH_NORM.items()
    }
    arrays = tuple(keras.ops.cast(array, dtype) for array in (images, gamma, beta))
    own, truth = (call(module.batch_norm_in_training, options) for module in (kernels, plain_norms))
    weights = np.cos(np.arange(images.size + 16, dtype="float32"))
    exactly = 2e-6 if dtype == "float32" else 2e-2
    made, expected = own(*arrays), truth(*arrays)
    for mine, theirs in zip(made, expected, strict=True):
        assert mine.dtype == theirs.dtype
        assert error(*(keras.ops.convert_to_numpy(keras.ops.cast(x, "float32")) for x in (mine, theirs))) < exactly
    if dtype == "float32":
        for mine, theirs in zip(gradients(own, arrays, weights), gradients(truth, arrays, weights), strict=True):
            assert error(mine, theirs) < 2e-5


def test_the_others_by_their_definitions() -> None:
    from math import erf

    numbers, images = normal(4, 8), normal(2, 3, 4, 8)
    assert (
        error(made_plain("gelu", (numbers,), {}), numbers * (1 + np.vectorize(erf)(numbers / np.sqrt(2))) / 2) < EXACT
    )
    assert error(made_plain("mean_over_positions", (images,), {}), images.mean((1, 2))) < EXACT
    lengths = np.linalg.norm(numbers, axis=-1, keepdims=True)
    assert error(made_plain("unit_length", (numbers,), {}), numbers / lengths) < EXACT
    zeros = keras.ops.convert_to_tensor(np.zeros((2, 8), "float32"))
    assert not keras.ops.convert_to_numpy(kernels.unit_length(zeros)).any()
    with float64_enabled():
        powers = keras.ops.convert_to_numpy(kernels.exp(keras.ops.convert_to_tensor(numbers)))
    assert error(powers, np.exp(numbers)) < EXACT


def test_a_text_ends_at_the_first_of_its_largest_ids() -> None:
    tokens = np.array([[49406, 5, 49407, 0], [7, 9, 9, 2], [9, 9, 9, 9]], "int32")
    for find in (kernels.end_of_text, plain.end_of_text):
        end = keras.ops.convert_to_numpy(find(keras.ops.convert_to_tensor(tokens)))
        assert end.dtype == "float32" and end.tolist() == [[0, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0]]


@pytest.mark.parametrize("place", [0, 3, 6])
def test_the_place_that_is_looked_up_is_where_the_only_text_ends(place: int) -> None:
    tokens = keras.ops.convert_to_tensor(np.where(np.arange(7) < place, 5, 9 - (np.arange(7) > place + 1))[None])
    assert kernels.only_end(tokens) in (None, place)
    assert kernels.only_end(keras.ops.concatenate([tokens, tokens])) is None


# --- Rounding ---


def rms(array: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(array))))


def test_products_of_vectors_round_less_than_long_sums() -> None:
    inputs, kernel = normal(8, 1024).astype("float32"), normal(1024, 512).astype("float32")
    exact = inputs.astype("float64") @ kernel
    made, whole = (
        keras.ops.convert_to_numpy(
            compiled(way)(keras.ops.convert_to_tensor(inputs), keras.ops.convert_to_tensor(kernel))
        )
        for way in (kernels.dense_of_vectors, keras.ops.matmul)
    )
    assert rms(made - exact) < 0.75 * rms(whole - exact)


def test_batch_norm_is_not_off_to_one_side() -> None:
    """What every layer rounds the same way adds up over a tower."""
    gamma, beta, mean, variance = (positive(4096).astype("float32") for _ in range(4))
    inputs = RANDOM.uniform(4.0, 8.0, (8, 4096)).astype("float32")
    wide = [array.astype("float64") for array in (inputs, mean, variance, gamma, beta)]
    exact = (wide[0] - wide[1]) / np.sqrt(wide[2] + 1e-5) * wide[3] + wide[4]
    given = [keras.ops.convert_to_tensor(array) for array in (inputs, mean, variance, gamma, beta)]
    relative = (
        keras.ops.convert_to_numpy(compiled(lambda *arrays: kernels.batch_norm(*arrays, 1e-5))(*given)) / exact - 1
    )
    assert abs(relative.mean()) < 1e-8 and rms(relative) < 1e-7


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ["layer_norm", "batch_norm", "mean_over_positions", "unit_length"])
def test_half_precision_is_computed_in_float32(name: str, dtype: str) -> None:
    """Sums of squares beyond 65504 do not overflow, and the result has the dtype of the inputs."""
    inputs = keras.ops.cast(np.full((1, 2, 2, 1024), 300.0) + np.arange(1024) / 8, dtype)
    more: dict[str, tuple[Any, ...]] = {
        "layer_norm": (*(keras.ops.ones(1024, dtype) for _ in range(2)), 1e-5),
        "batch_norm": (*(keras.ops.ones(1024, dtype) for _ in range(4)), 1e-5),
    }
    made = getattr(kernels, name)(inputs, *more.get(name, ()))
    assert keras.backend.standardize_dtype(made.dtype) == dtype
    wide = keras.ops.convert_to_numpy(keras.ops.cast(made, "float32"))
    given = [keras.ops.cast(a, "float32") if hasattr(a, "dtype") else a for a in (inputs, *more.get(name, ()))]
    assert np.isfinite(wide).all()
    assert error(wide, keras.ops.convert_to_numpy(plain_one(name)(*given))) < 2e-2


def test_nothing_is_kept_for_a_gradient_that_nobody_asks_for() -> None:
    """On PyTorch a variable of Keras' would have every layer's inputs kept."""
    kernel = keras.Variable(np.ones((4, 4), "float32"))
    with kernels.without_gradients():
        outputs = kernels.dense(keras.ops.ones((2, 4)), kernel.value)
    assert not getattr(outputs, "requires_grad", False)


# --- A batch in chunks ---


def stepwise(weights: list[Any], state: list[Any], rows: Any) -> tuple[Any, list[Any]]:
    """Results that depend on what came before, and a state of which one part changes and one does not."""
    seen, factor = state
    results = (rows @ weights[0]) ** 2 * factor + seen * keras.ops.sum(weights[0], axis=0)
    return results, [seen + keras.ops.sum(rows), factor]


@pytest.mark.parametrize(("rows", "size"), [(7, 3), (6, 3), (2, 3), (5, 1)])
def test_chunks_give_what_the_plain_ones_give(rows: int, size: int) -> None:
    batch, weight, factors = normal(rows, 4), normal(4, 2), np.cos(np.arange(2.0 * rows)).reshape(rows, 2)
    with float64_enabled():
        inputs = keras.ops.convert_to_tensor(batch, dtype="float64")
        state = [keras.ops.convert_to_tensor(value, dtype="float64") for value in (0.5, 2.0)]

        def results(kernel: Any) -> Function:
            return lambda matrix: kernel(stepwise, [matrix], [*state], inputs, size)[0]

        matrix = keras.ops.convert_to_tensor(weight, dtype="float64")
        (found, after), (expected, truth) = (
            kernel(stepwise, [matrix], [*state], inputs, size) for kernel in (kernels.in_chunks, plain.in_chunks)
        )
        assert error(keras.ops.convert_to_numpy(found), keras.ops.convert_to_numpy(expected)) < EXACT
        assert after.keys() == truth.keys() == {0}
        assert abs(float(after[0]) - float(truth[0])) < EXACT
        gradient = gradients(results(plain.in_chunks), (weight,), factors)[0]
        compile_it = keras.backend.backend() != "torch"  # torch.compile does not follow all gradients
        for way in {False, compile_it}:
            assert error(gradients(results(kernels.in_chunks), (weight,), factors, way)[0], gradient) < EXACT


def test_what_is_computed_again_gives_what_the_plain_one_gives() -> None:
    batch, weight, factors = normal(5, 4), normal(4, 2), np.cos(np.arange(10.0)).reshape(5, 2)
    with float64_enabled():
        state = [keras.ops.convert_to_tensor(value, dtype="float64") for value in (0.5, 2.0)]

        def results(kernel: Any) -> Function:
            return lambda matrix, rows: kernel(stepwise, [matrix], [*state], rows)[0]

        arrays = [keras.ops.convert_to_tensor(array, dtype="float64") for array in (weight, batch)]
        matrix, rows = arrays
        (found, after), (expected, truth) = (
            kernel(stepwise, [matrix], [*state], rows) for kernel in (kernels.recomputed, plain.recomputed)
        )
        assert error(keras.ops.convert_to_numpy(found), keras.ops.convert_to_numpy(expected)) < EXACT
        assert after.keys() == truth.keys() == {0}
        assert abs(float(after[0]) - float(truth[0])) < EXACT
        expected = gradients(results(plain.recomputed), (weight, batch), factors)
        for way in {False, keras.backend.backend() != "torch"}:
            found = gradients(results(kernels.recomputed), (weight, batch), factors, way)
            assert max(map(error, found, expected)) < EXACT


# --- Compiling ---


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="about PyTorch")
def test_a_pytorch_that_cannot_follow_keras_compiles_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from mobileclip_keras.keras_models.kernels.torch import can_compile

    def cannot(*_: Any, **__: Any) -> Any:
        raise RuntimeError("as older versions do")

    can_compile.cache_clear()
    try:
        with monkeypatch.context() as patch:
            patch.setattr(torch, "compile", cannot)
            assert kernels.compiled(keras.Sequential([keras.layers.Dense(1)])) is None
    finally:
        can_compile.cache_clear()
