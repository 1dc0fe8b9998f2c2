"""The outlines of shapes: polygons around (0, 0) that fit into the unit circle, y pointing down."""

from collections.abc import Callable

import numpy as np

from .scene import SHAPES

POINTS = 48
"""How many points an outline has at least. Between them it is straight."""


def outline(shape: int, rng: np.random.Generator, wobble: float) -> np.ndarray:
    """An outline in proportions that vary a little.

    Args:
        shape: index into SHAPES.
        rng: where chance comes from.
        wobble: how unsteady the hand is that draws it; 0 for a ruler, 0.1 for a child.

    Returns:
        float64 (48 or a few more, 2), x and y.
    """
    corners = _OUTLINES[SHAPES[shape]](rng)
    points = _resampled(corners)
    if wobble:
        points = points * (1 + wobble * _waves(rng, len(points)))[:, None]
    return points @ _rotation(_angle(rng))


def _circle(rng: np.random.Generator) -> np.ndarray:
    return _arc(0, 2 * np.pi, POINTS) * rng.uniform(0.94, 1.0, 2)


def _square(rng: np.random.Generator) -> np.ndarray:
    return _box(0.78, 0.78 * rng.uniform(0.94, 1.06))


def _triangle(rng: np.random.Generator) -> np.ndarray:
    tip = rng.uniform(-0.3, 0.3)
    return np.array([(tip, -0.95), (0.9, 0.7), (-0.9, 0.7)])


def _star(rng: np.random.Generator) -> np.ndarray:
    inner, tips = rng.uniform(0.38, 0.5), 5 if rng.random() < 0.85 else 6
    angles = np.arange(2 * tips) * np.pi / tips - np.pi / 2
    radii = np.where(np.arange(2 * tips) % 2, inner, 1.0)
    return np.stack([np.cos(angles), np.sin(angles)], 1) * radii[:, None]


def _heart(rng: np.random.Generator) -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, POINTS, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([x, -y - 2.5], 1) / 16 * (rng.uniform(0.88, 1.0), 0.95)


def _cross(rng: np.random.Generator) -> np.ndarray:
    a = rng.uniform(0.2, 0.34)
    quarter = np.array([(a, -0.95), (a, -a), (0.95, -a)])
    return np.concatenate([quarter @ _rotation(turn * np.pi / 2) for turn in range(4)])


def _moon(rng: np.random.Generator) -> np.ndarray:
    """A crescent: a wide arc there, a narrower one back."""
    bulge = rng.uniform(0.35, 0.6)
    there, back = _arc(-0.5 * np.pi, 0.5 * np.pi, 24), _arc(0.5 * np.pi, -0.5 * np.pi, 24) * (bulge, 1)
    return np.concatenate([there, back]) * (rng.choice((-1, 1)), 1)


_OUTLINES: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "heart": _heart,
    "cross": _cross,
    "moon": _moon,
}


def _angle(rng: np.random.Generator) -> float:
    """How far a shape is turned. A square on its tip would be a diamond, so all turn little."""
    return float(np.clip(rng.normal(0, 0.1), -0.2, 0.2))


def _arc(start: float, end: float, count: int) -> np.ndarray:
    angles = np.linspace(start, end, count)
    return np.stack([np.cos(angles), np.sin(angles)], 1)


def _box(x: float, y: float) -> np.ndarray:
    return np.array([(-x, -y), (x, -y), (x, y), (-x, y)])


def _rotation(angle: float) -> np.ndarray:
    return np.array([(np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))])


def _resampled(corners: np.ndarray) -> np.ndarray:
    """Points at equal distances along a closed outline, and its corners near enough."""
    closed = np.concatenate([corners, corners[:1]])
    lengths = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(closed, axis=0).T))])
    along = np.union1d(np.linspace(0, lengths[-1], POINTS, endpoint=False), lengths[:-1])
    return np.stack([np.interp(along, lengths, closed[:, axis]) for axis in (0, 1)], 1)


def _waves(rng: np.random.Generator, count: int) -> np.ndarray:
    """A few slow waves around an outline, of a height of about 1."""
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False)[:, None] * np.arange(1, 6)
    heights, shifts = rng.normal(0, 0.5, 5), rng.uniform(0, 2 * np.pi, 5)
    return (np.sin(angles + shifts) * heights).sum(1)
