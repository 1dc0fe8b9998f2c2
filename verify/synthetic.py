"""Synthetic checkpoints and inputs: every value is a fixed function of a seed, a name and a shape.

Published weights are not available everywhere, and random initialisation hides mistakes (layer scales of 1e-5, batch
norms that do nothing). A synthetic checkpoint has the names and shapes of a published file. Its magnitudes keep
activations near 1, and every tensor matters. Anyone can make the same checkpoint again, so the tests keep only the
outputs of a trusted model.
"""

import hashlib
import math
from collections.abc import Callable, Iterable

import numpy as np

CONTEXT_LENGTH = 77
START_TOKEN, END_TOKEN = 49406, 49407

_INPUT_MAJOR = ("head.proj", "classifier.proj", "projection_layer", "text_projection")


def tensor(seed: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The tensor that a synthetic checkpoint holds under `name`.

    The first rule that fits `name` decides the distribution; values are drawn in float64, stored as float32.

    Args:
        seed: Which checkpoint; two seeds share only the constant values.
        name: The tensor's full key in the file, in any layout.
        shape: Its dimensions; `()` for a scalar.

    Returns:
        A float32 array of `shape`, or the int64 scalar 1000 for a batch norm's `num_batches_tracked`.
    """
    if name.endswith("num_batches_tracked"):
        return np.array(1000, dtype=np.int64)
    if name.endswith("logit_scale"):
        return np.array(math.log(80.0), dtype=np.float32)
    return np.asarray(_distribution(name, shape)(_generator(seed, name), shape), dtype=np.float32)


def state_dict(entries: Iterable[tuple[str, tuple[int, ...]]], seed: int) -> dict[str, np.ndarray]:
    """A whole checkpoint, name to array, in the order of `entries` (pairs of name and shape)."""
    return {name: tensor(seed, name, shape) for name, shape in entries}


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


def _distribution(
    name: str, shape: tuple[int, ...]
) -> Callable[[np.random.Generator, tuple[int, ...]], np.ndarray | float]:
    if name.endswith("running_var"):
        return _uniform(0.6, 1.6)
    if name.endswith("running_mean"):
        return _normal(0.1)
    if "layer_scale" in name or name.endswith("gamma"):
        return _uniform(0.05, 0.2)
    if "pos_embed" in name or "positional_embedding" in name or name.endswith("cls_token"):
        return _normal(0.3)
    if "embedding" in name:
        return _normal(0.5)
    if name.endswith("bias"):
        return _normal(0.1)
    if len(shape) == 1:
        return _uniform(0.7, 1.3)  # the scale of a batch norm or of a layer norm
    fan_in = shape[0] if name.endswith(_INPUT_MAJOR) else math.prod(shape[1:])
    return _normal(fan_in**-0.5)


def _uniform(low: float, high: float) -> Callable[[np.random.Generator, tuple[int, ...]], np.ndarray | float]:
    return lambda generator, shape: generator.uniform(low, high, shape)


def _normal(deviation: float) -> Callable[[np.random.Generator, tuple[int, ...]], np.ndarray | float]:
    return lambda generator, shape: generator.normal(0.0, deviation, shape)
