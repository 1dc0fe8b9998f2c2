"""Features of images and texts in a file: NumPy's .npz, or .parquet for data tools."""

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ..errors import MissingPackageError, MobileClipError
from ..store.atomic import file_written_whole
from ..store.targets import check_file_target

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
        arrow, parquet = _pyarrow()
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
        if not path.is_file():
            raise EmbeddingFileError(f"{path} does not exist.")
        try:
            found = cls._read_npz(path) if path.suffix == ".npz" else cls._read_parquet(path)
            for kind, names, features in (
                ("names", found.names, found.features),
                ("texts", found.texts, found.text_features),
            ):
                if features.ndim != 2 or len(names) != len(features):
                    raise ValueError(f"it has {len(names)} {kind} for features of shape {features.shape}")
                if not np.isfinite(features).all():
                    raise ValueError("not all of its numbers are finite")
            return found
        except MobileClipError:
            raise
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise EmbeddingFileError(f"{path} does not hold embeddings, or is damaged: {error}") from error

    @classmethod
    def _read_npz(cls, path: Path) -> Self:
        with np.load(path, allow_pickle=False) as file:
            names, texts = (tuple(file[key].tolist()) for key in ("names", "texts"))
            features, text_features = (np.asarray(file[key], np.float32) for key in ("features", "text_features"))
            return cls(str(file["model"]), names, features, texts, text_features)

    @classmethod
    def _read_parquet(cls, path: Path) -> Self:
        _, parquet = _pyarrow()
        table = parquet.read_table(path)
        model = json.loads(table.schema.metadata[b"mobileclip_keras"])["model"]
        width = table.schema.field("features").type.list_size
        column = table.column("features").combine_chunks()
        features = np.asarray(column.flatten(), np.float32).reshape(-1, width)
        image = np.array(table.column("kind").to_pylist()) == "image"
        names = np.array(table.column("name").to_pylist(), dtype=object)
        return cls(model, tuple(names[image]), features[image], tuple(names[~image]), features[~image])


def check_embedding_target(path: Path, force: bool) -> None:
    """Refuses, before any work, a file that cannot be written where it is wanted.

    Raises:
        OutputError: saying why.
        MissingPackageError: for .parquet without pyarrow.
    """
    check_file_target(path, SUFFIXES, force)
    if path.suffix == ".parquet":
        _pyarrow()


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingPackageError(
            'Parquet files need pyarrow: pip install "mobileclip-keras[parquet]". An .npz file does not.'
        ) from error
    return pyarrow, pyarrow.parquet
