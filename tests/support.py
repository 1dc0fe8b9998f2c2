"""What several test files share: the reference files, synthetic checkpoints, and Keras models made of them."""

import csv
from collections.abc import Callable, Iterable
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from mobileclip_keras.converters.checkpoints.checkpoint import Checkpoint
from mobileclip_keras.converters.checkpoints.identify import CheckpointFormat, identify
from mobileclip_keras.converters.conversion.build import build_model, has_projection_bias
from mobileclip_keras.converters.conversion.mapping import load_into
from mobileclip_keras.keras_models.models.model import MobileClipModel
from mobileclip_keras.keras_models.registry import get_variant
from mobileclip_keras.verify.data import synthetic

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(__file__).parent / "reference_data"

# What each file of reference_data is a checkpoint of. timm's ViT-B/16 computes as MobileCLIP2-B does.
REFERENCES = {
    "apple__mobileclip_s0": "mobileclip_s0",
    "apple__mobileclip_s1": "mobileclip_s1",
    "apple__mobileclip_s2": "mobileclip_s2",
    "apple__mobileclip_b": "mobileclip_b",
    "open_clip__MobileCLIP-S1": "mobileclip_s1",
    "open_clip__MobileCLIP-S2": "mobileclip_s2",
    "open_clip__MobileCLIP-B": "mobileclip_b",
    "open_clip__MobileCLIP2-S0": "mobileclip2_s0",
    "open_clip__MobileCLIP2-S2": "mobileclip2_s2",
    "open_clip__MobileCLIP2-B": "mobileclip2_b",
    "open_clip__MobileCLIP2-S3": "mobileclip2_s3",
    "open_clip__MobileCLIP2-S4": "mobileclip2_s4",
    "open_clip__MobileCLIP2-L-14": "mobileclip2_l14",
    "timm__fastvit_mci0": "mobileclip2_s0",
    "timm__fastvit_mci1": "mobileclip_s1",
    "timm__fastvit_mci2": "mobileclip2_s2",
    "timm__fastvit_mci3": "mobileclip2_s3",
    "timm__fastvit_mci4": "mobileclip2_s4",
    "timm__vit_base_mci_224": "mobileclip2_b",
}
S0, B = "apple__mobileclip_s0", "apple__mobileclip_b"
LARGE_TOWERS = ("mci4", "vit_l14")

Arrays = dict[str, np.ndarray]


def marked(values: Iterable[Any], is_large: Callable[[Any], bool]) -> list[Any]:
    """Parameters for `pytest.mark.parametrize`, the large ones marked so that a quick run can leave them out."""
    return [
        pytest.param(*(v if isinstance(v, tuple) else (v,)), marks=[pytest.mark.large] if is_large(v) else [])
        for v in values
    ]


def is_large(reference: str) -> bool:
    return get_variant(REFERENCES[reference]).image_tower in LARGE_TOWERS


