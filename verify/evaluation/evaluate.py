"""Evaluating a model on a data set: its features, image by image, then the figures."""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import metrics
from .data.dataset import MULTILABEL, RETRIEVAL, DataError, Dataset, Sample, link
from .data.words import check_template, prompt
from .encoder import Encoder
from .figures import figures
from .intervals import Figure
from .journal import Journal, alone
from .loading import Prepared, batches

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMAT = 1
"""Of what is kept of an evaluation that is under way."""
SAVE_SECONDS = 2.0
"""Between two times that results are put on the disk: no more than that is computed again after a kill."""
Advance = Callable[[int, str], None]
Progress = Callable[[str, int | None], AbstractContextManager[Advance]]
"""Shows a step, with its length where that is known; `advance(units, what is done)`."""


@dataclass(frozen=True)
class Evaluation:
    """What came out."""

    figures: dict[str, Figure]
    images: int
    """That were measured."""
    texts: int
    """Captions of retrieval, else prompts."""
    fingerprint: str
    """Of images, targets and names of classes, in their order."""
    templates: tuple[str, ...]
    unreadable: tuple[tuple[str, str], ...]
    """Name and reason of each image that could not be read, and is in no figure."""
    resumed_at: int
    """Images that an earlier run, which was killed, had computed."""
    seconds: float
    """That this run took for the images that it computed."""
    tower_seconds: float
    """Of these, inside the towers."""

    @property
    def images_per_second(self) -> float:
        """Of this run."""
        return (self.images - self.resumed_at) / self.seconds if self.seconds else 0.0

    @property
    def tower_share(self) -> float:
        """Of this run's time, how much the towers computed."""
        return self.tower_seconds / self.seconds if self.seconds else 0.0


def silent(step: str, total: int | None) -> AbstractContextManager[Advance]:
    """Shows nothing."""
    return nullcontext(lambda units, doing: None)


def evaluate(
    encoder: Encoder,
    data: Dataset,
    work: Path,
    templates: tuple[str, ...] | None = None,
    progress: Progress = silent,
    report: Callable[[Evaluation], None] | None = None,
) -> Evaluation:
    """The figures of a model on a data set.

    Memory does not grow with the data set: features lie in files below `work` until all is done. A run that is killed
    is taken up where it was, if the data set up to there is still the same.

    Args:
        encoder: the model.
        data: the data set.
        work: a folder for what is under way.
        templates: sentences with {c}, in place of the data set's own.
        progress: shows steps.
        report: takes what came out, before what is kept of the run is removed: whoever is killed while it is written
            down starts where everything is computed.

    Raises:
        DataError: where the data set is damaged; what is computed up to there is kept.
        BusyError: where another process computes the same.
        OutputError: where nothing can be written below `work`.
    """
    if templates is not None and data.kind != RETRIEVAL:
        for each in templates:
            check_template(each, "--templates")
        data = replace(data, templates=templates)
    if data.kind != RETRIEVAL and not data.templates:
        raise DataError(f"{data.name} has no templates. Give --templates, such as --templates openai.")
    folder = work / _key(encoder, data)
    with alone(folder):
        vectors = None if data.kind == RETRIEVAL else _class_vectors(encoder, data, folder / "classes", progress)
        stream = _Stream(encoder, data, Journal(folder / "images", _columns(encoder, data)))
        stream.run(progress)
        found = stream.result(vectors)
        if report is not None:
            report(found)
        shutil.rmtree(folder, ignore_errors=True)
    return found


def _key(encoder: Encoder, data: Dataset) -> str:
    """A name for this evaluation: other weights, data, classes or templates have another."""
    about = {key: value for key, value in encoder.identity.items() if key != "name"}
    facts = [FORMAT, about, data.name, data.split, data.kind, data.revision, data.classes, data.templates]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]


