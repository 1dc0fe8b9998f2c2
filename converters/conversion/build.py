"""The Keras model that a checkpoint becomes."""

from typing import Any

import numpy as np

from ...keras_models.kernels.memory import no_collection
from ...keras_models.layers.initializers import to_be_overwritten
from ...keras_models.models.model import MobileClipModel
from ...keras_models.registry import OPEN_CLIP_CONVENTIONS, Variant
from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.identify import CheckpointFormat


def build_model(
    variant: Variant,
    checkpoint_format: CheckpointFormat,
    projection_bias: bool,
    dtype: str | None = "float32",
    like_open_clip: bool = False,
) -> MobileClipModel:
    """The model for a checkpoint, in the checkpoint's form, waiting for its weights.

    Args:
        variant: the variant it is.
        checkpoint_format: what the checkpoint is.
        projection_bias: whether the image projection has a bias (see `has_projection_bias`).
        dtype: dtype policy of every layer.
        like_open_clip: whether ViT-B/16 computes as open_clip does, not as it was trained.
    """
    conventions: dict[str, Any] = (
        OPEN_CLIP_CONVENTIONS if like_open_clip and checkpoint_format.image_tower == "vit_b16" else {}
    )
    size = checkpoint_format.image_size
    if size is not None:
        conventions = {**conventions, "image_size": size, "position_size": size}
    image: dict[str, Any] = {"projection_bias": projection_bias, **conventions} if checkpoint_format.image_tower else {}
    with to_be_overwritten(), no_collection():
        return MobileClipModel.from_variant(
            variant.name,
            form=checkpoint_format.form,
            towers=checkpoint_format.towers,
            dtype=dtype,
            logit_bias=checkpoint_format.logit_bias,
            **image,
        )


def has_projection_bias(variant: Variant, checkpoint_format: CheckpointFormat, checkpoint: Checkpoint) -> bool:
    """Whether the Keras image projection needs a bias to hold a checkpoint.

    Apple's own layout has none. timm's towers always have one, and timm fills it with zeros when it loads Apple's
    weights. Such a bias is left out, so that fine-tuning does not train one.
    """
    if checkpoint_format.layout == "apple" or checkpoint_format.image_tower is None:
        return False
    if variant.published.layout != "apple":
        return True
    (bias,) = (row.source for row in checkpoint_format.rows if row.target == "image_encoder/projection/bias")
    return bool(np.any(checkpoint.read(bias)))