@cache
def manifest(reference: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    """(dtype, shape) of every tensor of a reference checkpoint, by name."""
    with open(DATA / "manifests" / f"{reference}.tsv", newline="") as file:
        return {
            name: (dtype, tuple(map(int, shape.split("x"))) if shape else ())
            for name, dtype, shape in csv.reader(file, delimiter="\t")
        }


def golden(reference: str, count: int = 4) -> Arrays:
    """What the original code gives on seed 0, in float64, for the first fixed inputs."""
    with np.load(DATA / "golden" / f"{reference}.npz") as file:
        found = dict(file)
    for name in ("image_features", "text_features"):
        if name in found:
            found[name] = found[name][:count]
    if "logits" in found:
        found["logits"] = found["logits"][:count, :count]
    return found


@lru_cache(maxsize=1)
def tensors(reference: str) -> Arrays:
    """A synthetic checkpoint of seed 0. The last one is kept."""
    shapes = ((name, shape) for name, (_, shape) in manifest(reference).items())
    return synthetic.state_dict(shapes, seed=0)


def checkpoint(arrays: Arrays, name: str = "synthetic.pt") -> Checkpoint:
    """Arrays as an opened file."""
    shapes = {key: array.shape for key, array in arrays.items()}
    dtypes = {key: str(array.dtype) for key, array in arrays.items()}
    return Checkpoint(Path(name), shapes, dtypes, [], arrays.__getitem__)


def checkpoint_format(reference: str) -> CheckpointFormat:
    return identify({name: shape for name, (_, shape) in manifest(reference).items()})


def synthetic_model(
    reference: str, dtype: str = "float64", arrays: Arrays | None = None, like_open_clip: bool = False
) -> MobileClipModel:
    """The Keras model of a reference checkpoint, in train form, loaded through the tables."""
    variant, found = get_variant(REFERENCES[reference]), checkpoint_format(reference)
    source = checkpoint(tensors(reference) if arrays is None else arrays)
    bias = has_projection_bias(variant, found, source)
    model = build_model(variant, found, bias, dtype, like_open_clip)
    load_into(model, source, found.rows)
    return model


@cache
def images(size: int, count: int = 4) -> np.ndarray:
    """The first `count` of the fixed images. The original code was given 4."""
    return synthetic.images(max(count, 4), size, seed=0)[:count]


TOKENS = synthetic.tokens(4, seed=0)


def call(model: keras.Model, inputs: Any) -> Any:
    """What a model makes of a batch or of a dict of batches.

    It is compiled on JAX, which compiles every operation for every shape where it runs them one by one.
    """
    if keras.backend.backend() == "jax":
        return _compiled(model)(inputs)
    return model(keras.tree.map_structure(keras.ops.convert_to_tensor, inputs), training=False)


def apply(tower: keras.Model, inputs: Any) -> np.ndarray:
    """What a tower makes of a batch, as NumPy has it."""
    return keras.ops.convert_to_numpy(call(tower, inputs))


def _compiled(tower: Any) -> Callable[[Any], Any]:
    import jax

    variables = [v.value for v in tower.trainable_variables], [v.value for v in tower.non_trainable_variables]
    # float64 shows whether it is the same function. How well that is compiled matters to float32, and to the time.
    hastily = {"xla_backend_optimization_level": "0"}
    run = jax.jit(
        lambda trainable, rest, x: tower.stateless_call(trainable, rest, x, training=False)[0],
        compiler_options=hastily,
    )
    return lambda inputs: run(*variables, inputs)


def features(model: MobileClipModel, size: int, count: int = 4) -> Arrays:
    """Features of the first fixed inputs before normalisation, by tower."""
    made = {}
    if model.image_encoder is not None:
        made["image"] = apply(model.image_encoder, images(size, count))
    if model.text_encoder is not None:
        made["text"] = apply(model.text_encoder, TOKENS[:count])
    return made


def unit(array: np.ndarray) -> np.ndarray:
    return array / np.linalg.norm(array, axis=-1, keepdims=True)


def error(actual: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, relative to the largest value."""
    assert actual.shape == expected.shape
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


def weights(model: keras.Model) -> list[np.ndarray]:
    """Copies, as some backends give views. bfloat16, which NumPy lacks, becomes float32."""
    as_numpy = keras.ops.convert_to_numpy
    return [np.array(as_numpy(keras.ops.cast(v, "float32") if v.dtype == "bfloat16" else v)) for v in model.weights]


def from_keras_file(model: MobileClipModel, folder: Path) -> Any:
    """What comes back of a model from a .keras file in a folder."""
    model.save(folder / "model.keras")
    return keras.saving.load_model(folder / "model.keras")


def from_pretrained(model: MobileClipModel, folder: Path) -> Any:
    """What comes back of a model from a folder below another."""
    model.save_pretrained(folder / "model")
    return MobileClipModel.from_pretrained(folder / "model")


def nightly_on(*backends: str) -> pytest.MarkDecorator:
    """Marks a test as `backend`, and as `nightly` on backends where it takes long and proves the same as elsewhere.

    One mark says both, so that it may stand beside a parameter; conftest.py adds the other.
    """
    slow = keras.backend.backend() in backends
    return pytest.mark.nightly(backend=True) if slow else pytest.mark.backend
