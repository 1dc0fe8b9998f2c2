"""What the tests of conversion share: checkpoint files of every layout, and Pythons that lack packages."""

import os
import subprocess
import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np

from mobileclip_keras.converters.checkpoints.checkpoint import Checkpoint, checkpoint_of
from mobileclip_keras.converters.checkpoints.formats.tensor_file import TensorFile
from mobileclip_keras.converters.checkpoints.identify import CheckpointFormat
from mobileclip_keras.verify.data import synthetic

ROOT = Path(__file__).resolve().parents[1]

S0 = CheckpointFormat("mci0", "mct", "apple", "train")
SMALL_CLIP = CheckpointFormat("mci0", "transformer_512", "open_clip", "train")
TIMM = CheckpointFormat("mci0", None, "timm", "train")

Arrays = dict[str, np.ndarray]
Shapes = Mapping[str, tuple[int, ...]]

PATH = Path("weights.pt")


@lru_cache(maxsize=2)
def arrays(checkpoint_format: CheckpointFormat, seed: int = 0) -> Arrays:
    """A synthetic checkpoint. The last two are kept; nobody may change them."""
    made = synthetic.state_dict(checkpoint_format.shapes.items(), seed)
    for array in made.values():
        array.flags.writeable = False
    return made


def write(tensors: Arrays, path: Path) -> Path:
    """Writes tensors as the file that the suffix means."""
    if path.suffix == ".safetensors":
        from safetensors.numpy import save_file

        save_file({name: np.ascontiguousarray(array).reshape(array.shape) for name, array in tensors.items()}, path)
    else:
        import torch

        torch.save(as_torch(tensors), path)
    return path


def as_torch(tensors: Arrays) -> dict:
    import torch

    return {name: torch.from_numpy(np.array(array)) for name, array in tensors.items()}


def assert_same_bits(actual: Arrays, expected: Arrays) -> None:
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        assert actual[name].dtype == array.dtype and actual[name].shape == array.shape, name
        assert actual[name].tobytes() == np.ascontiguousarray(array).tobytes(), name


def read_all(path: Path) -> Arrays:
    """Every tensor of a file, read by its own library."""
    if path.suffix == ".safetensors":
        from safetensors.numpy import load_file

        return load_file(path)
    import torch

    return {name: tensor.numpy() for name, tensor in torch.load(path, weights_only=True).items()}


# Python as if packages were not installed: every finder of modules passes over them.
_WITHOUT = """
import sys
class Without:
    def __init__(self, finder): self.finder = finder
    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in {missing!r} else self.finder.find_spec(name, path, target)
    def __getattr__(self, name): return getattr(self.finder, name)
sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
"""


def python(code: str, missing: tuple[str, ...] = (), **options) -> subprocess.CompletedProcess:
    """Runs Python code in a process of its own, in which the packages `missing` cannot be found."""
    return subprocess.run(
        [sys.executable, "-c", _WITHOUT.format(missing=missing) + code],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        **options,
    )


def left_in(folder: Path) -> set[str]:
    """Names of what lies in a folder, hidden files too."""
    return {path.name for path in folder.iterdir()}


def place(
    shapes: Shapes, values: Mapping[str, np.ndarray] | None = None, name: str = "", **numbers: float
) -> TensorFile:
    """A place of a file: tensors of these shapes, and some with values of their own."""
    values = values or {}
    counts = {n: "int64" if n.endswith("num_batches_tracked") else "float32" for n in shapes}
    return TensorFile(
        {**shapes, **{n: v.shape for n, v in values.items()}},
        {**counts, **{n: str(v.dtype) for n, v in values.items()}},
        lambda n: values[n] if n in values else np.zeros(shapes[n], counts[n]),
        place=name,
        numbers=numbers,
    )


def opened(*places: TensorFile, weights: str | None = None, ignore_extra: bool = False) -> Checkpoint:
    return checkpoint_of(PATH, (), list(places), weights, ignore_extra)
