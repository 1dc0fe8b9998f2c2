"""Pictures of a usual size, made up, for the programs that time how pictures are read."""

import io

import numpy as np
from PIL import Image

SIDES = (500, 375)


def photo(random: np.random.Generator) -> bytes:
    """A JPEG file."""
    coarse = Image.fromarray(random.integers(0, 256, (24, 32, 3), np.uint8))
    stream = io.BytesIO()
    coarse.resize(SIDES, Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
    return stream.getvalue()
