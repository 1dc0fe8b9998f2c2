"""Changes to a MobileClipModel's config, made before the model is built from it."""

from typing import Any

import keras

from ..config_keys import TRAINABLE_PARTS

TOWERS = ("image", "text")


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
