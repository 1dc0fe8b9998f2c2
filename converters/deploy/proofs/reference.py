"""PyTorch's features of the proof's inputs, in float64 and in float32, from the weights that a folder holds."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ....keras_models.registry import Variant
from ....verify.compare import Features
from ..own_memory import give_back
from .inputs import ProofInputs

if TYPE_CHECKING:
    from ....verify.torch_models import TorchReference


@dataclass
class Truth:
    """What a bundle is compared with.

    Attributes:
        exact: PyTorch's features in float64, not normalised.
        runs: its features in float32, of several equally good runs.
    """

    exact: Features
    runs: list[Features]

    def save(self, path: Path) -> None:
        """Writes all arrays into one .npz file."""
        arrays = {}
        for index, features in enumerate((self.exact, *self.runs)):
            for tower in ("image", "text"):
                array = getattr(features, tower)
                if array is not None:
                    arrays[f"{index}_{tower}"] = array
        np.savez(path, count=len(self.runs) + 1, **arrays)

    @classmethod
    def load(cls, path: Path) -> "Truth":
        """Reads what `save` wrote."""
        with np.load(path) as file:
            found = [
                Features(*(file.get(f"{i}_{tower}") for tower in ("image", "text"))) for i in range(int(file["count"]))
            ]
        return cls(found[0], found[1:])


def compute_truth(
    build: Callable[[], "TorchReference"], inputs: ProofInputs, towers: tuple[str, ...], more: bool
) -> Truth:
    """Runs PyTorch. In memory are the model in float32 and, first, one tower at a time in float64.

    Args:
        build: makes the model, in float64.
        inputs: of the proof.
        towers: which of its towers to run.
        more: whether to make the many runs that explain an error that one run does not.
    """
    from ....verify.torch_models import TorchReference
    from ....verify.torch_models.runs import MORE_RUNS, RUNS, run

    whole, fixed = build(), inputs.fixed
    held: dict[str, Any] = {tower: getattr(whole, f"{tower}_tower") for tower in ("image", "text") if tower in towers}
    del whole
    give_back()  # the Keras model that it was made from refers to itself in circles
    exact: dict[str, np.ndarray] = {}
    rounded: dict[str, Any] = {}
    for name in ("text", "image"):  # the image tower takes long, and would keep the other
        if name in held:
            alone = TorchReference(**{"image": None, "text": None, name: held.pop(name)}, log_scale=None)
            rounded[name] = getattr(alone.to("float32"), f"{name}_tower")
            # Folded by timm's code in float64, it is the same to 1e-14 and takes half the time.
            alone = alone.reparameterize()
            give_back()
            exact[name] = alone.encode_text(fixed.tokens) if name == "text" else alone.encode_image(fixed.images)
            del alone
            give_back()
    single = TorchReference(rounded.get("image"), rounded.get("text"), None)
    runs = [run(single, way, fixed) for way in (MORE_RUNS if more else RUNS)]
    return Truth(Features(exact.get("image"), exact.get("text")), runs)


def reference_of_folder(folder: Path) -> "TorchReference":
    """The PyTorch model whose tensors the train form of a folder holds, bit for bit."""
    from ....keras_models.store.load import load_folder
    from ....verify.torch_models import build_reference
    from ...conversion.to_torch import torch_tensors

    model = load_folder(folder, form="train")
    tensors, layout = torch_tensors(model)
    image, text = model.image_encoder, model.text_encoder
    conventions: dict[str, Any] = {}
    if image is not None and image.tower == "vit_b16":
        conventions = {"image_norm_epsilon": image.norm_epsilon, "image_stem_padding": image.stem_padding}
    return build_reference(
        image and image.tower,
        text and text.tower,
        tensors,
        layout,  # type: ignore[arg-type]
        image_size=None if image is None else image.position_size,
        **conventions,
    )


def reference_of_checkpoint(source: Path, variant: Variant, conversion: dict[str, Any]) -> "TorchReference":
    """The PyTorch model of the checkpoint that a folder was converted from.

    Args:
        source: the checkpoint.
        variant: that the folder is.
        conversion: the folder's record.
    """
    from ...checkpoints.checkpoint import open_checkpoint
    from ...checkpoints.identify import identify
    from ...conversion.verifying import reference_of

    origin = conversion["source"]
    checkpoint = open_checkpoint(source, origin.get("weights"), bool(origin.get("left")))
    found = identify(checkpoint.shapes, checkpoint.named)
    return reference_of(variant, found, checkpoint, conversion.get("computes_like") == "open_clip")