def _class_vectors(encoder: Encoder, data: Dataset, folder: Path, progress: Progress) -> "NDArray[np.float32]":
    """One vector for each class; those that an earlier run computed are taken from the disk."""
    journal = Journal(folder, {"vectors": ("float32", encoder.width)})
    done, step = journal.state.seen, max(1, 8 * encoder.batch_size // len(data.templates))
    with progress(f"Encoding {len(data.classes) * len(data.templates)} prompts", len(data.classes)) as advance:
        advance(done, "")
        for start in range(done, len(data.classes), step):
            names = data.classes[start : start + step]
            prompts = encoder.encode_texts([prompt(each, name) for name in names for each in data.templates])
            vectors = metrics.class_vectors(prompts, len(data.templates))
            journal.append({"vectors": vectors}, start + len(names), b"", [])
            advance(len(names), "")
    return np.array(journal.column("vectors"))


def _columns(encoder: Encoder, data: Dataset) -> dict[str, tuple[str, int]]:
    features = ("float32", encoder.width)
    if data.kind == RETRIEVAL:
        return {"images": features, "texts": features, "image_of_text": ("int32", 1)}
    labels = ("uint8", len(data.classes)) if data.kind == MULTILABEL else ("int32", 1)
    return {"images": features, "labels": labels}


class _Stream:
    """The images of a data set on their way through the tower."""

    def __init__(self, encoder: Encoder, data: Dataset, journal: Journal) -> None:
        self._encoder, self._data, self._journal = encoder, data, journal
        self._fingerprint = data.start()
        self._seconds = self._tower_seconds = 0.0
        self._resumed_at = self._images = self._seen = 0
        self._unsaved: dict[str, list[NDArray[Any]]] = {name: [] for name in _columns(encoder, data)}
        self._unreadable: list[list[str]] = []

    def run(self, progress: Progress) -> None:
        """Computes what is not in the journal yet."""
        samples = self._unseen(progress)
        self._seen = self._journal.state.seen
        self._images = self._resumed_at = self._journal.state.lengths["images"]
        started = saved = time.perf_counter()
        with progress("Encoding images", self._data.images) as advance:
            advance(self._seen, "")
            try:
                for batch in batches(samples, self._encoder.prepare, self._encoder.batch_size):
                    self._compute(batch)
                    if time.perf_counter() - saved >= SAVE_SECONDS:
                        self._save()
                        saved = time.perf_counter()
                    self._seconds = time.perf_counter() - started
                    advance(len(batch), self._speed())
            finally:
                self._save()

    def _unseen(self, progress: Progress) -> Iterator[Sample]:
        """What an earlier run has not seen. What it has seen is read again, and must be the same."""
        state, samples = self._journal.state, self._data.read()
        if not state.seen:
            return samples
        with progress(f"Comparing {state.seen} images with those of the run before", state.seen) as advance:
            for _ in range(state.seen):
                sample = next(samples, None)
                if sample is None:
                    break
                self._fingerprint = link(self._fingerprint, sample.digest())
                advance(1, "")
        if self._fingerprint.hex() == state.fingerprint:
            return samples
        self._journal.start_again()
        self._fingerprint = self._data.start()
        return self._data.read()

    def _compute(self, batch: list[Prepared]) -> None:
        good = [each for each in batch if each.pixels is not None]
        if good:
            for name, rows in self._rows(good).items():
                self._unsaved[name].append(rows)
        for each in batch:
            self._fingerprint = link(self._fingerprint, each.digest)
        self._unreadable += [[each.name, each.reason] for each in batch if each.pixels is None]
        self._images += len(good)
        self._seen += len(batch)

    def _save(self) -> None:
        """Puts on the disk what is not there yet."""
        if self._seen == self._journal.state.seen:
            return
        rows = {name: np.concatenate(parts) if parts else np.empty(0) for name, parts in self._unsaved.items()}
        self._journal.append(rows, self._seen, self._fingerprint, self._unreadable)
        self._unsaved = {name: [] for name in self._unsaved}
        self._unreadable = []

    def _rows(self, good: list[Prepared]) -> "dict[str, NDArray[Any]]":
        started = time.perf_counter()
        rows = {"images": self._encoder.encode_images([each.pixels for each in good if each.pixels is not None])}
        if self._data.kind == RETRIEVAL:
            texts = [text for each in good for text in each.target]
            rows["texts"] = self._encoder.encode_texts(texts)
            numbers = np.arange(self._images, self._images + len(good))
            rows["image_of_text"] = np.repeat(numbers, [len(each.target) for each in good])
        else:
            rows["labels"] = np.array([each.target for each in good])
        self._tower_seconds += time.perf_counter() - started
        return rows

    def _speed(self) -> str:
        done = self._images - self._resumed_at
        return f"{self._seen:,} images, {done / max(self._seconds, 1e-9):.1f} images/s"

    def result(self, vectors: "NDArray[np.float32] | None") -> Evaluation:
        """The figures of all that is in the journal."""
        state = self._journal.state
        images = state.lengths["images"]
        if not images:
            reason = f" The first: {state.unreadable[0][1]}" if state.unreadable else ""
            raise DataError(f"{self._data.name} has no image that can be read.{reason}")
        columns = {name: self._journal.column(name) for name in state.lengths}
        texts = state.lengths.get("texts") or len(self._data.classes) * len(self._data.templates)
        return Evaluation(
            figures(self._data.kind, columns, vectors),
            images,
            texts,
            self._fingerprint.hex(),
            self._data.templates,
            tuple((name, reason) for name, reason in state.unreadable),
            self._resumed_at,
            self._seconds,
            self._tower_seconds,
        )
