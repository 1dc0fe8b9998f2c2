"""Tensors in files of PyTorch's, on any backend. PyTorch is imported when such a file is read."""

import io
from typing import Any

import numpy as np

from ..errors import MissingPackageError


def read_arrays(content: bytes, keys: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Some entries of a dict that `torch.save` wrote, in float32. No code in the file is run.

    Args:
        content: of the file.
        keys: entries: tensors, arrays, or lists of such, which are stacked.

    Raises:
        MissingPackageError: where PyTorch is not there.
        Exception: of many kinds, where the file is damaged or lacks an entry.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingPackageError(
            'Embeddings in .pth.gz files need PyTorch: pip install "mobileclip-keras[convert]". .npz files do not.'
        ) from error
    found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)

    def array(value: Any) -> np.ndarray:
        tensor = torch.stack([*map(torch.as_tensor, value)]) if isinstance(value, list) else torch.as_tensor(value)
        return tensor.to(torch.float32).numpy()

    return {key: array(found[key]) for key in keys}
