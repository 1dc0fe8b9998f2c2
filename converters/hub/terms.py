"""Whose weights a folder holds, and on what terms they may be passed on: Apple's, or this project's own.

Apple's licence (assets/LICENSE_MODELS.txt, the file LICENSE_MODELS of github.com/apple/ml-mobileclip) lets a
converted copy be passed on if the copy carries the licence and the notice below, calls itself a Model
Derivative, names what was changed, and claims no endorsement. The card does all that, and reports the verification.
Weights that this project trained are under its own licence, and no card of theirs says that Apple made them.
"""

import json
from dataclasses import dataclass
from importlib import resources
from string import Template
from typing import Any

from ...keras_models.registry import Variant
from ...verify.shapes.checkpoint import REPORT

NOTICE = (
    "Apple Machine Learning Research Model is licensed under the Apple Machine Learning Research Model "
    "License Agreement."
)
CHANGES = "## What was changed"


@dataclass(frozen=True)
class Terms:
    """What a folder must carry.

    Attributes:
        license: of the weights, as the Hub names it.
        holder: whose licence it is, in words.
        license_asset: the file of assets/ that holds its text.
        parts: the ending of the files of assets/ that hold this publisher's parts of the card.
        needed: what the card must say.
        base: how the name of the original's repository begins; "" for weights that are no copy of another's.
        notice: the sentence that goes with the weights wherever they go.
    """

    license: str
    holder: str
    license_asset: str
    parts: str
    needed: tuple[str, ...]
    base: str
    notice: str

    @property
    def text(self) -> str:
        """The licence, to be written beside the weights."""
        return asset(self.license_asset)


APACHE_2 = "LICENSE_CODE.txt"
"""The file of assets/ that holds the Apache License 2.0."""
APPLES = Terms(
    license="apple-amlr",
    holder="Apple's licence",
    license_asset="LICENSE_MODELS.txt",
    parts="apple",
    needed=(NOTICE, "Model Derivative", CHANGES),
    base="apple/",
    notice=NOTICE,
)
OUR_OWN = Terms(
    license="apache-2.0",
    holder="this project's licence",
    license_asset=APACHE_2,
    parts="ours",
    needed=("not made by Apple", CHANGES),
    base="",
    notice="mobileclip-keras trained these weights. They are not Apple's. The licence is Apache 2.0.",
)


def terms_of(variant: Variant) -> Terms:
    """The terms of a variant's weights."""
    return OUR_OWN if variant.is_ours else APPLES


def card_parts(variant: Variant, both_towers: bool, fine_tuned: bool = False) -> dict[str, str]:
    """What a model card says differently for each publisher, by the name of its place.

    Args:
        variant: whose weights they are.
        both_towers: whether both are stored.
        fine_tuned: whether the weights are those of a fine-tuning.
    """
    terms, words = terms_of(variant), {"notice": NOTICE}
    if variant.hub_files:
        words["base_model"] = variant.hub_files[0].repo
    filled = {name: Template(asset(f"{name}_{terms.parts}.md")).substitute(words).rstrip() for name in _PARTS}
    front = f"base_model: {words['base_model']}\n" if terms.base else ""
    accuracy = _accuracy(variant, both_towers, fine_tuned)
    filled["origin"] = (_TUNED if fine_tuned else "") + filled["origin"]
    return {**filled, "front_matter": front, "accuracy": accuracy, "license": terms.license}


def bundle_terms(variant: Variant) -> str:
    """What the README of a bundle says of its licence."""
    terms = terms_of(variant)
    return Template(asset(f"bundle_{terms.parts}.md")).substitute(notice=terms.notice).rstrip()


_PARTS = ("origin", "papers", "terms")
_TUNED = """\
**These weights were fine-tuned.** They are not those of the original: what it can do, they may do better or worse. What
follows says where the original comes from.

"""


def _accuracy(variant: Variant, both_towers: bool, fine_tuned: bool) -> str:
    original = "the original" if both_towers else "the original with both towers"
    original += " before it was fine-tuned" if fine_tuned else ""
    if variant.imagenet_top1 is not None:
        published = f"{variant.imagenet_top1:.1f} %: Apple's published number for {original}, not measured here"
        return f"| ImageNet-1k zero-shot top-1 | {published} |"
    measured = f"{own_report()['accuracy']['overall']:.1%} for {original}".replace("%", " %", 1)
    return f"| Zero-shot, on generated pictures of pairs of colour and shape that training never showed | {measured} |"


def own_report() -> dict[str, Any]:
    """How this project's own checkpoint was made, and how well it does."""
    return json.loads(REPORT.read_text(encoding="utf-8"))


def asset(name: str) -> str:
    """The text of a file of assets/."""
    return (resources.files(__package__) / "assets" / name).read_text(encoding="utf-8")
