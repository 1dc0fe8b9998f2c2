"""What a MobileClipModel's config.json may say: the type and the range of each field. Needs no Keras."""

from collections.abc import Iterator
from typing import Any

from ...architectures import FORMS
from .json_fields import Check, anything, fields, flag, nullable, number, text, whole

LONGEST_NAME = 200
LARGEST_EMBED_DIM = 16_384
LARGEST_IMAGE = 4096


def _backbone(value: Any, name: str) -> Iterator[str]:
    """A tower's name, or the config of a Keras model."""
    return (anything if isinstance(value, dict) else text(LONGEST_NAME))(value, name)


def _encoder(needed: dict[str, Check], optional: dict[str, Check]) -> Check:
    needed = {"backbone": text(LONGEST_NAME), "embed_dim": whole(1, LARGEST_EMBED_DIM), **needed}
    optional = {"name": text(LONGEST_NAME), "trainable": flag, "remat": flag, **optional}
    return nullable(fields({"config": fields({"form": text(among=FORMS), **needed}, optional)}))


_IMAGE = {
    "image_size": nullable(whole(1, LARGEST_IMAGE)),
    "position_size": nullable(whole(1, LARGEST_IMAGE)),
    "projection_bias": flag,
    "norm_epsilon": number(0, 1),
    "stem_padding": whole(0, LARGEST_IMAGE),
}
CLASS_FIELDS = fields({"class_name": text(among=("MobileClipModel",))})
"""What config.json says of any model, whatever its class."""
CONFIG_FIELDS = fields(
    {
        "registered_name": text(among=("mobileclip_keras>MobileClipModel",)),
        "config": fields(
            {"image_encoder": _encoder({"backbone": _backbone}, _IMAGE), "text_encoder": _encoder({}, {})},
            {
                "variant": nullable(text(LONGEST_NAME)),
                "name": text(LONGEST_NAME),
                "trainable": flag,
                "logit_bias": flag,
            },
        ),
    }
)
"""What config.json must say before Keras builds a model of it: numbers here become arrays there."""
