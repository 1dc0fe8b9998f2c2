"""Which variant, layout and form a checkpoint has. All its names and shapes must equal those of a table."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path

from ...keras_models.architectures import IMAGE_TOWERS, TEXT_TOWERS, ViTConfig
from ...keras_models.errors import MobileClipError
from ...keras_models.registry import VARIANTS, Variant, find_variant, get_variant
from ...keras_models.shown import shown_name
from ...weight_maps.audit import UNEXPECTED, Problem, audit, report
from ...weight_maps.table import LAYOUTS, LOGIT_BIAS, LOGIT_SCALE, NONE, Row, model_rows
from .towers import image_size_of

Shapes = Mapping[str, tuple[int, ...]]


class UnknownCheckpointError(MobileClipError):
    """A checkpoint is none of those known; the message says which is nearest and how it differs."""


class WrongVariantError(MobileClipError):
    """A checkpoint is not of the variant asked for, or could be of several."""


@dataclass(frozen=True)
class CheckpointFormat:
    """Which towers a checkpoint holds, how it names their tensors, and whether it has been folded."""

    image_tower: str | None
    """None in a checkpoint of the text tower alone."""
    text_tower: str | None
    """None in a checkpoint of the image tower alone, which every one in the timm layout is."""
    layout: str
    form: str
    """"train" or "reparameterized"."""
    image_size: int | None = None
    """The image size of a ViT's position embeddings, where it is not the variant's."""
    logit_bias: bool = False
    """Whether there is a bias of the logits, as SigLIP's loss trains one."""
    lone_scale: bool = False
    """Whether one tower alone comes with a logit scale."""

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        rows = model_rows(self.image_tower, self.text_tower, self.layout, self.form)
        if self.image_size is not None:
            rows = tuple(_at_size(row, self.image_tower, self.image_size) for row in rows)
        scalars = ((self.lone_scale, LOGIT_SCALE), (self.logit_bias, LOGIT_BIAS))
        return (*rows, *(row for there, row in scalars if there))

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {row.source: row.source_shape for row in self.rows if row.source != NONE}

    @property
    def towers(self) -> str:
        """ "both", "image" or "text"."""
        if self.image_tower and self.text_tower:
            return "both"
        return "image" if self.image_tower else "text"

    @property
    def variants(self) -> tuple[Variant, ...]:
        """The published variants that hold exactly these tensors."""
        return tuple(
            variant
            for variant in VARIANTS.values()
            if self.image_tower in (None, variant.image_tower)
            and (self.text_tower is None or _without_mask(variant.text_tower) == self.text_tower)
        )

    def __str__(self) -> str:
        names = " or ".join(variant.name for variant in self.variants)
        folded = ", reparameterised" if self.form != "train" else ""
        tower = "" if self.towers == "both" or self.layout == "timm" else f"the {self.towers} tower of "
        return f"{tower}{names} in the {self.layout} layout{folded}"


def known_formats() -> Iterator[CheckpointFormat]:
    """Every format that a published file has, or would have once folded, published forms first."""
    yield from _formats(lambda layout: ("image" if layout == "timm" else "both",))


def lone_formats() -> Iterator[CheckpointFormat]:
    """Every format of one tower alone, taken from a file of both."""
    yield from _formats(lambda layout: () if layout == "timm" else ("image", "text"))


def _formats(towers_of: Callable[[str], tuple[str, ...]]) -> Iterator[CheckpointFormat]:
    seen = set()
    for form in ("train", "reparameterized"):
        for layout in LAYOUTS:
            for towers in towers_of(layout):
                for variant in VARIANTS.values():
                    image = variant.image_tower if towers != "text" else None
                    text = _without_mask(variant.text_tower) if towers != "image" else None
                    known = CheckpointFormat(image, text, layout, form)
                    try:
                        rows = known.rows
                    except LookupError:
                        continue
                    if rows not in seen:
                        seen.add(rows)
                        yield known


def identify(shapes: Shapes, named: Mapping[str, str] | None = None) -> CheckpointFormat:
    """The format of a checkpoint with these names and shapes.

    Args:
        shapes: by published name.
        named: the name in the file, by the published one, where they differ.

    Raises:
        UnknownCheckpointError: where no table has exactly these names and shapes.
    """
    nearest, likeness = None, -1.0
    names = set(shapes)
    for plain in chain(known_formats(), lone_formats()):
        known = _with_options(plain, shapes)
        theirs = set(known.shapes)
        score = len(names & theirs) / len(names | theirs)
        score += 1e-3 * sum(shapes.get(name) == shape for name, shape in known.shapes.items()) / len(theirs)
        if names == theirs and all(tuple(shapes[name]) == known.shapes[name] for name in names):
            return known
        if score > likeness:
            nearest, likeness = known, score
    assert nearest is not None
    raise UnknownCheckpointError(_differences(nearest, likeness, shapes, named or {}))


def _with_options(known: CheckpointFormat, shapes: Shapes) -> CheckpointFormat:
    """A format with what a checkpoint may have besides, or in another size."""
    if known.shapes.keys().isdisjoint(shapes):
        return known
    bias, scale = LOGIT_BIAS.source in shapes, known.towers != "both" and LOGIT_SCALE.source in shapes
    sizes = (image_size_of(row, known.image_tower, shapes.get(row.source, ())) for row in known.rows)
    size = next((size for size in sizes if size is not None), None)
    if size is not None and size == IMAGE_TOWERS[known.image_tower or ""].image_size:
        size = None
    changed = bias or scale or size is not None
    return replace(known, logit_bias=bias, lone_scale=scale, image_size=size) if changed else known


