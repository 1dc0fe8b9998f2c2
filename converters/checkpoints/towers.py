"""Finding towers among a file's tensors: by the tables alone, under whatever prefix they stand."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property

from ...keras_models.architectures import IMAGE_TOWERS, ViTConfig
from ...keras_models.registry import VARIANTS
from ...weight_maps.table import LOGIT_BIAS, LOGIT_SCALE, NONE, Row, tower_rows
from ...weight_maps.walks import IMAGE_PREFIX, TEXT_PREFIX

Shapes = Mapping[str, tuple[int, ...]]

MOST_PARTS = 40
"""Names of more parts than this are not looked into."""

LIKELY = 0.5
"""A tower is taken to be meant where at least this part of its tensors has the right name."""


@dataclass(frozen=True, eq=False)
class TowerTable:
    """One tower in the names of one family of layouts, without any prefix."""

    kind: str
    """"image" or "text"."""
    tower: str
    family: str
    """"apple", or "open_clip", whose image towers are timm's."""
    form: str
    rows: tuple[Row, ...]

    @property
    def own_prefix(self) -> str:
        """The prefix under which the tower stands in a checkpoint of both towers."""
        return (IMAGE_PREFIX if self.kind == "image" else TEXT_PREFIX)[self.family]

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {row.source: row.source_shape for row in self.rows if row.source != NONE}

    @cached_property
    def roots(self) -> frozenset[str]:
        """The first parts of all names."""
        return frozenset(name.split(".")[0] for name in self.shapes)


@dataclass(frozen=True, eq=False)
class FoundTower:
    """A tower under a prefix of a file."""

    table: TowerTable
    prefix: str
    whole: bool
    """Whether everything of it is there, in the right shape, and nothing else stands inside it."""
    likeness: float

    @property
    def root(self) -> str:
        """The prefix without the layout's own part."""
        return self.prefix.removesuffix(self.table.own_prefix)

    @property
    def is_bare(self) -> bool:
        """Whether the layout's own part of the prefix is missing."""
        return not self.prefix.endswith(self.table.own_prefix)

    @property
    def names(self) -> dict[str, str]:
        """The name under this prefix, by the table's name."""
        return {name: self.prefix + name for name in self.table.shapes}


def find_towers(shapes: Shapes, carries_nothing: Callable[[str], bool] = lambda name: False) -> list[FoundTower]:
    """The likeliest tower under each prefix.

    Args:
        shapes: of all tensors by name.
        carries_nothing: whether a tensor may stand inside a tower without a meaning.
    """
    return _as_published(shapes) or _searched(shapes, carries_nothing)


def _as_published(shapes: Shapes) -> list[FoundTower]:
    """The towers of a file with exactly the names and shapes of a published one. Most are, and need no search."""
    count = len(shapes.keys() - {LOGIT_SCALE.source, LOGIT_BIAS.source})
    for pair in _published():
        if sum(len(table.shapes) for table in pair) != count:
            continue
        theirs = {table.own_prefix + name: shape for table in pair for name, shape in table.shapes.items()}
        if all(shapes.get(name) == shape for name, shape in theirs.items()):
            return [FoundTower(table, table.own_prefix, whole=True, likeness=1.0) for table in pair]
    return []


def _searched(shapes: Shapes, carries_nothing: Callable[[str], bool]) -> list[FoundTower]:
    """The likeliest tower under each prefix, by how many of its names are there."""
    votes: Counter[tuple[str, TowerTable]] = Counter()
    index = _index()
    for name in shapes:
        for prefix, rest in _splits(name):
            for table in index.get(rest, ()):
                votes[prefix, table] += 1
    best: dict[str, FoundTower] = {}  # two kinds have names in common, and one of them is meant
    below: dict[str, list[str]] = {}
    for (prefix, table), count in votes.items():
        if count < LIKELY * len(table.shapes):
            continue
        if prefix not in below:
            below[prefix] = [name.removeprefix(prefix) for name in shapes if name.startswith(prefix)]
        inside = [name for name in below[prefix] if name.split(".")[0] in table.roots]
        found = FoundTower(
            table,
            prefix,
            _is_whole(table, prefix, inside, shapes, carries_nothing),
            count / (len(inside) + len(table.shapes) - count),
        )
        other = best.get(prefix)
        if other is None or (found.whole, found.likeness) > (other.whole, other.likeness):
            best[prefix] = found
    return list(best.values())


def fits(row: Row, tower: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor has the shape that a table asks for, or that of a ViT's positions at another image size."""
    return tuple(shape) == row.source_shape or image_size_of(row, tower, shape) is not None


def image_size_of(row: Row, tower: str | None, shape: tuple[int, ...]) -> int | None:
    """The image size that a ViT's position embeddings are for; None for another tensor, or no square of patches."""
    config = IMAGE_TOWERS.get(tower or "")
    if not isinstance(config, ViTConfig) or not row.target.endswith("backbone/pos_embed"):
        return None
    if len(shape) != len(row.source_shape) or shape[-1] != row.source_shape[-1] or math.prod(shape[:-2]) != 1:
        return None
    patches = shape[-2] - int(config.class_token_position)
    side = math.isqrt(max(patches, 0))
    return side * config.patch_size if side and side * side == patches else None


def _is_whole(
    table: TowerTable, prefix: str, inside: list[str], shapes: Shapes, carries_nothing: Callable[[str], bool]
) -> bool:
    for row in table.rows:
        shape = shapes.get(prefix + row.source)
        if row.source == NONE or (shape is None and row.is_counter):
            continue
        if shape is None or not fits(row, table.tower, shape):
            return False
    return all(name in table.shapes or carries_nothing(prefix + name) for name in inside)


def _splits(name: str) -> Iterator[tuple[str, str]]:
    """Every way to divide a name into a prefix and the rest."""
    yield "", name
    at = name.find(".")
    for _ in range(MOST_PARTS):
        if at < 0:
            return
        yield name[: at + 1], name[at + 1 :]
        at = name.find(".", at + 1)


@cache
def _index() -> dict[str, list[TowerTable]]:
    """The tables that hold a name, by the name."""
    index = defaultdict(list)
    for table in tables():
        for name in table.shapes:
            index[name].append(table)
    return dict(index)


@cache
def tables() -> tuple[TowerTable, ...]:
    """Every tower of the published variants in every family of names, published forms first."""
    found: dict[tuple[Row, ...], TowerTable] = {}
    for pair in _published():
        for table in pair:
            found.setdefault(table.rows, table)
    return tuple(found.values())


def _published() -> Iterator[list[TowerTable]]:
    """The towers of each published variant in every family of names, published forms first."""
    for form in ("train", "reparameterized"):
        for family in ("apple", "open_clip"):
            for variant in VARIANTS.values():
                towers = (("image", variant.image_tower), ("text", variant.text_tower.removesuffix("_causal")))
                found = (_table(kind, tower, family, form) for kind, tower in towers)
                yield [table for table in found if table is not None]


@cache
def _table(kind: str, tower: str, family: str, form: str) -> TowerTable | None:
    prefix = (IMAGE_PREFIX if kind == "image" else TEXT_PREFIX)[family]
    try:
        rows = tower_rows(tower, family, form)
    except LookupError:
        return None
    bare = tuple(row.renamed(row.source.removeprefix(prefix)) for row in rows)
    return TowerTable(kind, tower, family, form, bare)
