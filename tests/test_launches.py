"""How many operations PyTorch launches for a tower, beside timm's model: on a GPU each costs some microseconds."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import pytest

from mobileclip_keras.keras_models.towers.folding import reparameterize

from .small_verified import MCI, PAIRS, VIT_CLIP, Pair, build, inputs, reference, rows_of

pytestmark = [
    pytest.mark.usefixtures("small_towers"),
    pytest.mark.backend,
    pytest.mark.torch,
    pytest.mark.skipif(keras.backend.backend() != "torch", reason="about PyTorch"),
]

# They make other views of the same memory, or memory that nobody has filled.
NOT_LAUNCHED = ("view", "permute", "reshape", "transpose", "slice.", "select.", "expand", "squeeze", "detach", "split")
NOT_LAUNCHED += ("alias", "aten.t.", "lift_fresh", "empty", "as_strided", "dropout", "unbind", "_local_scalar")


@contextmanager
def launched() -> Iterator[Counter[str]]:
    """Counts operations by name while it is open."""
    from torch.utils._python_dispatch import TorchDispatchMode

    found: Counter[str] = Counter()

    class Counting(TorchDispatchMode):
        def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if not any(part in str(operation) for part in NOT_LAUNCHED):
                found[str(operation)] += 1
            return operation(*args, **(kwargs or {}))

    with Counting():
        yield found


def count(run: Callable[[], Any]) -> Counter[str]:
    run()
    with launched() as found:
        run()
    return found


LAST_QUERY = {VIT_CLIP: 1}
"""In the last block, the query of the class token alone: one product more, and a seventh of the block's arithmetic. The
other towers save as many operations elsewhere."""


@pytest.mark.parametrize("pair", [MCI, *(pytest.param(pair, marks=pytest.mark.nightly) for pair in PAIRS[1:])])
def test_an_image_launches_no_more_than_timms_folded_tower_does(pair: Pair) -> None:
    import torch

    model = reparameterize(build(pair, rows_of(pair)), "inference")
    folded = reference(pair).to("float32").folded.image_tower
    image = torch.from_numpy(inputs(pair[0]).images[:1])
    with torch.no_grad():
        ours = count(lambda: model.image_encoder(image))
        theirs = count(lambda: folded(image.permute(0, 3, 1, 2)))
    assert ours.total() <= theirs.total() + LAST_QUERY.get(pair, 0), (ours, theirs)


@pytest.mark.parametrize("pair", [MCI, *(pytest.param(pair, marks=pytest.mark.nightly) for pair in PAIRS[1:3])])
def test_a_text_launches_no_more_than_pytorchs_folded_tower_does(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its attention operation by operation: PyTorch's own fast path counts as one, and launches as many inside."""
    import torch

    monkeypatch.setattr(torch.backends.mha, "get_fastpath_enabled", lambda: False)
    model = reparameterize(build(pair, rows_of(pair)), "inference")
    folded = reference(pair).to("float32").folded.text_tower
    text = torch.from_numpy(inputs(pair[0]).tokens[:1])
    with torch.no_grad():
        ours = count(lambda: model.text_encoder(text))
        theirs = count(lambda: folded(text.long()))
    assert ours.total() <= theirs.total(), (ours, theirs)


def test_batch_norm_in_training_is_one_operation_each_way() -> None:
    """Plain, it would be ten forward and thirty backward."""
    model = build(MCI, rows_of(MCI))
    norms = sum(variable.name == "num_batches_tracked" for variable in model.image_encoder.weights)
    images = keras.ops.convert_to_tensor(inputs(MCI[0]).images[:2])
    ours = count(lambda: keras.ops.sum(model.image_encoder(images, training=True)).backward())
    assert norms == ours["aten.native_batch_norm.default"] == ours["aten.native_batch_norm_backward.default"]
    reference_tower = reference(MCI).to("float32").image_tower.train().requires_grad_()
    pixels = images.permute(0, 3, 1, 2).contiguous()  # else oneDNN writes outside its memory in the gradient
    theirs = count(lambda: reference_tower(pixels).sum().backward())
    # Beside timm's: both averages are copied and assigned, where PyTorch moves them in place.
    assert ours.total() <= theirs.total() + 6 * norms, (ours, theirs)


def test_what_is_counted_is_what_is_launched() -> None:
    import torch

    numbers = torch.ones(3, 4)
    with launched() as found:
        (numbers.T.reshape(2, 6) + np.float32(1)).sum()
    assert found.total() == 3, "a copy, a sum of two, a sum of all"
