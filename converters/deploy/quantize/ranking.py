"""How near features are to others, and whether they rank alike."""

from dataclasses import asdict, dataclass

import numpy as np

TIE = 0.01
"""Rows of one tower whose cosines to another differ by no more match it alike: of a few rows, some always do."""
SPREADS = 2
"""Standard deviations that a row's error may be above its mean: one of 40 is, and of 20 above the mean of four ways."""


@dataclass(frozen=True)
class Nearness:
    """Of one tower's features to those of the float tower.

    Attributes:
        smallest_cosine: of a row to the same row, both less the mean of the float rows. Features of one kind point
            nearly one way, so plain cosines flatter.
        agreement: share of rows with the same best match among the other tower's features. Where there are none: among
            this tower's other rows, less the mean of the float rows, too; one that is as near to within TIE is as good.
    """

    smallest_cosine: float
    agreement: float

    def holds(self, budget: float) -> bool:
        """Whether both are at least so much. Numbers that are not finite are not."""
        return self.smallest_cosine >= budget and self.agreement >= budget

    def to_json(self) -> dict[str, float | None]:
        """Numbers that are not finite become None."""
        return {name: value if np.isfinite(value) else None for name, value in asdict(self).items()}


def nearness(ours: np.ndarray, theirs: np.ndarray, others: np.ndarray | None) -> Nearness:
    """Compares features.

    Args:
        ours: (rows, embed_dim).
        theirs: the same rows' of the float tower.
        others: the other tower's float features; None where there is none.
    """
    with np.errstate(all="ignore"):
        return Nearness(float(cosines(ours, theirs, centre_of(theirs)).min()), agreement(ours, theirs, others))


def likely_errors(errors: np.ndarray) -> np.ndarray:
    """What rows may cost a runtime, which is one more way to round.

    Args:
        errors: (ways, rows): 1 less the cosine of each row, in ways to round that are equally good.

    Returns:
        (rows,): the mean, and SPREADS standard deviations. These are parts of the mean, and the same part for all rows:
        a few ways tell little of a single row's.
    """
    mean = errors.mean(0)
    parts = np.divide(errors.std(0, ddof=1), mean, out=np.zeros_like(mean), where=mean > 0)
    return mean * (1 + SPREADS * np.sqrt(np.square(parts).mean()))


def centre_of(features: np.ndarray) -> np.ndarray:
    """The mean of rows, in float64; of a single row 0, which has no other to differ from."""
    unit = _unit(features)
    return unit.mean(0) if len(unit) > 1 else np.zeros(unit.shape[1:])


def cosines(ours: np.ndarray, theirs: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Of each row to the same row, both less a centre."""
    mine, other = _unit(ours) - centre, _unit(theirs) - centre
    return np.sum(mine * other, -1) / (np.linalg.norm(mine, axis=-1) * np.linalg.norm(other, axis=-1))


def agreement(ours: np.ndarray, theirs: np.ndarray, others: np.ndarray | None) -> float:
    """The share of best matches that stay: see Nearness, and `nearness` for the arguments."""
    if not np.isfinite(ours).all():
        return 0.0
    if others is None and len(theirs) < 2:
        return 1.0
    centre = centre_of(theirs) if others is None else 0.0
    among = _unit(_unit(theirs) - centre) if others is None else _unit(others)
    found, right = (_unit(_unit(features) - centre) @ among.T for features in (ours, theirs))
    if others is None:
        np.fill_diagonal(found, -np.inf)
        np.fill_diagonal(right, -np.inf)
    matched = np.take_along_axis(right, found.argmax(1)[:, None], 1)[:, 0]
    return float(np.mean(matched >= right.max(1) - (TIE if others is None else 0.0)))


def _unit(features: np.ndarray) -> np.ndarray:
    features = features.astype(np.float64)
    return features / np.linalg.norm(features, axis=-1, keepdims=True)
