"""Reading checkpoints that are divided over several files, beside which an index says which tensor lies where."""

from collections.abc import Callable
from pathlib import Path

from ....keras_models.errors import MobileClipError
from ....keras_models.store.foreign.foreign_files import check_regular
from ....keras_models.store.foreign.json_fields import fields, mapping, problems, text
from ....keras_models.store.foreign.json_file import Limits, read_json
from .tensor_file import CheckpointError, TensorFile

INDEX_SUFFIXES = (".safetensors.index.json", ".bin.index.json")
MOST_NAMED = 6
INDEX_LIMITS = Limits(size=16 << 20, depth=8, items=1_000_000)
MOST_TENSORS, LONGEST_NAME = 100_000, 1000
_INDEX = fields({"weight_map": mapping(text(255), MOST_TENSORS, LONGEST_NAME)})


def open_sharded(index: Path, open_file: Callable[[Path], list[TensorFile]]) -> TensorFile:
    """The tensors of all files that an index names.

    Args:
        index: the file of names.
        open_file: opens one file of tensors.

    Raises:
        CheckpointError: where the index or a shard is missing or damaged, or they do not belong together.
    """
    named = _weight_map(index)
    paths = shards(index)
    opened = {path.name: _one(open_file(path), path) for path in paths}
    owner = {name: shard for shard in opened.values() for name in shard.shapes}
    if len(owner) != sum(len(shard.shapes) for shard in opened.values()):
        raise CheckpointError(f"Two shards of {index.name} hold a tensor of the same name.")
    wrong = [
        name
        for name in sorted(named.keys() | owner.keys())
        if name not in owner or name not in named or opened[named[name]] is not owner[name]
    ]
    if wrong:
        raise CheckpointError(
            f"{index.name} and its shards do not agree where these tensors are: {_some(wrong)}. "
            "Download all files of the checkpoint again."
        )
    return TensorFile(
        {name: shard.shapes[name] for name, shard in owner.items()},
        {name: shard.dtypes[name] for name, shard in owner.items()},
        lambda name: owner[name].read(name),
        [f"sharded over {len(opened)} files"],
    )


def _one(places: list[TensorFile], path: Path) -> TensorFile:
    if len(places) > 1:
        raise CheckpointError(f"{path.name} holds tensors in several places, which a shard does not.")
    return places[0]


def shards(index: Path) -> list[Path]:
    """The files that an index names, all of them beside it.

    Raises:
        CheckpointError: naming all that are missing or lie elsewhere.
    """
    names = sorted(set(_weight_map(index).values()))
    foreign = [name for name in names if Path(name).name != name or name in ("", "..")]
    missing = [name for name in names if name not in foreign and not (index.parent / name).is_file()]
    wrong = [
        f"{_plural(len(some), 'the shard', 'the shards')} {_some(some)}, which {_plural(len(some), 'is', 'are')} {why}"
        for some, why in ((foreign, "outside its folder"), (missing, "not beside it"))
        if some
    ]
    if wrong or not names:
        raise CheckpointError(f"{index.name} names {' and '.join(wrong) or 'no shards'}.")
    for name in names:
        check_regular(index.parent / name, index.parent)
    return [index.parent / name for name in names]


def _weight_map(index: Path) -> dict[str, str]:
    """Which shard holds each tensor."""
    try:
        content = read_json(index, INDEX_LIMITS)
    except MobileClipError as error:
        raise CheckpointError(f"{index} is not the index of a sharded checkpoint: {error}") from error
    wrong = problems(content, _INDEX)
    if wrong:
        raise CheckpointError(f"{index} is not the index of a sharded checkpoint: {wrong[0]}.")
    weight_map: dict[str, str] = content["weight_map"]
    return weight_map


def index_in(folder: Path) -> Path:
    """The index of the sharded checkpoint in a folder; of the safetensors where both kinds are there."""
    for suffix in INDEX_SUFFIXES:
        found = sorted(folder.glob(f"*{suffix}"))
        if len(found) == 1:
            return found[0]
        if found:
            break
    wanted = " or ".join(f"*{suffix}" for suffix in INDEX_SUFFIXES)
    raise CheckpointError(f"{folder} is a folder. Give a checkpoint file, or a folder with one {wanted}.")


def _some(names: list[str]) -> str:
    return ", ".join(names[:MOST_NAMED]) + (f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else "")


def _plural(count: int, one: str, many: str) -> str:
    return one if count == 1 else many
