"""Files of LoRA adapters: safetensors, with "<layer>.lora_a", "<layer>.lora_b" and "<layer>.alpha" for each layer."""

import math
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from ..errors import MobileClipError
from ..store.foreign.foreign_files import check_regular
from ..store.writing.atomic import file_written_whole
from ..store.writing.targets import check_file_target

SUFFIX = ".safetensors"
FORMAT = "mobileclip_keras.lora"
VERSION = "1"


class LoraError(MobileClipError, ValueError):
    """A model cannot have LoRA adapters, or a file has none that fit it; also a ValueError."""


@dataclass(frozen=True)
class Adapter:
    """What is added to one matrix: alpha / rank * a @ b.

    Attributes:
        a: float32 (inputs, rank).
        b: float32 (rank, outputs).
        alpha: a finite number.
    """

    a: np.ndarray
    b: np.ndarray
    alpha: float

    @classmethod
    def of(cls, variables: list[keras.Variable], alpha: float) -> "Adapter":
        """From two variables."""
        first, second = (np.asarray(keras.ops.convert_to_numpy(v)).astype("float32") for v in variables)
        return cls(first, second, float(alpha))

    @property
    def rank(self) -> int:
        return self.a.shape[-1]

    def check(self, name: str, matrix: keras.Variable | None, path: Path) -> None:
        """Raises LoraError unless this fits the matrix of a layer; None is for a layer that the model does not have."""
        if matrix is None:
            raise LoraError(f"{path} was made for another model: it adapts {name!r}, which this model does not have.")
        inputs, outputs = matrix.shape
        if self.a.shape != (inputs, self.rank) or self.b.shape != (self.rank, outputs):
            raise LoraError(
                f"{path} was made for another model: its adapters for {name} are {self.a.shape} and {self.b.shape}, "
                f"and the matrix is {(inputs, outputs)}."
            )


def write_adapters(adapters: dict[str, Adapter], variant: str | None, path: Path, overwrite: bool) -> None:
    """Writes a file whole or not at all.

    Raises:
        LoraError: for another name than *.safetensors.
        OutputError: where it cannot be written, or is there and is not to be replaced.
    """
    from safetensors.numpy import save_file

    if path.suffix != SUFFIX:
        raise LoraError(f"{path} must end in {SUFFIX}.")
    check_file_target(path, (SUFFIX,), overwrite)
    tensors: dict[str, np.ndarray] = {}
    for name, adapter in adapters.items():
        a, b = np.ascontiguousarray(adapter.a), np.ascontiguousarray(adapter.b)
        tensors |= {f"{name}.lora_a": a, f"{name}.lora_b": b, f"{name}.alpha": np.asarray(adapter.alpha, "float32")}
    with file_written_whole(path, overwrite) as beside:
        save_file(tensors, beside, metadata={"format": FORMAT, "version": VERSION, "variant": variant or ""})


def read_adapters(path: Path, variant: str | None) -> dict[str, Adapter]:
    """The adapters of a file by layer.

    Args:
        path: a file that `write_adapters` wrote.
        variant: that of the model that they are for; None for one that is of no variant.

    Raises:
        LoraError: where it is missing, damaged, of another kind or for another variant.
    """
    metadata, tensors = _open(path)
    if metadata.get("format") != FORMAT:
        raise LoraError(f"{path} holds no LoRA adapters for this package, which save_lora_weights writes.")
    if metadata.get("version") != VERSION:
        raise LoraError(f"{path} was written by a newer version of mobileclip-keras; update the package.")
    made_for = metadata.get("variant") or None
    if variant and made_for and made_for != variant:
        raise LoraError(f"{path} was made for {made_for}, and this model is {variant}.")
    names = [name.removesuffix(".lora_a") for name in tensors if name.endswith(".lora_a")]
    parts = {f"{name}.{part}" for name in names for part in ("lora_a", "lora_b", "alpha")}
    if not names or parts != tensors.keys():
        raise LoraError(f"{path} is damaged: its tensors are no whole adapters.")
    adapters = {name: [tensors[f"{name}.{part}"] for part in ("lora_a", "lora_b", "alpha")] for name in names}
    if not all(map(_is_adapter, adapters.values())):
        raise LoraError(f"{path} is damaged: it holds adapters of impossible shapes, or numbers that are not finite.")
    return {name: Adapter(a, b, float(alpha)) for name, (a, b, alpha) in adapters.items()}


def _open(path: Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    from safetensors import SafetensorError, safe_open

    try:
        check_regular(path)
        with safe_open(path, framework="numpy") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise LoraError(f"There is no file {path}.") from error
    except OSError as error:
        raise LoraError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (SafetensorError, TypeError, ValueError) as error:  # also dtypes that NumPy does not have
        raise LoraError(f"{path} is damaged, or is no file of LoRA adapters.") from error


def _is_adapter(parts: list[np.ndarray]) -> bool:
    a, b, alpha = parts
    shaped = a.ndim == b.ndim == 2 and alpha.ndim == 0 and 1 <= a.shape[1] == b.shape[0]
    return shaped and all(np.isfinite(part).all() for part in parts) and math.isfinite(float(alpha))
