"""Batches of a reinforced data set in WebDataset shards."""

import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..inputs.image_reading import read_image
from ..inputs.preprocessing import ImagePreprocessor
from ..inputs.tokenizer import Tokenizer
from .augmentations import reapply
from .reinforced_sample import DataError, ReinforcedSample, is_whole, read_sample

MOST_BYTES_OF_FILE = 64 << 20


class ReinforcedShards:
    """Iterates over batches for a `Distiller`, once over all shards, in their order.

    Each sample gives one of its augmentations, its caption, and one of its synthetic captions, chosen anew in every
    epoch, with what the teachers make of each. Samples without an image or a caption are left out: `skipped` counts
    them. The last samples, too few for a batch, are left out, too.

    Args:
        shards: .tar files, as `reinforced_sample` describes them.
        preprocessor: size, mean and standard deviation of images; the augmentations take the place of its cropping.
        tokenizer: None for MobileCLIP's own.
        batch_size: pairs in a batch.
        seed: of the choices. The same seed and epoch give the same batches.

    Attributes:
        skipped: samples that were left out of the last epoch.

    Raises:
        DataError: for no shards; while iterating, naming what is damaged.

    Example:
        >>> data = ReinforcedShards(sorted(folder.glob("*.tar")), ImagePreprocessor(256), batch_size=256)
        >>> Distiller(student, weight=1.0).fit(data.epochs(3), steps_per_epoch=1000, epochs=3)
    """

    def __init__(
        self,
        shards: Sequence[str | Path],
        preprocessor: ImagePreprocessor,
        tokenizer: Tokenizer | None = None,
        *,
        batch_size: int = 32,
        seed: int = 0,
    ) -> None:
        if not shards or isinstance(shards, str | Path):
            raise DataError("Give a list of .tar files, one or more.")
        self.shards = [Path(shard) for shard in shards]
        self.preprocessor = preprocessor
        self.tokenizer = tokenizer or Tokenizer()
        self.batch_size = batch_size
        self.seed = seed
        self.skipped = 0

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return self.epoch(0)

    def epochs(self, count: int) -> Iterator[dict[str, np.ndarray]]:
        """The batches of some epochs, one after the other."""
        for number in range(count):
            yield from self.epoch(number)

    def epoch(self, number: int) -> Iterator[dict[str, np.ndarray]]:
        """The batches of one epoch, each a dict of what a `Distiller` takes."""
        random = np.random.default_rng((self.seed, number))
        rows: list[dict[str, Any]] = []
        self.skipped = 0
        for shard in self.shards:
            for sample in self._samples(shard):
                rows.append(self._row(sample, random))
                if len(rows) == self.batch_size:
                    yield self._batch(rows)
                    rows = []

    def _samples(self, shard: Path) -> Iterator[ReinforcedSample]:
        for key, files in read_shard(shard):
            if is_whole(files):
                yield read_sample(f"{shard}: {key}", files)
            else:
                self.skipped += 1

    def _row(self, sample: ReinforcedSample, random: np.random.Generator) -> dict[str, Any]:
        chosen = int(random.integers(len(sample.augmentations)))
        synthetic = int(random.integers(len(sample.syn_texts)))
        image = read_image(sample.image, sample.name).convert("RGB")
        return {
            "image": reapply(image, *sample.augmentations[chosen], self.preprocessor.image_size),
            "text": sample.text,
            "syn_text": sample.syn_texts[synthetic],
            "teacher_image": sample.image_features[chosen],
            "teacher_text": sample.text_features[0],
            "teacher_syn_text": sample.text_features[1 + synthetic],
        }

    def _batch(self, rows: list[dict[str, Any]]) -> dict[str, np.ndarray]:
        columns = {key: [row[key] for row in rows] for key in rows[0]}
        batch = {key: np.stack(columns[key]) for key in columns if key.startswith("teacher_")}
        batch["image"] = self.preprocessor(columns["image"])
        return batch | {key: self.tokenizer(columns[key]) for key in ("text", "syn_text")}


def read_shard(shard: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """The samples of a .tar file: key, and the contents of its files by what follows the first dot of their names.

    Raises:
        DataError: where the file is missing, no .tar file, cut short, or holds a file of more than 64 MiB.
    """
    key, files = "", dict[str, bytes]()
    try:
        with tarfile.open(shard) as archive:
            for member in archive:
                if not member.isfile():
                    continue
                folder, _, name = member.name.rpartition("/")
                stem, _, kind = name.partition(".")
                if (found := f"{folder}/{stem}".lstrip("/")) != key:
                    if files:
                        yield key, files
                    key, files = found, {}
                if member.size > MOST_BYTES_OF_FILE:
                    raise DataError(f"{shard} holds {member.name} of {member.size:,} bytes; 64 MiB are allowed.")
                content = archive.extractfile(member)
                files[kind.lower()] = content.read() if content is not None else b""
    except FileNotFoundError as error:
        raise DataError(f"There is no file {shard}.") from error
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"{shard} is damaged, or is no .tar file.") from error
    if files:
        yield key, files
