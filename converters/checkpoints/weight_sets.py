"""The sets of weights in a file: where they lie, what they are called, and which one is meant."""

from collections.abc import Callable
from dataclasses import dataclass, field

from .formats.tensor_file import CheckpointError, TensorFile
from .towers import FoundTower, find_towers
from .wrappers import unwrapped

SCALARS = ("logit_scale", "logit_bias")
# What training code calls the weights that it trains, the usual ones first. Averages of them have other names.
PLAIN = ("", "state_dict", "model_state_dict", "model", "module", "net", "network", "weights")


@dataclass
class WeightSet:
    """The weights of one model, or of one tower, among the tensors of a file.

    Attributes:
        tensors: where they lie.
        names: the name in the file of each of the place's tensors, by its name without wrappers.
        towers: those that were found, at most one of each kind; none where nothing is known of the place.
        root: the prefix of all names.
        notes: what is odd, in words.
    """

    tensors: TensorFile
    names: dict[str, str]
    towers: list[FoundTower] = field(default_factory=list)
    root: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """What `--weights` calls it."""
        return "/".join(part for part in (self.tensors.place, self.root.rstrip(".")) if part)

    @property
    def held(self) -> set[str]:
        """The names in the file of everything that belongs to it."""
        within = {name for tower in self.towers for name in tower.names.values()}
        within |= {self.root + name for name in SCALARS} if self.root else set()
        return {original for name, original in self.names.items() if name in within}

    @property
    def is_whole(self) -> bool:
        return bool(self.towers) and all(tower.whole for tower in self.towers)

    @property
    def layout(self) -> str:
        """ "timm" for an image tower alone under no prefix of a layout's own."""
        (first, *others) = self.towers
        bare_timm = first.table.kind == "image" and first.table.family == "open_clip" and first.is_bare
        return "timm" if bare_timm and not others else first.table.family


def sets_in(tensors: TensorFile, carries_nothing: Callable[[TensorFile, str], str | None]) -> list[WeightSet]:
    """The sets of weights in one place of a file; one without towers where the tables know nothing of it."""
    names, notes = unwrapped(tensors.shapes)
    shapes = {name: tensors.shapes[original] for name, original in names.items()}
    found = find_towers(shapes, lambda name: carries_nothing(tensors, names[name]) is not None)
    groups: dict[tuple[str, str], list[FoundTower]] = {}
    for tower in sorted(found, key=lambda tower: (not tower.whole, -tower.likeness)):
        group = groups.setdefault((tower.root, tower.table.family), [])
        if all(tower.table.kind != other.table.kind for other in group):
            group.append(tower)
    joined = _joined(list(groups.values()))
    return [WeightSet(tensors, names, towers, _root(towers), list(notes)) for towers in joined] or [
        WeightSet(tensors, names, notes=list(notes))
    ]


def _joined(groups: list[list[FoundTower]]) -> list[list[FoundTower]]:
    """Joins an image tower and a text tower that stand under prefixes of somebody's own, if there are no others."""
    if len(groups) != 2 or len({group[0].table.family for group in groups}) > 1:
        return groups
    towers = [tower for group in groups for tower in group]
    return [towers] if sorted(tower.table.kind for tower in towers) == ["image", "text"] else groups


def _root(towers: list[FoundTower]) -> str:
    """The prefix that all towers of a set have in common, without what the layout itself puts there."""
    roots = [tower.root.split(".") for tower in towers]
    common = []
    for parts in zip(*roots, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return ".".join(common) + "." if any(common) and common[-1] else ".".join(common)


def choose(sets: list[WeightSet], wanted: str | None, file: str) -> tuple[WeightSet, list[str]]:
    """The set that is meant, and the names of the others that could be converted.

    Args:
        sets: of the whole file.
        wanted: the name of one, or the end of its name; None for the usual one.
        file: its name, for the messages.

    Raises:
        CheckpointError: where there is no such set, or several and none is the usual one.
    """
    whole = [one for one in sets if one.is_whole]
    if wanted is not None:
        chosen = _named(whole or sets, wanted, file) if whole else _named(sets, wanted, file)
    elif len(whole) > 1:
        chosen = _usual(whole, file)
    elif whole:
        chosen = whole[0]
    else:
        chosen = max(sets, key=lambda one: (sum(tower.likeness for tower in one.towers), len(one.tensors.shapes)))
    return chosen, [one.name or "the top of the file" for one in whole if one is not chosen]


def _named(sets: list[WeightSet], wanted: str, file: str) -> WeightSet:
    same = [one for one in sets if one.name == wanted]
    ending = [one for one in sets if one.name.endswith((f"/{wanted}", f".{wanted}"))]
    for found in (same, ending):
        if len(found) == 1:
            return found[0]
    raise CheckpointError(f"{file} holds no weights {wanted!r}, or several. It holds {_listed(sets)}.")


def _usual(sets: list[WeightSet], file: str) -> WeightSet:
    """The one set of plain weights, as averages and other models have names of their own.

    A whole model comes before one of its towers, which some code keeps under a second name.
    """
    ranks = {index: [PLAIN.index(p) for p in one.name.split("/")] for index, one in enumerate(sets) if _is_plain(one)}
    if not ranks:
        raise CheckpointError(
            f"{file} holds several sets of weights: {_listed(sets)}. Say which one with --weights NAME."
        )
    return sets[min(ranks, key=lambda index: (-len(sets[index].towers), len(ranks[index]), ranks[index]))]


def _is_plain(one: WeightSet) -> bool:
    return all(part in PLAIN for part in one.name.split("/"))


def _listed(sets: list[WeightSet]) -> str:
    names = [one.name or '"" (the top of the file)' for one in sets]
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
