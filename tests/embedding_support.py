"""Collections for tests, and an embedder without a model: what it computes follows from the pictures alone."""

import io
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mobileclip_keras.keras_models.inputs.preprocessing import ImagePreprocessor
from mobileclip_keras.keras_models.tasks.embedding.fingerprint import Fingerprint
from mobileclip_keras.keras_models.tasks.embedding.parts import vectors_of
from mobileclip_keras.keras_models.tasks.embedding.store import Store

WIDTH = 8
STORES = ("store", "store.lance")
"""Names of stores, one of each layout."""
FINGERPRINT = Fingerprint("1" * 64, "2" * 64, "8 px", "77 ids", "float32", "23 bits", "0.1.0")


class StubEmbedder:
    """Stands in for an Embedder, and computes by NumPy."""

    def __init__(self, batch_size: int = 4, fingerprint: Fingerprint = FINGERPRINT) -> None:
        self.batch_size, self.fingerprint, self.origin, self.width = batch_size, fingerprint, "stub", WIDTH
        self.prepare: Callable[[Any], np.ndarray] = lambda image: ImagePreprocessor(8)([image])[0]
        self.batches: list[int] = []

    def pixels(self, batch: np.ndarray) -> np.ndarray:
        self.batches.append(len(batch))
        rows = np.asarray(batch).reshape(len(batch), -1)
        return _unit(rows[:, :WIDTH] + rows[:, -WIDTH:] ** 2 + 0.01)

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        return _unit(np.array([np.random.default_rng(list(text.encode())).normal(size=WIDTH) for text in texts]))


def _unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def picture(seed: int) -> bytes:
    """A small PNG file."""
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (10, 12, 3), np.uint8)
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def pictures(folder: Path, count: int, first: int = 0) -> list[str]:
    """Image files in a folder, and their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:05}.png" for number in range(first, first + count)]
    for number, path in enumerate(paths, first):
        path.write_bytes(picture(number))
    return [str(path) for path in paths]


def shard(path: Path, files: dict[str, bytes]) -> Path:
    """A WebDataset shard."""
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def rows_of(folder: Path) -> dict[str, np.ndarray]:
    """The vectors of a store by name; no name may be there twice."""
    found: dict[str, np.ndarray] = {}
    for part in Store.open(folder).parts():
        for batch in part.columns("name", "features"):
            names, vectors = batch.column(0).to_pylist(), vectors_of(batch)
            assert not found.keys() & set(names) and len(set(names)) == len(names)
            found |= dict(zip(names, vectors, strict=True))
    return found
