"""Which variant, layout and form a checkpoint has. All its names and shapes must equal those of a table."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ...keras_models.errors import MobileClipError
from ...keras_models.registry import VARIANTS, Variant, find_variant, get_variant
from ...weight_maps.audit import Problem, audit, report
from ...weight_maps.table import LAYOUTS, NONE, Row, model_rows

Shapes = Mapping[str, tuple[int, ...]]


class UnknownCheckpointError(MobileClipError):
    """A checkpoint is none of those known; the message says which is nearest and how it differs."""


class WrongVariantError(MobileClipError):
    """A checkpoint is not of the variant asked for, or could be of several."""


@dataclass(frozen=True)
class CheckpointFormat:
    """Which towers a checkpoint holds, how it names their tensors, and whether it has been folded."""

    image_tower: str
    text_tower: str | None
    """None in the timm layout, which holds the image tower alone."""
    layout: str
    form: str
    """"train" or "reparameterized"."""

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        return model_rows(self.image_tower, self.text_tower, self.layout, self.form)

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {row.source: row.source_shape for row in self.rows if row.source != NONE}

    @property
    def variants(self) -> tuple[Variant, ...]:
        """The published variants that hold exactly these tensors."""
        return tuple(
            variant
            for variant in VARIANTS.values()
            if variant.image_tower == self.image_tower
            and (self.text_tower is None or _without_mask(variant.text_tower) == self.text_tower)
        )

    def __str__(self) -> str:
        names = " or ".join(variant.name for variant in self.variants)
        folded = ", reparameterised" if self.form != "train" else ""
        return f"{names} in the {self.layout} layout{folded}"


def known_formats() -> Iterator[CheckpointFormat]:
    """Every format that there is a table for, published forms first."""
    seen = set()
    for form in ("train", "reparameterized"):
        for layout in LAYOUTS:
            for variant in VARIANTS.values():
                text = None if layout == "timm" else _without_mask(variant.text_tower)
                known = CheckpointFormat(variant.image_tower, text, layout, form)
                try:
                    rows = known.rows
                except LookupError:
                    continue
                if rows not in seen:
                    seen.add(rows)
                    yield known


def identify(shapes: Shapes) -> CheckpointFormat:
    """The format of a checkpoint with these names and shapes.

    Raises:
        UnknownCheckpointError: where no table has exactly these names and shapes.
    """
    nearest, likeness = None, -1.0
    names = set(shapes)
    for known in known_formats():
        theirs = set(known.shapes)
        score = len(names & theirs) / len(names | theirs)
        score += 1e-3 * sum(shapes.get(name) == shape for name, shape in known.shapes.items()) / len(theirs)
        if names == theirs and all(tuple(shapes[name]) == known.shapes[name] for name in names):
            return known
        if score > likeness:
            nearest, likeness = known, score
    assert nearest is not None
    raise UnknownCheckpointError(_differences(nearest, likeness, shapes))


def _differences(nearest: CheckpointFormat, likeness: float, shapes: Shapes) -> str:
    if likeness < 0.01:
        known = len(set(shapes) & set(nearest.shapes))
        return (
            f"This is no checkpoint of MobileCLIP: {known or 'none'} of its {len(shapes)} tensors "
            f"{'have' if known > 1 else 'has'} a name of one (it begins with {', '.join(list(shapes)[:3])})."
        )
    return f"This is no checkpoint that is known. The nearest is {nearest}, from which it differs:\n" + report(
        _problems(nearest, shapes)
    )


def _problems(known: CheckpointFormat, shapes: Shapes) -> list[Problem]:
    """What a checkpoint lacks, or has too much, to be of a known format."""
    return audit(known.rows, shapes, {row.target: row.target_shape for row in known.rows})


def choose_variant(checkpoint_format: CheckpointFormat, wanted: str | None, path: Path) -> Variant:
    """The variant of a checkpoint: the one wanted, else the one in its name, else the only one possible.

    If several variants hold the same tensors, only those published in the file's layout are possible.

    Raises:
        WrongVariantError: where the file is of another variant than wanted, or could be of several.
    """
    if wanted is not None:
        variant = get_variant(wanted)
        if variant not in checkpoint_format.variants:
            raise WrongVariantError(
                f"{path.name} is {checkpoint_format}, not {variant.name}. "
                f"Convert it with {' or '.join(f'--variant {v.short_name}' for v in checkpoint_format.variants)}."
            )
        return variant
    for name in (path.stem, path.parent.name):
        named = find_variant(name)
        if named is not None and named in checkpoint_format.variants:
            return named
    layout = checkpoint_format.layout
    published = [v for v in checkpoint_format.variants if layout in {file.layout for file in (v.published, *v.copies)}]
    candidates = published or checkpoint_format.variants
    if len(candidates) == 1:
        return candidates[0]
    choices = " or ".join(f"--variant {variant.short_name}" for variant in candidates)
    raise WrongVariantError(
        f"{path.name} could be {' or '.join(v.name for v in candidates)}, which hold the same tensors. "
        f"Say which with {choices}."
    )


def _without_mask(text_tower: str) -> str:
    return text_tower.removesuffix("_causal")
