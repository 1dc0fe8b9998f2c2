"""Apple's published figures of each variant, and what a measured figure says beside them.

accuracy.tsv holds the main figure of each data set, to six digits. Source: the files results/*.jsonl of
github.com/apple/ml-mobileclip. Which figure is the main one, and how many images it is of, is what DataComp's
evaluation says (github.com/mlfoundations/datacomp, tasklist.yml), whose data sets Apple used. For some data sets Apple
publishes no main figure, or none of the older variants; those places are empty.
"""

import csv
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import PurePosixPath
from typing import Any

from ...keras_models.errors import MobileClipError
from .intervals import Figure

SOURCE = "github.com/apple/ml-mobileclip, results/*.jsonl"
ALIASES = {
    "mscoco-captions": "retrieval/mscoco_2014_5k_test_image_text_retrieval",
    "flickr30k": "retrieval/flickr_1k_test_image_text_retrieval",
}
"""What CLIP_benchmark calls two of the data sets."""
MEASURED = {"acc1", "mean_per_class_recall", "mean_recall@1"}
"""Main figures that an evaluation measures."""


class UnknownDataError(MobileClipError):
    """No published data set has the name given."""


@dataclass(frozen=True)
class Row:
    """One data set with Apple's figures."""

    key: str
    title: str
    metric: str
    """The main figure; "" where none is published."""
    images: int | None
    """Of the data set; None where no source says it."""
    values: dict[str, float]
    """From 0 to 1, by variant. A variant without a figure is not in it."""


@cache
def rows() -> dict[str, Row]:
    """Every data set, by its key ("vtab/caltech101")."""
    text = (resources.files(__package__) / "accuracy.tsv").read_text(encoding="utf-8")
    found = {}
    for line in csv.DictReader(text.splitlines(), delimiter="\t"):
        key, title, metric, images = (line.pop(name) for name in ("key", "dataset", "metric", "images"))
        values = {variant: float(value) for variant, value in line.items() if value}
        found[key] = Row(key, title, metric, int(images) if images else None, values)
    return found


def find(data: str, named: str | None = None) -> Row | None:
    """The published data set that a data set is, as its name says.

    Args:
        data: its folder or repository, such as "clip-benchmark/wds_vtab-caltech101".
        named: a key, where the user says which it is; "none" for none of them.

    Raises:
        UnknownDataError: where no data set has that key.
    """
    known = {_plain(key): row for key, row in rows().items()} | {alias: rows()[key] for alias, key in ALIASES.items()}
    if named is not None:
        if named == "none":
            return None
        if _plain(named) not in known:
            raise UnknownDataError(f"Apple publishes no figure of {named!r}. It does of: {', '.join(rows())}.")
        return known[_plain(named)]
    name = _plain(PurePosixPath(data.replace("\\", "/")).name).removeprefix("wds-")
    for each in (name, name.removesuffix("-test")):
        short = {key.rpartition("/")[2]: row for key, row in rows().items()}
        row = known.get(each) or {_plain(key): row for key, row in short.items()}.get(each)
        if row is not None:
            return row
    return None


def _plain(name: str) -> str:
    return name.lower().replace("/", "-").replace("_", "-")


@dataclass(frozen=True)
class Comparison:
    """A measured figure beside the published one."""

    row: Row
    published: float | None
    """Of the model's variant; None where there is none."""
    measured: Figure | None
    """None where an evaluation does not measure this figure."""
    reasons: tuple[str, ...]
    """What was done otherwise than by Apple, as far as it is known, in sentences."""

    @property
    def agrees(self) -> bool | None:
        """Whether the published figure lies in the interval of the measured one; None where one is missing."""
        if self.published is None or self.measured is None:
            return None
        return self.measured.low <= self.published <= self.measured.high

    def sentence(self) -> str:
        """What comes out, for people."""
        where = f"{self.row.title}, {self.row.metric or 'main figure'}"
        if self.published is None:
            return f"Apple publishes no figure of this variant on {self.row.title}."
        if self.measured is None:
            return f"Apple's figure on {where}: {self.published:.2%}. It is not measured here."
        found = self.measured
        start = f"Apple's figure on {where}: {self.published:.2%}. Measured: {found.value:.2%}"
        between = f"({found.low:.2%} to {found.high:.2%} with 95 %)."
        if self.agrees:
            return f"{start} {between} They agree."
        points = 100 * (found.value - self.published)
        why = " ".join(self.reasons) or "No reason is known here."
        return f"{start} {between} They do not agree: {abs(points):.2f} points {_side(points)}. {why}"

    def to_json(self) -> dict[str, Any]:
        """As a certificate has it."""
        return {
            "source": SOURCE,
            "data_set": self.row.key,
            "metric": self.row.metric,
            "value": self.published,
            "images": self.row.images,
            "agrees": self.agrees,
            "says": self.sentence(),
        }


def _side(points: float) -> str:
    return "more" if points > 0 else "less"


def compare(
    row: Row, variant: str | None, figures: dict[str, Figure], images: int, reasons: tuple[str, ...]
) -> Comparison:
    """A measured figure beside the published one.

    Args:
        row: the data set.
        variant: of the model.
        figures: that were measured.
        images: that were measured.
        reasons: what else was done otherwise.
    """
    if row.images is not None and images != row.images:
        reasons = (*reasons, f"{images:,} images were measured, and Apple's figure is of {row.images:,}.")
    measured = figures.get(row.metric) if row.metric in MEASURED else None
    return Comparison(row, row.values.get(variant or ""), measured, reasons)
