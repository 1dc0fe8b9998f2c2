"""The fixed inputs of every verification: seeded arrays, and photographs with sentences."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...keras_models.inputs.preprocessing import ImagePreprocessor
from ...keras_models.inputs.tokenizer import Tokenizer
from ...keras_models.registry import Variant
from . import synthetic

PHOTOS = Path(__file__).parents[1] / "photos"
SEEDED = 8
STAGE_SAMPLE = 4
"""How many images, and how many texts, are compared stage by stage, which judges nothing: it shows where errors arise.
"""


@dataclass(frozen=True)
class Inputs:
    """The inputs that PyTorch and Keras both get.

    Attributes:
        images: float32 (16, px, px, 3), preprocessed: 8 seeded, then 8 photographs.
        tokens: int64 (24, 77): 8 seeded rows, then 16 sentences.
        image_names: of each image.
        texts: of each token row.
    """

    images: np.ndarray
    tokens: np.ndarray
    image_names: tuple[str, ...]
    texts: tuple[str, ...]

    @property
    def sampled_images(self) -> tuple[int, ...]:
        """Where the images stand that are compared stage by stage: half of them seeded, half real."""
        return _ends(len(self.images))

    @property
    def sampled_texts(self) -> tuple[int, ...]:
        """As `sampled_images`."""
        return _ends(len(self.tokens))

    def sample(self) -> "Inputs":
        """The inputs that are compared stage by stage."""
        image_rows, text_rows = self.sampled_images, self.sampled_texts
        return Inputs(
            self.images[list(image_rows)],
            self.tokens[list(text_rows)],
            tuple(self.image_names[i] for i in image_rows),
            tuple(self.texts[i] for i in text_rows),
        )


def _ends(count: int) -> tuple[int, ...]:
    """The first and the last few of `count`."""
    return (*range(STAGE_SAMPLE // 2), *range(count - STAGE_SAMPLE // 2, count))


def fixed_inputs(variant: Variant, image_size: int | None = None) -> Inputs:
    """The inputs for a variant; the same on every machine.

    Args:
        variant: whose.
        image_size: of the images; None for the variant's own.
    """
    size = image_size or variant.image_size
    tiled = -(-size // 8) * 8  # seeded images consist of 8 x 8 tiles
    photos = sorted(PHOTOS.glob("*.jpg"))
    prompts = tuple((PHOTOS / "prompts.txt").read_text(encoding="utf-8").split("\n"))
    prompts = tuple(prompt for prompt in prompts if prompt)
    mean, std = np.asarray(variant.mean, np.float32), np.asarray(variant.std, np.float32)
    seeded = (synthetic.images(SEEDED, tiled, seed=0)[:, :size, :size] - mean) / std
    preprocess = ImagePreprocessor.from_variant(variant.name)
    preprocess.image_size = size
    real = preprocess(photos)
    return Inputs(
        images=np.concatenate([seeded, real]),
        tokens=np.concatenate([synthetic.tokens(SEEDED, seed=0), Tokenizer()(prompts)]),
        image_names=(*(f"seeded {i}" for i in range(SEEDED)), *(photo.stem for photo in photos)),
        texts=(*(f"seeded {i}" for i in range(SEEDED)), *prompts),
    )
