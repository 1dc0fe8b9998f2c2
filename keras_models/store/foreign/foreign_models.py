"""Image backbones that a config describes layer by layer, or takes from keras.applications: how large they would be."""

import copy
import math
import threading
from pathlib import Path
from typing import Any

import keras
import ml_dtypes  # noqa: F401 (gives NumPy bfloat16)
import numpy as np

from ...architectures import IMAGE_TOWERS
from ...config_keys import ADAPTERS, QUANTIZED
from ...errors import MobileClipError

MOST_UNPACKED, ROOM = 4, 64 << 20
"""How often the size of its weights file a model may have, and bytes beyond that."""


class ForeignModelError(MobileClipError):
    """A config asks for a model that its weights file cannot fill."""


def check_size(config: dict[str, Any], weights: Path) -> None:
    """Refuses a model that is far larger than its weights, before any memory is taken for it.

    MobileCLIP's own towers have sizes that are known, and pass at once.

    Args:
        config: of a MobileClipModel, as Keras serialises it.
        weights: its file.

    Raises:
        ForeignModelError: saying how large it would be.
        Exception: what Keras raises where it cannot build the model.
    """
    image = config["config"]["image_encoder"]
    if image is None or str(image["config"]["backbone"]) in IMAGE_TOWERS:
        return
    needed, size = _bytes_of(config), weights.stat().st_size
    if needed > MOST_UNPACKED * size + ROOM:
        raise ForeignModelError(f"it describes weights of {needed:,} bytes, and its file has {size:,}")


def _bytes_of(config: dict[str, Any]) -> int:
    """The size of a model's weights.

    In a StatelessScope, Keras knows the shapes of variables and gives them values only at the end of the outermost
    scope. That one is never left: it belongs to a thread, and ends with it.
    """
    found: list[int | Exception] = []

    def build() -> None:
        keras.StatelessScope().__enter__()
        try:
            with keras.StatelessScope():
                model = keras.saving.deserialize_keras_object(_plain(config))
            found.append(sum(math.prod(v.shape) * np.dtype(v.dtype).itemsize for v in model.variables))
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=build)
    thread.start()
    thread.join()
    if isinstance(found[0], Exception):
        raise found[0]
    return found[0]


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    """A copy, because Keras takes parts out of it, without what is done to layers that have values."""
    plain = copy.deepcopy(config)
    for tower in (plain["config"]["image_encoder"], plain["config"]["text_encoder"]):
        for key in (ADAPTERS, QUANTIZED):
            (tower or {"config": {}})["config"].pop(key, None)
    return plain
