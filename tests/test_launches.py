"""How many operations PyTorch launches for a tower, beside timm's model: on a GPU each costs some microseconds."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import pytest

from mobileclip_keras.keras_models.layers.initializers import to_be_overwritten
from mobileclip_keras.keras_models.models.model import MobileClipModel
from mobileclip_keras.keras_models.registry import get_variant
from mobileclip_keras.keras_models.towers.folding import reparameterize
from mobileclip_keras.verify.data.inputs import Inputs, fixed_inputs
from mobileclip_keras.verify.torch_models import build_reference
from mobileclip_keras.weight_maps.table import NONE, model_rows

from .small_verified import MCI, PAIRS, Pair, build, inputs, reference, rows_of

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


def launches(
    pair: Pair, model: MobileClipModel, theirs: Any, given: Inputs
) -> dict[str, tuple[Counter[str], Counter[str]]]:
    """Of one image and of one text: ours, and those of PyTorch's folded towers.

    Attention is counted operation by operation in PyTorch's text tower: its fast path counts as one, and launches as
    many inside.
    """
    import torch

    image, text = torch.from_numpy(given.images[:1]), torch.from_numpy(given.tokens[:1])
    was = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            return {
                f"image of {pair[0]}": (
                    count(lambda: model.image_encoder(image)),
                    count(lambda: theirs.image_tower(image.permute(0, 3, 1, 2))),
                ),
                f"text of {pair[1]}": (
                    count(lambda: model.text_encoder(text)),
                    count(lambda: theirs.text_tower(text.long())),
                ),
            }
    finally:
        torch.backends.mha.set_fastpath_enabled(was)


@pytest.mark.parametrize("pair", [MCI, *(pytest.param(pair, marks=pytest.mark.nightly) for pair in PAIRS[1:])])
def test_one_input_launches_no_more_than_pytorchs_folded_towers_do(pair: Pair) -> None:
    model = reparameterize(build(pair, rows_of(pair)), "inference")
    found = launches(pair, model, reference(pair).to("float32").folded, inputs(pair[0]))
    assert all(ours.total() <= theirs.total() for ours, theirs in found.values()), found


@pytest.mark.real
@pytest.mark.nightly
@pytest.mark.parametrize("name", ["s0", "b", "mobileclip2-s4", "mobileclip2-l14"])
def test_one_input_of_real_size_launches_no_more(name: str) -> None:
    """PyTorch chooses other programs for other widths."""
    variant = get_variant(name)
    pair: Pair = (variant.image_tower, variant.text_tower, variant.published.layout)
    rows = [row for row in model_rows(*pair, "train") if row.source != NONE]
    state = {row.source: np.broadcast_to(np.float32(0.01), row.source_shape) for row in rows}
    theirs = build_reference(*pair[:2], state, pair[2], dtype="float32").folded
    with to_be_overwritten():
        model = MobileClipModel.from_variant(name, form="inference")
    found = launches(pair, model, theirs, fixed_inputs(variant))
    assert all(ours.total() <= theirs.total() for ours, theirs in found.values()), found


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
