"""Kinds of weights that trained checkpoints are known for, each of which rounds in its own way.

Random weights of one size are kind to float32. Trained ones have heavy tails, channels of unlike scale and dead ones,
a few activations a thousand times as large as the rest, spectra that fall off, features that point nearly one way, and
attention that sees few positions.
A limit on rounding that holds for all of these holds for what was published.

Running statistics fit the activations, as training leaves them (`calibrate`).
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from . import synthetic
from .inputs import Inputs
from .synthetic import UNIFORM, Sampler, fan_in, output_axis

if TYPE_CHECKING:
    from ..torch_models import TorchReference

Arrays = dict[str, np.ndarray]


def _kernel(generator: np.random.Generator, shape: tuple[int, ...], name: str) -> np.ndarray:
    return generator.normal(0.0, fan_in(name, shape) ** -0.5, shape)


def _of_each_output(numbers: np.ndarray, shape: tuple[int, ...], name: str) -> np.ndarray:
    """One number for each output of a kernel, in a shape that multiplies the kernel."""
    sizes = [1] * len(shape)
    sizes[output_axis(name)] = shape[output_axis(name)]
    return numbers.reshape(sizes)


# --- Heavy tails: of weights, of the scales of channels, and of layer scales over three decades; dead channels ---


def _heavy_kernel(generator: np.random.Generator, shape: tuple[int, ...], name: str) -> np.ndarray:
    scales = generator.lognormal(-0.3, 0.6, shape[output_axis(name)])
    tails = generator.standard_t(4, shape) / math.sqrt(2) * fan_in(name, shape) ** -0.5
    return tails * _of_each_output(scales, shape, name)


def _norm_with_dead_channels(generator: np.random.Generator, shape: tuple[int, ...], name: str) -> np.ndarray:
    scales = generator.lognormal(-0.2, 0.5, shape)
    return np.where(generator.random(shape) < 0.02, 1e-7, scales)


def _layer_scale_of_decades(generator: np.random.Generator, shape: tuple[int, ...], name: str) -> np.ndarray:
    return generator.lognormal(math.log(0.1), 1.0, shape) * generator.choice([-1.0, 1.0], shape)


HEAVY_TAILS: dict[str, Sampler] = UNIFORM | {
    "kernel": _heavy_kernel,
    "norm": _norm_with_dead_channels,
    "layer_scale": _layer_scale_of_decades,
    "embedding": lambda generator, shape, name: generator.standard_t(5, shape) * 0.02,
    "position": lambda generator, shape, name: generator.normal(0.0, 0.02, shape),
}

# --- Massive activations: in every block, a few channels of the residual stream are far larger than the others, and
# --- norms scale them down ("Massive Activations in Large Language Models", arXiv 2402.17762, section 5: ViTs) ---

MASSIVE = 50.0


def _massive(channels: int) -> np.ndarray:
    """1 for most channels, MASSIVE for one in 64 (at least one). The same for every tensor of so many channels."""
    scales = np.ones(channels)
    count = max(channels // 64, 1)
    scales[np.random.default_rng(channels).choice(channels, count, replace=False)] = MASSIVE
    return scales


def _kernel_to_massive(generator: np.random.Generator, shape: tuple[int, ...], name: str) -> np.ndarray:
    channels = shape[output_axis(name)]
    return _kernel(generator, shape, name) * _of_each_output(_massive(channels), shape, name)


MASSIVE_ACTIVATIONS: dict[str, Sampler] = UNIFORM | {
    "kernel": _kernel_to_massive,
    "norm": lambda generator, shape, name: generator.uniform(0.7, 1.3, shape) / _massive(shape[0]) ** 0.5,
    "position": lambda generator, shape, name: generator.normal(0.0, 0.1, shape) * _massive(shape[-1]),
}

# --- Falling spectra and a narrow cone: a few directions carry most of each matrix (heavy-tailed self-regularisation,
# --- arXiv 1810.01075), and all features of a modality point nearly one way (the modality gap, arXiv 2203.02053) ---


def _kernel_of_low_rank(generator: np.random.Generator, shape: tuple[int, ...], name: str) -> np.ndarray:
    """Singular values that fall as 1 / k, with the Frobenius norm of a random kernel."""
    matrix = np.moveaxis(_kernel(generator, shape, name), output_axis(name), 0)
    flat = matrix.reshape(matrix.shape[0], -1)
    rank = min(*flat.shape, 64)
    if rank < 4:
        return np.moveaxis(matrix, 0, output_axis(name))
    left = generator.normal(0.0, 1.0, (flat.shape[0], rank)) / np.arange(1, rank + 1)
    right = generator.normal(0.0, 1.0, (rank, flat.shape[1]))
    low = left @ right
    low *= np.linalg.norm(flat) / np.linalg.norm(low)
    return np.moveaxis((0.97 * low + 0.25 * flat).reshape(matrix.shape), 0, output_axis(name))


LOW_RANK: dict[str, Sampler] = UNIFORM | {
    "kernel": _kernel_of_low_rank,
    "bias": lambda generator, shape, name: generator.normal(0.0, 1.0, shape),
    "layer_scale": lambda generator, shape, name: generator.uniform(0.3, 1.0, shape),
}

# --- Weight decay: most channels have shrunk far below the others, down to numbers that float32 holds with few bits ---


def _decayed(generator: np.random.Generator, count: int) -> np.ndarray:
    """1 for half of the channels; for the others a power of 10 between -12 and 0."""
    return np.where(generator.random(count) < 0.5, 1.0, 10.0 ** generator.uniform(-12, 0, count))


def _decayed_kernel(generator: np.random.Generator, shape: tuple[int, ...], name: str) -> np.ndarray:
    scales = _decayed(generator, shape[output_axis(name)])
    return _kernel(generator, shape, name) * _of_each_output(scales, shape, name)


DECAYED: dict[str, Sampler] = UNIFORM | {
    "kernel": _decayed_kernel,
    "bias": lambda generator, shape, name: generator.normal(0.0, 0.1, shape) * _decayed(generator, math.prod(shape)),
}

# --- Sharp attention: long training lets scores grow until each position sees few others (attention entropy collapse,
# --- arXiv 2303.06296), and the softmax then passes on the error of one score ---

SHARPER = 2.5
"""Queries and keys are this times as large each."""


def _sharp_kernel(generator: np.random.Generator, shape: tuple[int, ...], name: str) -> np.ndarray:
    kernel = _kernel(generator, shape, name)
    if "qkv" in name or "in_proj" in name:
        kernel[: 2 * shape[0] // 3] *= SHARPER
    return kernel


SHARP_ATTENTION: dict[str, Sampler] = UNIFORM | {
    "kernel": _sharp_kernel,
    "norm": lambda generator, shape, name: generator.lognormal(0.0, 0.4, shape),
}

KINDS: dict[str, dict[str, Sampler]] = {
    "uniform": UNIFORM,
    "heavy tails": HEAVY_TAILS,
    "massive activations": MASSIVE_ACTIVATIONS,
    "low rank": LOW_RANK,
    "decayed": DECAYED,
    "sharp attention": SHARP_ATTENTION,
}


def draw(
    kind: str,
    entries: Iterable[tuple[str, tuple[int, ...]]],
    seed: int,
    build_reference: Callable[[Mapping[str, np.ndarray]], "TorchReference"],
    inputs: Inputs,
) -> Arrays:
    """A checkpoint of a kind.

    Args:
        kind: a key of KINDS.
        entries: names and shapes of the tensors.
        seed: which checkpoint.
        build_reference: the PyTorch model of a checkpoint, in float32, whose modules share the checkpoint's memory.
        inputs: that the running statistics shall fit.
    """
    state = synthetic.state_dict(entries, seed, KINDS[kind])
    if kind != "uniform":  # whose statistics are drawn, as they always were
        calibrate(build_reference(state), state, inputs)
    return state


def calibrate(reference: "TorchReference", state: Arrays, inputs: Inputs) -> None:
    """Gives batch norms the statistics of their own activations, in place.

    Args:
        reference: the PyTorch model in float32.
        state: the checkpoint, whose memory the model's tensors share.
        inputs: that the statistics shall fit.

    Raises:
        ValueError: where the checkpoint's statistics did not change, because the model has copied them.
    """
    import torch
    from torch.nn.modules.batchnorm import _BatchNorm

    before = {name: array.copy() for name, array in state.items() if name.endswith("running_var")}
    images = torch.from_numpy(np.ascontiguousarray(inputs.images.transpose(0, 3, 1, 2)))
    for present, tower, batch in (
        (reference.has_image, "image_tower", images),
        (reference.has_text, "text_tower", torch.from_numpy(inputs.tokens)),
    ):
        if not present:
            continue
        model = getattr(reference, tower)
        norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
        for norm in norms:
            norm.train()
            norm.momentum = 1.0  # statistics of this batch alone, written into the buffers that are there
        with torch.no_grad():
            model(batch)
        for norm in norms:
            norm.eval()
    unchanged = [name for name, array in before.items() if np.array_equal(array, state[name])]
    if unchanged:
        raise ValueError(f"The model does not share the memory of {', '.join(unchanged[:3])}.")
    for name in state:
        if name.endswith("num_batches_tracked"):
            state[name] = np.array(1000, dtype=np.int64)
