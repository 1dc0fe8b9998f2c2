"""Certificates of evaluations that are to be published with a folder: each must be about exactly the files in it.

A certificate says what somebody measured, and nothing here can measure it again. What can be checked is: it is about
these weights, this config and this preprocessing, by their SHA-256; it left no image out; and its figures are possible.
Apple's figures are not taken from it, but from the table of this package.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...keras_models.errors import MobileClipError
from ...keras_models.shown import shown_name
from ...keras_models.store.file_names import CONFIG, WEIGHTS
from ...keras_models.store.foreign.json_fields import (
    Check,
    fields,
    listed,
    mapping,
    nullable,
    number,
    problems,
    sha256,
    text,
    whole,
)
from ...keras_models.store.foreign.json_file import read_json
from ...verify.evaluation.data.dataset import KINDS
from ...verify.evaluation.figures import NAMES
from ...verify.evaluation.intervals import Figure
from ...verify.evaluation.published import compare, rows
from ...verify.evaluation.report import FORMAT, PROGRAM
from .contents import PREPROCESSING_FILE

MOST_IMAGES = 10**12
_SHARE = number(0, 1)
_COUNT = whole(0, MOST_IMAGES)
_MODEL = {
    "kind": text(among=("Keras",)),
    "form": text(among=("inference",)),
    "variant": text(200),
    "name": text(),
    "weights_file": text(255),
    "weights_sha256": sha256,
    "files_sha256": mapping(sha256, most=10),
}
_DATA = {
    **dict.fromkeys(("name", "split"), text()),
    "kind": text(among=KINDS),
    "revision": nullable(text(200)),
    "images": whole(1, MOST_IMAGES),
    **dict.fromkeys(("texts", "templates", "classes"), _COUNT),
    "templates_from": nullable(text(10_000)),
    "fingerprint": sha256,
}
_FIGURE = fields({**dict.fromkeys(("value", "low", "high"), _SHARE), "interval": text(200)})
_FIELDS: Check = fields(
    {
        "program": text(among=(PROGRAM,)),
        "format": whole(FORMAT, FORMAT),
        "date": text(40),
        "model": fields(_MODEL),
        "data": fields(_DATA),
        "figures": mapping(_FIGURE, most=len(NAMES)),
        "published": nullable(fields({"data_set": text(among=tuple(rows()))})),
        "differences": listed(text(10_000), most=100),
        "unreadable_images": _COUNT,
        "device": fields({"name": text()}),
        "software": mapping(text(200), most=50),
    }
)


def read_certificates(
    paths: Sequence[str | Path], hashes: dict[str, str], variant: str
) -> tuple[tuple[dict[str, Any], ...], list[str]]:
    """Certificates, and everything that keeps them from being published, in words.

    Args:
        paths: their files.
        hashes: the SHA-256 of each file of the folder, when it was looked at.
        variant: of the folder.
    """
    found: list[dict[str, Any]] = []
    wrong: list[str] = []
    for path in map(Path, paths):
        try:
            content = read_json(path)
        except OSError as error:
            wrong.append(f"{path} cannot be read: {error.strerror or error}")
            continue
        except MobileClipError as error:
            wrong.append(str(error).removesuffix("."))
            continue
        reasons = problems(content, _FIELDS) or _disagreements(content, hashes, variant)
        if not reasons and any(_of_same_data(content, other) for other in found):
            reasons = ["it is about a data set that another one is about, too"]
        if reasons:
            wrong.append(f"{path} is no certificate of this folder: {'; '.join(reasons)}")
        else:
            found.append(_with_our_figures(content))
    return tuple(found), wrong


def _disagreements(content: dict[str, Any], hashes: dict[str, str], variant: str) -> list[str]:
    """How a certificate contradicts the folder or itself."""
    model, bound = content["model"], content["model"]["files_sha256"]
    place = model["weights_file"].removesuffix(WEIGHTS)
    needed = [f"{place}{CONFIG}", f"{place}{WEIGHTS}", PREPROCESSING_FILE]
    wrong = [f"it does not say which {path} was measured" for path in needed if path not in bound]
    wrong += [f"it is about another {shown_name(path)}" for path, digest in bound.items() if hashes.get(path) != digest]
    if model["variant"] != variant:
        wrong.append(f"it is about {shown_name(model['variant'])}")
    if model["weights_sha256"] != bound.get(model["weights_file"]):
        wrong.append("it names two hashes of the weights")
    if content["unreadable_images"]:
        wrong.append(f"{content['unreadable_images']:,} images of the data set are in no figure")
    figures = content["figures"]
    if not figures:
        wrong.append("it holds no figure")
    wrong += [f"{shown_name(name)} is no figure that is known" for name in figures if name not in NAMES]
    wrong += [
        f"{shown_name(name)} does not lie in its interval"
        for name, figure in figures.items()
        if not figure["low"] <= figure["value"] <= figure["high"]
    ]
    return wrong


def _of_same_data(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(one["data"][key] == other["data"][key] for key in ("name", "split"))


def _with_our_figures(content: dict[str, Any]) -> dict[str, Any]:
    """A certificate with Apple's figures from this package, whatever it says itself."""
    if content["published"] is None:
        return content
    figures = {
        name: Figure(**{key: each[key] for key in Figure.__annotations__}) for name, each in content["figures"].items()
    }
    row, reasons = rows()[content["published"]["data_set"]], tuple(content["differences"])
    comparison = compare(row, content["model"]["variant"], figures, content["data"]["images"], reasons)
    return {**content, "published": comparison.to_json()}
