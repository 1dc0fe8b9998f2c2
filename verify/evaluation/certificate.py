"""The certificate: what was measured, of which weights, on which data, by which software, as JSON and as Markdown."""

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
from ...keras_models.shown import shown_name
from .data.dataset import Dataset
from .encoder import Encoder
from .evaluate import Evaluation
from .published import SOURCE, Comparison, Row, compare

FORMAT = 1
PACKAGES = ("mobileclip-keras", "keras", "tensorflow", "jax", "torch", "numpy", "pillow")
LISTED = 1000
"""Unreadable images that are named; all are counted."""
_MEANINGFUL = "\\`*[]<>|&~$#"


def certificate(
    encoder: Encoder, data: Dataset, found: Evaluation, row: Row | None, own_templates: str | None = None
) -> dict[str, Any]:
    """What was measured, as JSON has it.

    Args:
        encoder: the model.
        data: the data set.
        found: what came out.
        row: Apple's figures of the data set; None where there are none.
        own_templates: what the user gave in place of the data set's templates.
    """
    reasons = (*encoder.differences, *_reasons(found, own_templates))
    comparison = None
    if row is not None:
        comparison = compare(row, encoder.identity.get("variant"), found.figures, found.images, reasons)
    return {
        "program": "mobileclip-keras evaluate",
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
        "published": None if comparison is None else _published(comparison),
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


def _reasons(found: Evaluation, own_templates: str | None) -> tuple[str, ...]:
    reasons = []
    if own_templates is not None:
        reasons.append(f"The templates are {own_templates}, not the data set's.")
    if found.unreadable:
        reasons.append(f"{len(found.unreadable):,} images could not be read and are in no figure.")
    return tuple(reasons)


def _published(comparison: Comparison) -> dict[str, Any]:
    return {
        "source": SOURCE,
        "data_set": comparison.row.key,
        "metric": comparison.row.metric,
        "value": comparison.published,
        "images": comparison.row.images,
        "agrees": comparison.agrees,
        "says": comparison.sentence(),
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def markdown(content: dict[str, Any]) -> str:
    """A certificate for people: a table of figures, and what they are of."""
    model, data = content["model"], content["data"]
    published = content["published"] or {}
    lines = [
        f"# {_plain(model['variant'] or model['name'])} on {_plain(data['name'])}, {_plain(data['split'])}",
        "",
        *figure_table(content),
        "",
        *([_plain(published["says"]), ""] if published else []),
        *(
            f"- {_plain(title)}: {_plain(text)}"
            for title, text in (
                ("Model", f"{model['name']} ({model['kind']})"),
                ("Weights, SHA-256", model["weights_sha256"]),
                ("Data", f"{data['images']:,} images, {data['texts']:,} texts, fingerprint {data['fingerprint']}"),
                ("Templates", f"{data['templates']}, from {data['templates_from']}" if data["templates"] else "none"),
                ("Device", content["device"]["name"]),
                ("Software", ", ".join(f"{name} {value}" for name, value in content["software"].items())),
                ("Unreadable images", str(content["unreadable_images"])),
                ("Otherwise than Apple", " ".join(content["differences"]) or "nothing that is known"),
                ("Date", content["date"]),
            )
        ),
    ]
    return "\n".join(lines) + "\n"


def figure_table(content: dict[str, Any]) -> list[str]:
    """The lines of a Markdown table of a certificate's figures, with Apple's beside."""
    published = content["published"] or {}
    rows = [("Figure", "Measured", "95 % interval", "Made by", "Apple's")]
    rows.append(("---",) * 5)
    for name, figure in content["figures"].items():
        known = name == published.get("metric") and published.get("value") is not None
        rows.append(
            (
                _plain(name),
                f"{figure['value']:.2%}",
                f"{figure['low']:.2%} to {figure['high']:.2%}",
                _plain(figure["interval"]),
                f"{published['value']:.2%}" if known else "",
            )
        )
    return [f"| {' | '.join(row)} |" for row in rows]


def _plain(text: str) -> str:
    """Text as it is, where Markdown and HTML would take it for more."""
    return "".join(f"&#{ord(each)};" if each in _MEANINGFUL else each for each in shown_name(text))
