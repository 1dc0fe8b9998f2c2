"""The records in a converted folder: its origin and the outcome of its verification."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...keras_models.architectures import FORMS
from ...keras_models.errors import MobileClipError
from ...keras_models.registry import get_variant
from ...keras_models.store.file_names import CONVERSION_FILE, WEIGHTS
from ...keras_models.store.folder import form_folders, read_config
from ...keras_models.store.foreign.foreign_files import check_regular
from ...keras_models.store.foreign.json_fields import fields, problems
from ...keras_models.store.foreign.json_file import read_json
from ...keras_models.store.writing.own_files import sha256, sha256_of_written
from .model_card import CARD_FILE, LICENSE_FILE, CardInfo, Check, CostRow, render_card
from .model_card import PICTURE_FILE as PICTURE_FILE
from .record_fields import FINE_TUNED, RECORDS
from .record_fields import VERIFICATION_FILE as VERIFICATION_FILE
from .terms import terms_of


class RecordError(MobileClipError):
    """A converted folder lacks a record, or the record does not fit the weights beside it."""


class _Record(dict[str, Any]):
    """A record, or a part of one. If a key is missing, the error names the file."""

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        super().__init__(content)
        self._path = path

    def __missing__(self, key: str) -> Any:
        raise RecordError(f"{self._path} does not say {key!r}.")


def read_record(folder: Path, name: str) -> dict[str, Any]:
    """One of the JSON files of a converted folder. Every field that it has is of the right type and range.

    Raises:
        MobileClipError: where it is missing or damaged, or says what no record says; everything is listed. The record
            itself raises it for a key that it lacks.
    """
    path = folder / name
    try:
        record = read_json(path, folder=folder)
    except FileNotFoundError as error:
        if not folder.exists():
            raise RecordError(f"There is no folder {folder}.") from error
        raise RecordError(f"{folder} has no {name}: it was not written by convert.") from error
    except (OSError, MobileClipError) as error:
        raise RecordError(f"{path} cannot be read: {error}") from error
    if not isinstance(record, dict):
        raise RecordError(f"{path} does not hold a record.")
    wrong = problems(record, RECORDS.get(name, fields({})))
    if wrong:
        raise RecordError(f"{path} is not a record that convert writes: {'; '.join(wrong)}.")
    return _named(path, record)


def _named(path: Path, content: Any) -> Any:
    """A record whose every part knows the file that it comes from."""
    if isinstance(content, dict):
        return _Record(path, {key: _named(path, value) for key, value in content.items()})
    if isinstance(content, list):
        return [_named(path, value) for value in content]
    return content


def write_record(folder: Path, name: str, record: dict[str, Any]) -> None:
    """Writes one of the JSON files of a converted folder. JSON has no NaN and no infinite numbers: they become null."""
    (folder / name).write_text(json.dumps(_finite(record), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def weight_hashes(folder: Path) -> dict[str, str]:
    """The SHA-256 of each form's weights in a folder that was just written, in hexadecimal."""
    places = form_folders(folder)
    return {form: file_digest(place / WEIGHTS, folder, sha256_of_written) for form, place in places.items()}


def file_digest(path: Path, folder: Path, digest: Callable[[Path], str] = sha256) -> str:
    """The SHA-256 of a file in a folder, in hexadecimal."""
    check_regular(path, folder)
    return digest(path)


def write_license(folder: Path) -> None:
    """Writes the licence of its weights into a converted folder, which has a record of its conversion."""
    variant = get_variant(read_record(folder, CONVERSION_FILE)["variant"])
    (folder / LICENSE_FILE).write_text(terms_of(variant).text, encoding="utf-8")


def write_card(folder: Path, repo_id: str | None = None, certificates: tuple[dict[str, Any], ...] = ()) -> None:
    """Writes the model card into a converted folder.

    Args:
        folder: with its records.
        repo_id: where it will be published, for the usage examples; None for a name that the reader replaces.
        certificates: of evaluations of exactly these weights, as `read_certificates` gives them.
    """
    info = replace(_card_info(folder, repo_id), certificates=certificates)
    (folder / CARD_FILE).write_text(render_card(info), encoding="utf-8")


def _card_info(folder: Path, repo_id: str | None) -> CardInfo:
    conversion, verification = read_record(folder, CONVERSION_FILE), read_record(folder, VERIFICATION_FILE)
    variant = get_variant(conversion["variant"])
    versions, inputs = verification.get("versions", {}), verification.get("inputs", {})
    exact = {check["form"]: check for check in verification.get("float64", ())}
    checks = tuple(
        Check(
            form=check["form"],
            backend=verification["backend"],
            program=check.get("program", "encode"),
            float64_difference=_largest(exact.get(check["form"], {})),
            rms_ratio=check["rms_ratio"],
            max_ratio=check["max_ratio"],
            same_top1=check["top1_differences"] == 0,
        )
        for check in verification.get("float32", ())
    )
    return CardInfo(
        repo_id=repo_id or f"user/{variant.name}-keras",
        variant=variant,
        source_file=conversion["source"]["file"],
        source_sha256=conversion["source"]["sha256"],
        forms=tuple(form for form in conversion["weights_sha256"] if form in FORMS),
        towers=conversion.get("towers") or _towers(folder),
        image_size=conversion["source"].get("image_size"),
        logit_bias=bool(conversion["source"].get("logit_bias")),
        left=tuple(conversion["source"].get("left", ())),
        fine_tuned=conversion.get(FINE_TUNED),
        dtype=conversion["dtype"],
        source_dtype=conversion["source"]["dtype"],
        reference=f"open_clip {versions.get('open_clip_torch')} and timm {versions.get('timm')} on PyTorch "
        f"{versions.get('torch')}",
        images=len(inputs.get("images", ())),
        texts=len(inputs.get("texts", ())),
        checks=checks,
        device=_device(verification.get("device", {})),
        switches=tuple(
            f"{name} = {value}"
            for name, value in verification.get("device", {}).get("switches_verified", {}).items()
            if not _of_pytorch_alone(name, verification["backend"])
        ),
        costs=tuple(
            CostRow(cost["way"], *(cost[key] for key in ("rms", "maximum", "smallest_cosine", "top1_differences")))
            for cost in verification.get("measured_not_judged", ())
        ),
    )


def _towers(folder: Path) -> str:
    """Which towers a folder holds, of which an older record says nothing."""
    config = read_config(next(iter(form_folders(folder).values())))["config"]
    held = [tower for tower in ("image", "text") if config[f"{tower}_encoder"]]
    return held[0] if len(held) == 1 else "both"


def _largest(exact: dict[str, Any]) -> float | None:
    """Of the differences that a check in float64 found; None where it found none."""
    return max((value for key in ("image", "text") if (value := exact.get(key)) is not None), default=None)


def _of_pytorch_alone(switch: str, backend: str) -> bool:
    """Whether a switch is one of PyTorch's, which computed the reference, where Keras ran on another backend."""
    return switch.startswith("torch.") and backend != "torch"


def _device(device: dict[str, Any]) -> str:
    """The device that a verification ran on, in words; "" for an older record, which does not say."""
    if not device:
        return ""
    name, processor = device["name"], device["processor"]
    return name if name == processor else f"{name} (processor: {processor})"
