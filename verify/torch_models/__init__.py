"""The PyTorch side of verification: timm's and open_clip's models, loaded with a checkpoint's own tensors."""

from collections.abc import Mapping
from typing import Literal

import numpy as np

from ...keras_models.errors import MissingPackageError
from .keys import mci_to_timm, text_to_open_clip, vit_to_timm
from .reference import Precision, TorchReference
from .requirements import ReferenceMismatchError, keep_triton_out, require_packages

__all__ = ["MissingPackageError", "ReferenceMismatchError", "TorchReference", "build_reference"]

Layout = Literal["apple", "open_clip", "timm"]

_PREFIXES: dict[str, tuple[str, str | None]] = {
    "apple": ("image_encoder.model.", "text_encoder."),
    "open_clip": ("visual.trunk.", "text."),
    "timm": ("", None),
}
# Apple's ViT-B/16 and timm's vit_base_mci_224 have the same tensors and compute two things differently: the
# epsilon of every LayerNorm, and the padding of the first convolution (4 x 4, stride 4; a padding of 1 moves
# every patch one pixel up and to the left).
_APPLE_NORM_EPSILON, _APPLE_STEM_PADDING = 1e-5, 1


def build_reference(
    image_tower: str | None,
    text_tower: str | None,
    state: Mapping[str, np.ndarray],
    layout: Layout,
    image_norm_epsilon: float | None = None,
    image_stem_padding: int | None = None,
    dtype: Precision = "float64",
    image_size: int | None = None,
) -> TorchReference:
    """A PyTorch model that computes with exactly the tensors of a checkpoint.

    Image towers are timm's; the 12-layer text towers are open_clip's; those with RepMixer blocks ("mct") are `mct.py`.

    Args:
        image_tower: mci0 … mci4, mci_shapes, vit_b16, vit_l14; None leaves it out.
        text_tower: mct, mct_shapes, transformer_512, transformer_512_causal, transformer_768; None leaves it out.
        state: The file's tensors under its own names, train-time or already folded ("reparameterised").
        layout: Whose names those are. "timm" files hold an image tower alone.
        image_norm_epsilon: The epsilon of the image tower's LayerNorms. None takes that of the layout's own code: for
            vit_b16 Apple's 1e-5 or timm's 1e-6; elsewhere 1e-5.
        image_stem_padding: The padding, in pixels, of vit_b16's first convolution; other towers ignore it. None takes
            that of the layout's own code: Apple's 1 or timm's 0.
        dtype: The precision to compute in.
        image_size: The image size that a ViT's position embeddings are for; None for the published one.

    Raises:
        MissingPackageError: where PyTorch, timm or open_clip is not installed.
        ReferenceMismatchError: where a tensor is missing, unexpected or of another shape than the model's.
        ValueError: for a tower or layout that does not exist.
    """
    require_packages()
    keep_triton_out()
    from .towers import MIXER_TOWERS, build_image_tower, build_text_tower

    if layout not in _PREFIXES:
        raise ValueError(f"unknown layout {layout!r}; the known ones are {', '.join(_PREFIXES)}")
    image_state, text_state, scalars = _divide(state, layout)

    image = text = None
    if image_tower is not None:
        if layout == "apple":
            image_state = (mci_to_timm if image_tower.startswith("mci") else vit_to_timm)(image_state)
            image_norm_epsilon = _APPLE_NORM_EPSILON if image_norm_epsilon is None else image_norm_epsilon
            image_stem_padding = _APPLE_STEM_PADDING if image_stem_padding is None else image_stem_padding
        image = build_image_tower(image_tower, image_state, dtype, image_norm_epsilon, image_stem_padding, image_size)
    if text_tower is not None:
        if layout == "apple" and text_tower not in MIXER_TOWERS:
            text_state = text_to_open_clip(text_state)
        text = build_text_tower(text_tower, text_state, dtype)
    return TorchReference(image, text, scalars.get("logit_scale"), scalars.get("logit_bias"))


def _divide(
    state: Mapping[str, np.ndarray], layout: Layout
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, float]]:
    """Image tensors and text tensors, without their prefixes, and the logits' scale (its logarithm) and bias."""
    image_prefix, text_prefix = _PREFIXES[layout]
    image, text, scalars = {}, {}, {}
    for name, array in state.items():
        if name in ("logit_scale", "logit_bias"):
            scalars[name] = float(np.asarray(array, np.float64).reshape(()))
        elif text_prefix is not None and name.startswith(text_prefix):
            text[name.removeprefix(text_prefix)] = array
        else:  # a name with neither prefix stays as it is, and loading refuses it
            image[name.removeprefix(image_prefix)] = array
    return image, text, scalars
