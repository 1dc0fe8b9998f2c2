"""What a checkpoint file is, without converting it."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from .checkpoint import open_checkpoint, sha256
from .identify import identify


def inspect_checkpoint(path: Path) -> dict[str, Any]:
    """Facts about a checkpoint, by name.

    Returns:
        "variant": a list of the variants that it could be. "layout", "form", "tensors" (count), "parameters"
        (count, without running statistics and counters), "dtypes" (a list of "dtype x count"), "bytes",
        "sha256", "notes": a list of what is odd.

    Raises:
        CheckpointError: where the file cannot be read.
        UnknownCheckpointError: where it is no checkpoint of MobileCLIP.
    """
    checkpoint = open_checkpoint(path)
    checkpoint_format = identify(checkpoint.shapes)
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    parameters = sum(int(np.prod(shape)) for name, shape in checkpoint.shapes.items() if not name.endswith(statistics))
    damaged = [
        name
        for name in checkpoint.shapes
        if "float" in checkpoint.dtypes[name] and not np.isfinite(checkpoint.read(name)).all()
    ]
    notes = list(checkpoint.notes)
    if damaged:
        notes.append(f"NaN or infinite numbers in {len(damaged)} tensors, such as {damaged[0]}")
    return {
        "variant": [variant.name for variant in checkpoint_format.variants],
        "layout": checkpoint_format.layout,
        "form": checkpoint_format.form,
        "tensors": len(checkpoint.shapes),
        "parameters": parameters,
        "dtypes": [f"{dtype} x {count}" for dtype, count in Counter(checkpoint.dtypes.values()).most_common()],
        "bytes": checkpoint.bytes,
        "sha256": sha256(checkpoint.files),
        "notes": notes,
    }
