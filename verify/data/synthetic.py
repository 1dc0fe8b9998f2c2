"""Synthetic checkpoints and inputs: every value is a fixed function of a seed, a name and a shape.

Published weights are not available everywhere, and random initialisation hides mistakes (layer scales of 1e-5, batch
norms that do nothing). A synthetic checkpoint has the names and shapes of a published file. Its magnitudes keep
activations near 1, and every tensor matters. Anyone can make the same checkpoint again, so the tests keep only the
outputs of a trusted model.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping

import numpy as np

CONTEXT_LENGTH = 77
START_TOKEN, END_TOKEN = 49406, 49407

_INPUT_MAJOR = ("head.proj", "classifier.proj", "projection_layer", "text_projection")


def tensor(seed: int, name: str, shape: tuple[int, ...], samplers: Mapping[str, "Sampler"] | None = None) -> np.ndarray:
    """The tensor that a synthetic checkpoint holds under `name`.

    Its role decides the distribution; values are drawn in float64, stored as float32.

    Args:
        seed: Which checkpoint; two seeds share only the constant values.
        name: The tensor's full key in the file, in any layout.
        shape: Its dimensions; `()` for a scalar.
        samplers: How each role is drawn, None for `UNIFORM`.

    Returns:
        A float32 array of `shape`, or the int64 scalar 1000 for a batch norm's `num_batches_tracked`.
    """
    if name.endswith("num_batches_tracked"):
        return np.array(1000, dtype=np.int64)
    if name.endswith("logit_scale"):
        return np.array(math.log(80.0), dtype=np.float32)
    sampler = (UNIFORM if samplers is None else samplers)[role(name, shape)]
    return np.asarray(sampler(_generator(seed, name), shape, name), dtype=np.float32)


def state_dict(
    entries: Iterable[tuple[str, tuple[int, ...]]], seed: int, samplers: Mapping[str, "Sampler"] | None = None
) -> dict[str, np.ndarray]:
    """A whole checkpoint, name to array, in the order of `entries` (pairs of name and shape)."""
    return {name: tensor(seed, name, shape, samplers) for name, shape in entries}


def images(n: int, size: int, seed: int) -> np.ndarray:
    """Pictures of 8 x 8 coloured tiles with a little noise.

    Returns:
        float32 (n, size, size, 3) in [0, 1], to be taken as already preprocessed. `size` is a multiple of 8.
    """
    generator = np.random.Generator(np.random.Philox(key=[seed, 1]))
    tiles = generator.uniform(0.0, 1.0, (n, 8, 8, 3))
    noise = generator.uniform(-0.1, 0.1, (n, size, size, 3))
    picture = np.kron(tiles, np.ones((1, size // 8, size // 8, 1))) + noise
    return picture.clip(0.0, 1.0).astype(np.float32)


def tokens(n: int, seed: int) -> np.ndarray:
    """Rows of token ids: the start token, 1 to 75 random ones, the end token, then zeros.

    Returns:
        int64 (n, 77), ids in [0, 49407].
    """
    generator = np.random.Generator(np.random.Philox(key=[seed, 2]))
    rows = np.zeros((n, CONTEXT_LENGTH), dtype=np.int64)
    for row in rows:
        words = int(generator.integers(1, CONTEXT_LENGTH - 1))
        row[0] = START_TOKEN
        row[1 : words + 1] = generator.integers(1, START_TOKEN, words)
        row[words + 1] = END_TOKEN
    return rows


def _generator(seed: int, name: str) -> np.random.Generator:
    digest = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


def role(name: str, shape: tuple[int, ...]) -> str:
    """What a floating-point tensor is for, by its name in any layout: a key of `UNIFORM`.

    The first rule that fits decides.
    """
    if name.endswith(("running_var", "running_mean")):
        return name.rpartition(".")[2]
    if "layer_scale" in name or name.endswith("gamma"):
        return "layer_scale"
    if "pos_embed" in name or "positional_embedding" in name or name.endswith("cls_token"):
        return "position"
    if "embedding" in name:
        return "embedding"
    if name.endswith("bias"):
        return "bias"
    return "norm" if len(shape) == 1 else "kernel"


def fan_in(name: str, shape: tuple[int, ...]) -> int:
    """How many products each output of a kernel adds up."""
    return shape[0] if name.endswith(_INPUT_MAJOR) else math.prod(shape[1:])


def output_axis(name: str) -> int:
    """Which axis of a kernel counts its outputs."""
    return -1 if name.endswith(_INPUT_MAJOR) else 0


Sampler = Callable[[np.random.Generator, tuple[int, ...], str], np.ndarray | float]
"""(generator, shape, name) -> numbers."""


def _uniform(low: float, high: float) -> Sampler:
    return lambda generator, shape, name: generator.uniform(low, high, shape)


def _normal(deviation: float) -> Sampler:
    return lambda generator, shape, name: generator.normal(0.0, deviation, shape)


UNIFORM: dict[str, Sampler] = {
    "running_var": _uniform(0.6, 1.6),
    "running_mean": _normal(0.1),
    "layer_scale": _uniform(0.05, 0.2),
    "position": _normal(0.3),
    "embedding": _normal(0.5),
    "bias": _normal(0.1),
    "norm": _uniform(0.7, 1.3),  # the scale of a batch norm or of a layer norm
    "kernel": lambda generator, shape, name: generator.normal(0.0, fan_in(name, shape) ** -0.5, shape),
}
"""How each kind of tensor is drawn, by its role."""
