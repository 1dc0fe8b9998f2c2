"""Taking off what PyTorch's own wrappers of modules put into the names of tensors."""

from collections import Counter
from collections.abc import Iterable

# Data-parallel training, torch.compile, sharded training and activation checkpointing.
WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")


def unwrapped(names: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """Names without the parts that wrappers added, wherever these stand.

    A name that would then be another's keeps them.

    Returns:
        The name in the file by the name without wrappers, and notes that say what was taken off.
    """
    found = {name: name for name in names}
    notes = []
    while first := next((w for w in WRAPPERS if found and all(name.startswith(f"{w}.") for name in found)), None):
        notes.append(f'every name begins with "{first}."')
        found = {name.removeprefix(f"{first}."): original for name, original in found.items()}
    short = {name: _without(name) for name in found}
    counts = Counter(short.values())
    changed = {name for name, without in short.items() if without != name and counts[without] == 1}
    for wrapper in WRAPPERS:
        count = sum(wrapper in name.split(".") for name in changed)
        if count:
            notes.append(f'"{wrapper}." was taken out of {count} {"name" if count == 1 else "names"}')
    return {short[name] if name in changed else name: original for name, original in found.items()}, notes


def _without(name: str) -> str:
    *path, last = name.split(".")
    return ".".join([*(part for part in path if part not in WRAPPERS), last])
