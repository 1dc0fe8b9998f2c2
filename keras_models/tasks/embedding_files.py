"""Features of images and texts in a file: NumPy's .npz, or .parquet for data tools."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ..errors import MissingPackageError, MobileClipError
from ..store.foreign.foreign_files import check_regular
from ..store.writing.atomic import file_written_whole
from ..store.writing.targets import check_file_target
from .embedding_readers import pyarrow, read_npz, read_parquet

if TYPE_CHECKING:
    from numpy.typing import NDArray

SUFFIXES = (".npz", ".parquet")


class EmbeddingFileError(MobileClipError):
    """A file does not hold embeddings; the message says why."""


@dataclass(frozen=True)
class Embeddings:
    """Features of images and texts, with the paths and the texts that they belong to.

    In an .npz file, arrays have the names of these fields. In a .parquet file, each row has a `kind` ("image"
    or "text"), a `name` and its `features`; `model` stands in the schema's metadata.
    """

    model: str
    """The model that the features come from, as `MobileClipModel.from_pretrained` takes it."""
    names: tuple[str, ...]
    """Of the images: their paths."""
    features: "NDArray[np.float32]"
    """Of the images, (len(names), embed_dim), of length 1."""
    texts: tuple[str, ...]
    text_features: "NDArray[np.float32]"
    """Of the texts, (len(texts), embed_dim), of length 1."""

    def save(self, path: str | Path, force: bool = False) -> None:
        """Writes the file whole or not at all.

        Args:
            path: ends in .npz or .parquet.
            force: whether to replace a file that is there.

        Raises:
            OutputError: where it cannot be written; nothing is left behind.
            MissingPackageError: for .parquet without pyarrow.
        """
        path = Path(path)
        check_embedding_target(path, force)
        write = self._write_npz if path.suffix == ".npz" else self._write_parquet
        with file_written_whole(path, force) as beside, open(beside, "wb") as file:
            write(file)

    def _write_npz(self, file: Any) -> None:
        names, texts = (np.array(words, dtype=np.str_) for words in (self.names, self.texts))
        np.savez(
            file,
            model=np.array(self.model),
            names=names,
            features=self.features,
            texts=texts,
            text_features=self.text_features,
        )

    def _write_parquet(self, file: Any) -> None:
        arrow, parquet = pyarrow()
        features = np.concatenate([self.features, self.text_features]).astype(np.float32)
        columns = {
            "kind": ["image"] * len(self.names) + ["text"] * len(self.texts),
            "name": [*self.names, *self.texts],
            "features": arrow.FixedSizeListArray.from_arrays(arrow.array(features.ravel()), features.shape[1]),
        }
        table = arrow.table(columns).replace_schema_metadata({"mobileclip_keras": json.dumps({"model": self.model})})
        parquet.write_table(table, file)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Reads what `save` wrote.

        Raises:
            EmbeddingFileError: where the file is missing, damaged or of another kind.
            MissingPackageError: for .parquet without pyarrow.
        """
        path = Path(path)
        if path.suffix not in SUFFIXES:
            raise EmbeddingFileError(f"{path} must end in {' or '.join(SUFFIXES)}.")
        if not path.exists():
            raise EmbeddingFileError(f"{path} does not exist.")
        try:
            check_regular(path)
            found = cls(*(read_npz(path) if path.suffix == ".npz" else read_parquet(path)))
            for kind, names, features in (
                ("names", found.names, found.features),
                ("texts", found.texts, found.text_features),
            ):
                if features.ndim != 2 or len(names) != len(features):
                    raise ValueError(f"it has {len(names)} {kind} for features of shape {features.shape}")
                if not all(isinstance(name, str) for name in names):
                    raise ValueError(f"not all of its {kind} are texts")
                if not np.isfinite(features).all():
                    raise ValueError("not all of its numbers are finite")
            return found
        except MissingPackageError:
            raise
        except Exception as error:  # zipfile, NumPy and pyarrow raise nearly every kind on damaged files
            raise EmbeddingFileError(f"{path} does not hold embeddings, or is damaged: {error}") from error


def check_embedding_target(path: Path, force: bool) -> None:
    """Refuses, before any work, a file that cannot be written where it is wanted.

    Raises:
        OutputError: saying why.
        MissingPackageError: for .parquet without pyarrow.
    """
    check_file_target(path, SUFFIXES, force)
    if path.suffix == ".parquet":
        pyarrow()
