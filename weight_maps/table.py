"""Tables of rows, read from the committed files beside this one.

A file is named <tower>.<layout>.<form>.tsv: tower as in keras_models/architectures.py; layout "apple", "open_clip"
or "timm"; form "train", or "reparameterized" where folding branches renames tensors. Files are written by
generate.py and are never edited by hand.
"""

import csv
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields, replace
from functools import cache
from pathlib import Path

from .axes import source_shape

TABLES = Path(__file__).parent / "tables"
LAYOUTS = ("apple", "open_clip", "timm")
NONE = "-"


@dataclass(frozen=True)
class Row:
    """One tensor of a checkpoint and the one Keras variable that it becomes."""

    source: str
    """Name of the tensor; "-" where the layout has none (see `absent`)."""
    source_shape: tuple[int, ...]
    dtype: str
    """Of the published tensor: "float32" or "int64"."""
    axes: str
    """einops text from the tensor's axes to the variable's; swap its sides to go back."""
    target: str
    """Name of the variable, its path below the model."""
    target_shape: tuple[int, ...]
    absent: str = NONE
    """"zeros" where one side may lack its half of the row, which then stands for zeros; "-" elsewhere."""

    @property
    def may_be_absent(self) -> bool:
        return self.absent == "zeros"

    @property
    def is_counter(self) -> bool:
        """Whether it counts a batch norm's training steps, which no output depends on."""
        return self.source.endswith("num_batches_tracked")

    def renamed(self, source: str) -> "Row":
        """The same row for a tensor of another name."""
        return self if NONE in (source, self.source) else replace(self, source=source)

    def with_target_shape(self, shape: tuple[int, ...]) -> "Row":
        """The same row for a variable of another shape, and the tensor that becomes it."""
        return replace(self, source_shape=source_shape(self.axes, shape), target_shape=shape)


def read_rows(path: Path) -> tuple[Row, ...]:
    """The rows of a table file."""
    with open(path, newline="", encoding="utf-8") as file:
        header, *lines = csv.reader(file, delimiter="\t")
    if header != [field.name for field in fields(Row)]:
        raise ValueError(f"{path} does not begin with the columns of a weight table.")
    return tuple(
        Row(source, _shape(source_shape), dtype, axes, target, _shape(target_shape), absent)
        for source, source_shape, dtype, axes, target, target_shape, absent in lines
    )


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Writes a table file."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow([field.name for field in fields(Row)])
        for row in rows:
            writer.writerow("x".join(map(str, v)) if isinstance(v, tuple) else v for v in astuple(row))


def _shape(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split("x"))) if text else ()


@cache
def tower_rows(tower: str, layout: str, form: str) -> tuple[Row, ...]:
    """The rows of one tower.

    Raises:
        LookupError: where the layout has no such tower.
    """
    tower = tower.removesuffix("_causal")  # a causal mask is no tensor, so both transformers share their table
    for wanted in (form, "train"):
        path = TABLES / f"{tower}.{layout}.{wanted}.tsv"
        if path.exists():
            return read_rows(path)
        if wanted == "reparameterized" and _renames(tower):
            break
    raise LookupError(f"The {layout} layout has no {tower}.")


def _renames(tower: str) -> bool:
    """Whether folding a tower's branches renames tensors, in any layout."""
    return any(TABLES.glob(f"{tower}.*.reparameterized.tsv"))


LOGIT_SCALE = Row("logit_scale", (), "float32", "->", "logit_scale", ())
LOGIT_BIAS = Row("logit_bias", (), "float32", "->", "logit_bias", ())


@cache
def model_rows(image_tower: str | None, text_tower: str | None, layout: str, form: str) -> tuple[Row, ...]:
    """The rows of a checkpoint. Only one of both towers has a logit scale.

    Raises:
        LookupError: where the layout has no such tower.
    """
    rows: tuple[Row, ...] = (LOGIT_SCALE,) if image_tower and text_tower else ()
    for tower in (image_tower, text_tower):
        if tower is not None:
            rows += tower_rows(tower, layout, form)
    return rows