def _at_size(row: Row, tower: str | None, image_size: int) -> Row:
    """A row of a ViT's position embeddings for another image size; any other as it is."""
    config = IMAGE_TOWERS.get(tower or "")
    if not isinstance(config, ViTConfig) or not row.target.endswith("backbone/pos_embed"):
        return row
    count = (image_size // config.patch_size) ** 2 + int(config.class_token_position)
    return row.with_target_shape((1, count, row.target_shape[-1]))


def _differences(nearest: CheckpointFormat, likeness: float, shapes: Shapes, named: Mapping[str, str]) -> str:
    if likeness < 0.01:
        known = len(set(shapes) & set(nearest.shapes))
        first = ", ".join(map(shown_name, list(shapes)[:3]))
        return (
            f"This is no checkpoint of MobileCLIP: {known or 'none'} of its {len(shapes)} tensors "
            f"{'have' if known > 1 else 'has'} a name of one (it begins with {first})."
        )
    problems = [replace(problem, name=named.get(problem.name, problem.name)) for problem in _problems(nearest, shapes)]
    text = f"This is no checkpoint that is known. The nearest is {nearest}, from which it differs:\n{report(problems)}"
    if any(name.endswith(_QUANTISED) for name in shapes):
        text += "\nIts layers were quantised. Convert the checkpoint from before that."
    elif all(problem.kind == UNEXPECTED for problem in problems):
        text += "\nIf these tensors stand beside the model and are no part of it, leave them out with --ignore-extra."
    return text


# What PyTorch's quantised layers add to a checkpoint.
_QUANTISED = (".zero_point", "._packed_params.dtype")


def _problems(known: CheckpointFormat, shapes: Shapes) -> list[Problem]:
    """What a checkpoint lacks, or has too much, to be of a known format."""
    return audit(known.rows, shapes, {row.target: row.target_shape for row in known.rows})


def choose_variant(
    checkpoint_format: CheckpointFormat, wanted: str | None, path: Path, causal: bool | None = None
) -> Variant:
    """The variant of a checkpoint: the one wanted, else the one in its name, else the only one possible.

    If several variants hold the same tensors, only those published in the file's layout are possible.

    Args:
        checkpoint_format: what the file holds.
        wanted: any spelling of a variant; None to detect it.
        path: the file.
        causal: whether a mask in the file says that the text tower is causal; None where there is none.

    Raises:
        WrongVariantError: where the file is of another variant than wanted, or could be of several.
    """
    possible = possible_variants(checkpoint_format, causal, path)
    if wanted is not None:
        variant = get_variant(wanted)
        if variant not in possible:
            mask = "" if variant not in checkpoint_format.variants else f" with {_MASKS[bool(causal)]}"
            raise WrongVariantError(
                f"{path.name} is {checkpoint_format}{mask}, not {variant.name}. "
                f"Convert it with {' or '.join(f'--variant {v.short_name}' for v in possible)}."
            )
        return variant
    for name in (path.stem, path.parent.name):
        named = find_variant(name)
        if named is not None and named in possible:
            return named
    layout = checkpoint_format.layout
    published = [v for v in possible if layout in {file.layout for file in (v.published, *v.copies)}]
    candidates = published or possible
    if len(candidates) == 1:
        return candidates[0]
    choices = " or ".join(f"--variant {variant.short_name}" for variant in candidates)
    raise WrongVariantError(
        f"{path.name} could be {' or '.join(v.name for v in candidates)}, which hold the same tensors. "
        f"Say which with {choices}."
    )


_MASKS = {True: "a causal mask in it", False: "a mask in it that hides nothing"}


def possible_variants(checkpoint_format: CheckpointFormat, causal: bool | None, path: Path) -> tuple[Variant, ...]:
    """The variants of a format whose text towers have the mask that a file says."""
    if causal is None or checkpoint_format.text_tower is None:
        return checkpoint_format.variants
    possible = tuple(v for v in checkpoint_format.variants if TEXT_TOWERS[v.text_tower].causal == causal)
    if not possible:
        raise WrongVariantError(
            f"{path.name} is {checkpoint_format}, but there is {_MASKS[causal]}, and no such variant has that."
        )
    return possible


def format_notes(checkpoint_format: CheckpointFormat) -> list[str]:
    """What is odd about a format, in words."""
    notes = []
    if checkpoint_format.layout == "timm":
        notes.append("the timm layout holds the image tower alone: there is no text tower")
    elif checkpoint_format.towers != "both":
        other = "text" if checkpoint_format.towers == "image" else "image"
        notes.append(f"the file holds the {checkpoint_format.towers} tower alone: there is no {other} tower")
    if checkpoint_format.image_size is not None:
        size = checkpoint_format.image_size
        notes.append(f"the position embeddings are for images of {size} x {size} pixels")
    if checkpoint_format.logit_bias:
        notes.append("the logits have a bias, as SigLIP's loss trains one")
    if checkpoint_format.form != "train":
        notes.append("the checkpoint was reparameterised already: only the inference form can be made")
    return notes


def _without_mask(text_tower: str) -> str:
    return text_tower.removesuffix("_causal")
