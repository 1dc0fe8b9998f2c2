"""What a MobileClipModel's config may say, and changes to it, made before the model is built from it."""

from collections.abc import Iterator
from typing import Any

import keras

from ..architectures import FORMS
from ..config_keys import TRAINABLE_PARTS
from .json_fields import Check, anything, fields, flag, nullable, number, text, whole

TOWERS = ("image", "text")

LONGEST_NAME = 200
LARGEST_EMBED_DIM = 16_384
LARGEST_IMAGE = 4096


def _backbone(value: Any, name: str) -> Iterator[str]:
    """A tower's name, or the config of a Keras model."""
    return (anything if isinstance(value, dict) else text(LONGEST_NAME))(value, name)


def _encoder(needed: dict[str, Check], optional: dict[str, Check]) -> Check:
    needed = {"backbone": text(LONGEST_NAME), "embed_dim": whole(1, LARGEST_EMBED_DIM), **needed}
    optional = {"name": text(LONGEST_NAME), "trainable": flag, **optional}
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


def check_towers(towers: str | None) -> None:
    """Raises ValueError unless `towers` is "both", "image", "text" or None."""
    if towers is not None and towers not in ("both", *TOWERS):
        raise ValueError(f"towers must be 'both', 'image' or 'text', not {towers!r}.")


def keep_towers(config: dict[str, Any], towers: str | None) -> None:
    """Removes the tower that is not asked for.

    Args:
        config: of a MobileClipModel; changed in place.
        towers: "both", "image" or "text"; None for what the config has.

    Raises:
        LookupError: where the config lacks a tower asked for. The message is the tower's name.
    """
    if towers is None:
        return
    for tower in TOWERS:
        if towers not in ("both", tower):
            config[f"{tower}_encoder"] = None
            for path in [*config.get(TRAINABLE_PARTS, ())]:
                if path.split("/")[0] == f"{tower}_encoder":
                    del config[TRAINABLE_PARTS][path]
        elif config[f"{tower}_encoder"] is None:
            raise LookupError(tower)


def set_dtype(config: dict[str, Any], dtype: str) -> None:
    """Sets the dtype policy of a MobileClipModel and of its towers.

    Args:
        config: of a MobileClipModel; changed in place.
        dtype: name of a policy ("float32", "mixed_float16", ...).

    Raises:
        ValueError: where Keras knows no such policy.
    """
    policy = keras.saving.serialize_keras_object(keras.dtype_policies.get(dtype))
    towers = [config[f"{tower}_encoder"]["config"] for tower in TOWERS if config[f"{tower}_encoder"]]
    for part in (config, *towers):
        part["dtype"] = policy
