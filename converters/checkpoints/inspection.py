"""What a checkpoint file is, without converting it."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from ...keras_models.errors import MobileClipError
from ...weight_maps.audit import report
from .checkpoint import open_checkpoint, sha256
from .identify import format_notes, identify, possible_variants
from .values import value_problems


class UnusableCheckpointError(MobileClipError):
    """A checkpoint is known, and holds values that cannot be used; the message lists all."""


def inspect_checkpoint(path: Path, weights: str | None = None, ignore_extra: bool = False) -> dict[str, Any]:
    """Facts about a checkpoint, by name.

    Args:
        path: the file.
        weights: which weights, where the file holds several sets; see `open_checkpoint`.
        ignore_extra: whether tensors beside the model are left out; see `open_checkpoint`.

    Returns:
        "variant": a list of the variants that it could be. "towers" ("both", "image" or "text"), "layout", "form",
        "tensors" (count), "parameters" (count, without running statistics and counters), "dtypes" (a list of
        "dtype x count"), "bytes", "sha256", "notes": a list of what is odd, "problems": a list of what keeps
        `convert` from taking it.

    Raises:
        CheckpointError: where the file cannot be read.
        UnknownCheckpointError: where it is no checkpoint of MobileCLIP.
    """
    checkpoint = open_checkpoint(path, weights, ignore_extra)
    checkpoint_format = identify(checkpoint.shapes, checkpoint.named)
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    parameters = sum(int(np.prod(shape)) for name, shape in checkpoint.shapes.items() if not name.endswith(statistics))
    problems = value_problems(checkpoint, checkpoint_format.rows)
    return {
        "variant": [variant.name for variant in possible_variants(checkpoint_format, checkpoint.causal, path)],
        "towers": checkpoint_format.towers,
        "layout": checkpoint_format.layout,
        "form": checkpoint_format.form,
        "tensors": len(checkpoint.shapes),
        "parameters": parameters,
        "dtypes": [f"{dtype} x {count}" for dtype, count in Counter(checkpoint.dtypes.values()).most_common()],
        "bytes": checkpoint.bytes,
        "sha256": sha256(checkpoint.files),
        "notes": [*checkpoint.notes, *format_notes(checkpoint_format)],
        "problems": report(problems).splitlines(),
    }
