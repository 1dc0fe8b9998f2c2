"""What every backend's `in_chunks` has in common."""

from keras import ops

from ..types import Tensor


def interleaved(parts: list[Tensor]) -> Tensor:
    """Rows whose every k-th, from the i-th, are those of part i of k. The first parts may have one row more."""
    shortest = parts[-1].shape[0]
    even = ops.stack([part[:shortest] for part in parts], axis=1)
    even = ops.reshape(even, (shortest * len(parts), *parts[0].shape[1:]))
    return ops.concatenate([even, *(part[shortest:] for part in parts if part.shape[0] > shortest)], axis=0)


def changes(before: list[Tensor], after: list[Tensor]) -> dict[int, Tensor]:
    """What is another object than before, by place."""
    return {place: new for place, (old, new) in enumerate(zip(before, after, strict=True)) if new is not old}
