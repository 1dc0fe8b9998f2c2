"""The certificate: what was measured, of which weights, on which data, by which software, as JSON."""

import hashlib
import json
import platform
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import keras

from ...keras_models import kernels
from ...keras_models.kernels.processor import processor_name
from .data.dataset import Dataset
from .encoder import Encoder
from .evaluate import Evaluation
from .published import Row, compare
from .report import FORMAT, PROGRAM

PACKAGES = ("mobileclip-keras", "keras", "tensorflow", "jax", "torch", "numpy", "pillow")
RUNTIMES = ("ai-edge-litert", "onnxruntime", "openvino")
LISTED = 1000
"""Unreadable images that are named; all are counted."""


def certificate(
    encoder: Encoder, data: Dataset, found: Evaluation, row: Row | None, own_templates: str = ""
) -> dict[str, Any]:
    """What was measured, as JSON has it.

    Args:
        encoder: the model.
        data: the data set.
        found: what came out.
        row: Apple's figures of the data set; None where there are none.
        own_templates: what the user gave in place of the data set's templates; "" for nothing.
    """
    if not found.templates:  # captions need none
        own_templates = ""
    reasons = (*encoder.differences, *_reasons(found, own_templates))
    comparison = None
    if row is not None:
        comparison = compare(row, encoder.identity.get("variant"), found.figures, found.images, reasons)
    return {
        "program": PROGRAM,
        "format": FORMAT,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": encoder.identity,
        "data": {
            "name": data.name,
            "split": data.split,
            "kind": data.kind,
            "revision": data.revision,
            "images": found.images,
            "texts": found.texts,
            "classes": len(data.classes),
            "fingerprint": found.fingerprint,
            "templates": len(found.templates),
            "templates_sha256": hashlib.sha256(json.dumps(found.templates).encode()).hexdigest(),
            "templates_from": own_templates or ("the data set" if found.templates else None),
        },
        "figures": {name: asdict(figure) for name, figure in found.figures.items()},
        "published": None if comparison is None else comparison.to_json(),
        "differences": list(reasons),
        "unreadable": [{"image": name, "reason": reason} for name, reason in found.unreadable[:LISTED]],
        "unreadable_images": len(found.unreadable),
        "device": {"name": kernels.device_name(), "processor": processor_name()},
        "software": {"python": platform.python_version(), "backend": keras.backend.backend(), **_versions()},
        "speed": {
            "images_per_second": round(found.images_per_second, 3),
            "tower_share": round(found.tower_share, 4),
            "seconds": round(found.seconds, 3),
            "images_of_an_earlier_run": found.resumed_at,
        },
    }


def _reasons(found: Evaluation, own_templates: str) -> tuple[str, ...]:
    reasons = []
    if own_templates:
        reasons.append(f"The templates are {own_templates}, not the data set's.")
    if found.unreadable:
        reasons.append(f"{len(found.unreadable):,} images could not be read and are in no figure.")
    return tuple(reasons)


def _versions() -> dict[str, str]:
    found = {}
    for name in (*PACKAGES, *RUNTIMES):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
