"""Rows that are embedded, as a sink of Ray's: parts of a store, as one machine writes them."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..embedder import Embedder
from ..fingerprint import Fingerprint
from ..items import Item
from ..parts import Layout, Rows
from .worker import KINDS, VectorMaker

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROWS_OF_A_PART = 4096
"""That are gathered before they are written."""
COLUMNS = ("id", "kind", "name", "reason", "features")

Failure = tuple[Item, str]
"""An input that could not be read, and why."""


class ItemEmbedder:
    """Embeds the rows that `reading.source` gives: one actor of a run.

    Args:
        model: as `Embedder.from_pretrained` takes it.
        batch_size: inputs that are computed at once.
        fingerprint: of the store.

    Raises:
        FingerprintError: where this node would make other vectors.
    """

    def __init__(self, model: str, batch_size: int, fingerprint: Fingerprint) -> None:
        self._vectors = VectorMaker(Embedder.from_pretrained(model, batch_size=batch_size))
        fingerprint.check(self._vectors.fingerprint, "the store")

    def __call__(self, batch: "dict[str, NDArray[Any]]") -> "dict[str, NDArray[Any]]":
        """The batch with "features", (rows, embed_dim), in the place of "content"; "reason" says what has none."""
        reasons = [str(each) for each in batch["reason"]]
        features = np.zeros((len(reasons), self._vectors.width), np.float32)
        for kind in KINDS:
            rows = [row for row, each in enumerate(batch["kind"]) if each == kind and not reasons[row]]
            made = self._vectors.of(kind, [bytes(batch["content"][row]) for row in rows])
            features[rows] = made.features
            for row, reason in zip(rows, made.reasons, strict=True):
                # Bytes have no name, and the reader calls them a number.
                reasons[row] = reason.replace("Image number 0", str(batch["name"][row]))
        kept = {name: values for name, values in batch.items() if name != "content"}
        return {**kept, "features": features, "reason": np.array(reasons, dtype=str)}


def sink(ray: Any, layout: Layout) -> Any:
    """Writes rows as parts of a store.

    A task that runs again replaces what it wrote before, or writes it twice: `remove_repeated` sees to that.

    Args:
        ray: the package.
        layout: of the store.

    Returns:
        A `ray.data.Datasink`. Once all is written, `failed` lists what could not be read.
    """

    class Parts(ray.data.Datasink):
        def __init__(self) -> None:
            self.failed: list[Failure] = []

        @property
        def min_rows_per_write(self) -> int:
            return ROWS_OF_A_PART

        def write(self, blocks: Iterable[Any], ctx: Any) -> list[Failure]:
            return _write(layout, blocks)

        def on_write_complete(self, result: Any) -> None:
            self.failed = [each for some in result.write_returns for each in some]

    return Parts()


def _write(layout: Layout, blocks: Iterable[Any]) -> list[Failure]:
    """Writes the good rows of some blocks as one part, and gives the others: called on a node."""
    from ray.data.block import BlockAccessor

    filled = [found for found in map(BlockAccessor.for_block, blocks) if found.num_rows()]
    if not filled:
        return []
    columns = [found.to_numpy(list(COLUMNS)) for found in filled]
    ids, kinds, names, reasons, features = (np.concatenate([each[name] for each in columns]) for name in COLUMNS)
    good = np.flatnonzero(reasons == "")
    if len(good):
        rows = Rows(
            [bytes.fromhex(each) for each in ids[good]],
            [str(each) for each in kinds[good]],
            [str(each) for each in names[good]],
            features[good],
        )
        layout.write(rows)
    return [
        (Item(bytes.fromhex(ids[row]), str(kinds[row]), str(names[row])), str(reasons[row]))
        for row in np.flatnonzero(reasons != "")
    ]
