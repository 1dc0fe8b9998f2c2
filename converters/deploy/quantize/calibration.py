"""The inputs that a recipe is measured on: the user's pictures and texts, or the fixed ones."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ....keras_models.inputs.image_reading import readable_suffixes
from ....keras_models.inputs.preprocessing import ImagePreprocessor
from ....keras_models.inputs.tokenizer import Tokenizer
from ....verify.data.inputs import Inputs
from ..proofs.inputs import ProofInputs, picture_pixels
from ..request import DeployError, Request

MOST = 64
"""Pictures, and texts. Of more, so many are taken, spread over all."""
TEXTS = ".txt"


@dataclass(frozen=True)
class Calibration:
    """What the user gave; a kind of input that is empty stands for the fixed ones.

    Attributes:
        pictures: files.
        texts: as they are.
    """

    pictures: tuple[Path, ...] = ()
    texts: tuple[str, ...] = ()

    def to_json(self, inputs: ProofInputs) -> dict[str, Any]:
        """For bundle.json: how many there were, and whose."""
        counts = {"images": len(inputs.fixed.images), "texts": len(inputs.fixed.tokens)}
        own = {"images": self.pictures, "texts": self.texts}
        return {kind: {"count": counts[kind], "from": "the user" if own[kind] else "the program"} for kind in counts}


def find_calibration(given: Iterable[Path]) -> Calibration:
    """The pictures and the texts that paths name.

    Args:
        given: pictures, folders of pictures, and text files (.txt) with a text a line.

    Raises:
        DeployError: for what is not there, and for a folder or a file that holds none.
    """
    pictures: list[Path] = []
    texts: list[str] = []
    for path in given:
        if path.is_dir():
            found = sorted(each for each in path.rglob("*") if each.is_file() and _is_picture(each))
            if not found:
                raise DeployError(f"{path} holds no pictures to calibrate with.")
            pictures += found
        elif not path.exists():
            raise DeployError(f"There is no {path} to calibrate with.")
        elif path.suffix.lower() == TEXTS:
            texts += _lines(path)
        else:
            pictures.append(path)
    return Calibration(tuple(_spread(pictures)), tuple(_spread(texts)))


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in readable_suffixes() and not path.name.startswith(".")


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DeployError(f"{path} is not a text file in UTF-8.") from error
    texts = [line.strip() for line in lines if line.strip()]
    if not texts:
        raise DeployError(f"{path} holds no texts to calibrate with.")
    return texts


def _spread(found: list[Any]) -> list[Any]:
    if len(found) <= MOST:
        return found
    return [found[place] for place in np.linspace(0, len(found) - 1, MOST).astype(int)]


def read_inputs(given: Calibration, folder: Path, request: Request, fixed: ProofInputs) -> ProofInputs:
    """The inputs to measure on.

    Args:
        given: the user's.
        folder: that is exported, whose preprocessing and tokenizer prepare them.
        request: says which towers there are, and whether the graph preprocesses.
        fixed: what stands for a kind of input that the user gave none of.

    Raises:
        DeployError: where inputs were given for a tower that is not exported.
        ImageError: for a picture that cannot be read.
    """
    for own, tower, words in ((given.pictures, "image", "pictures"), (given.texts, "text", "texts")):
        if own and tower not in request.towers:
            raise DeployError(f"--calibrate names {words}, and the {tower} tower is not among --towers.")
    base, pixels = fixed.fixed, fixed.pixels
    images, names, tokens, texts = base.images, base.image_names, base.tokens, base.texts
    if given.pictures:
        preprocess = ImagePreprocessor.from_pretrained(folder)
        names = tuple(path.name for path in given.pictures)
        if request.preprocess:
            pixels = tuple(picture_pixels(path, request.pixels) for path in given.pictures)
            images = np.concatenate([preprocess(each) for each in pixels])
        else:
            images = np.concatenate([preprocess(str(path)) for path in given.pictures])
    if given.texts:
        texts, tokens = given.texts, np.asarray(Tokenizer.from_pretrained(folder)(list(given.texts)))
    return ProofInputs(Inputs(images, tokens, names, texts), pixels)


def save_rows(inputs: ProofInputs, path: Path) -> None:
    """Writes what the towers get, for the job that rounds."""
    np.savez(path, images=inputs.fixed.images, tokens=inputs.fixed.tokens)


def load_rows(path: Path) -> dict[str, np.ndarray]:
    """By tower, what `save_rows` wrote."""
    with np.load(path) as file:
        return {"image": file["images"], "text": file["tokens"].astype(np.int32)}
