"""Features of images and texts in a file: NumPy's .npz, or .parquet for data tools."""

import json
import os
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ..keras_models.errors import MissingPackageError, MobileClipError
from .folder import OutputError, os_reason, umask

if TYPE_CHECKING:
    from numpy.typing import NDArray

SUFFIXES = (".npz", ".parquet")


class EmbeddingFileError(MobileClipError):
    """A file does not hold embeddings; the message says why."""


@dataclass(frozen=True)
class Embeddings:
    """Features of images, and of texts where there are any, with what they belong to.

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
        """Writes the file beside its place, then moves it there.

        Args:
            path: ends in .npz or .parquet.
            force: whether to replace a file that is there.

        Raises:
            OutputError: where it cannot be written; nothing is left behind.
            MissingPackageError: for .parquet without pyarrow.
        """
        path = Path(path)
        check_file_target(path, force)
        handle, name = -1, ""
        try:
            handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.absolute().parent)
            with os.fdopen(handle, "wb") as file:
                (self._write_npz if path.suffix == ".npz" else self._write_parquet)(file)
            # What mkstemp makes is for its maker alone; this is as any other new file.
            Path(name).chmod(0o666 & ~umask())
            Path(name).replace(path)
        except BaseException as error:
            if name:
                Path(name).unlink(missing_ok=True)
            reason = os_reason(error) if isinstance(error, Exception) else None
            if reason is None:
                raise
            raise OutputError(f"{path} could not be written: {reason}. Nothing was left behind.") from error

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
        _check_suffix(path, EmbeddingFileError)
        if not path.is_file():
            raise EmbeddingFileError(f"{path} does not exist.")
        try:
            return cls._read_npz(path) if path.suffix == ".npz" else cls._read_parquet(path)
        except MobileClipError:
            raise
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise EmbeddingFileError(f"{path} does not hold embeddings, or is damaged: {error}") from error

    @classmethod
    def _read_npz(cls, path: Path) -> Self:
        with np.load(path, allow_pickle=False) as file:
            names, texts = (tuple(file[key].tolist()) for key in ("names", "texts"))
            return cls(str(file["model"]), names, file["features"], texts, file["text_features"])

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


def check_file_target(path: Path, force: bool) -> None:
    """Refuses, before any work, a file that cannot be written where it is wanted.

    Raises:
        OutputError: saying why.
        MissingPackageError: for .parquet without pyarrow.
    """
    _check_suffix(path, OutputError)
    if path.suffix == ".parquet":
        _pyarrow()
    if path.is_dir() or (path.exists() and not force):
        raise OutputError(f"{path} exists already. Choose another --out, or replace a file with --force.")
    parent = path.absolute().parent
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"{path} cannot be written: {parent} is not a folder that this user may write to.")


def _check_suffix(path: Path, error: type[MobileClipError]) -> None:
    if path.suffix not in SUFFIXES:
        raise error(f"{path} must end in {' or '.join(SUFFIXES)}.")


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingPackageError(
            'Parquet files need pyarrow: pip install "mobileclip-keras[parquet]". An .npz file does not.'
        ) from error
    return pyarrow, pyarrow.parquet
