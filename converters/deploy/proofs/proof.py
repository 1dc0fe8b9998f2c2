"""Whether the files of a bundle compute what PyTorch computes, in their own runtime, on the fixed inputs."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ....verify.compare import Cost, Features, RoundingCheck, check_against, measure_cost
from ....verify.criteria import LENGTH_TOLERANCE, MAX_RATIO, RMS_RATIO, ROUNDED
from ..quantize.ranking import centre_of, cosines
from ..request import Request
from ..runtimes.registry import BROWSER, Arrays, Run, open_tower
from .inputs import ProofInputs

FREE_BATCH = 8
"""Rows of a batch where a file takes any number."""


@dataclass(frozen=True)
class Stored:
    """How a bundle's weights are kept, by tower, and the bound that it states, as for `Check`."""

    recipes: Mapping[str, str]
    bound: Mapping[str, float] | None = None

    @property
    def coarsest(self) -> str:
        """The recipe that all towers together are held to: that of the fewest bits."""
        names = set(self.recipes.values())
        exact = names & {"float32", "fp16"}
        return next(iter(names - exact), "fp16" if "fp16" in exact else "float32")


@dataclass(frozen=True)
class Check:
    """One way of running a bundle, at one batch, against PyTorch in float64."""

    way: str
    """Of the runtime; "" for its only one."""
    batch: int
    rounding: RoundingCheck
    cost: Cost
    """The same, as cosines."""
    judged: bool
    """Whether a bundle is refused for it. How a device computes by default is measured and not judged."""
    recipe: str
    cosines: dict[str, float]
    """By tower, the smallest of a row to PyTorch's, both less the mean of PyTorch's golden features."""
    bound: Mapping[str, float] | None = None
    """By tower, what these must reach: what the bundle says of itself. None while it is written."""

    @property
    def passed(self) -> bool:
        """Float32 is held to the criteria of every verification, float16 to what its rounding explains, and integers to
        the bound that the bundle states."""
        check = self.rounding
        if self.recipe == "float32":
            return check.passed
        if self.recipe == "fp16":
            factor = ROUNDED["float16"]
            return (
                check.rms <= factor * RMS_RATIO * check.torch_rms
                and check.maximum <= factor * MAX_RATIO * check.torch_maximum
            )
        bound = self.bound or {}
        return check.length_error <= LENGTH_TOLERANCE and all(
            cosine >= bound.get(tower, -1) for tower, cosine in self.cosines.items()
        )

    def to_json(self) -> dict[str, Any]:
        """As verification.json has it."""
        rounding = asdict(self.rounding)
        del rounding["form"], rounding["program"]
        return {
            "way": self.way or "default",
            "batch": self.batch,
            **rounding,
            "rms_ratio": self.rounding.rms_ratio,
            "max_ratio": self.rounding.max_ratio,
            "smallest_cosine": self.cost.to_json()["smallest_cosine"],
            "centred_cosines": {name: value if np.isfinite(value) else None for name, value in self.cosines.items()},
            "bound": None if self.bound is None else dict(self.bound),
            "judged": self.judged,
            "passed": self.passed,
        }


def prove(
    folder: Path,
    request: Request,
    inputs: ProofInputs,
    truth: Features,
    torch_rms: float,
    torch_maximum: float,
    stored: Stored | None = None,
) -> list[Check]:
    """Runs every file of a bundle in every way.

    Args:
        folder: of the bundle.
        request: what it was made by.
        inputs: to run.
        truth: PyTorch's features of them in float64.
        torch_rms: root mean square of the error of PyTorch's own float32 logits.
        torch_maximum: the largest such error.
        stored: how the weights are, and what is said of that; None for what was asked for.
    """
    stored = stored or Stored(dict.fromkeys(request.towers, request.recipe))
    golden = inputs.golden_rows()
    found = []
    for way in ways_here(request):
        for batch in request.batches or (FREE_BATCH,):
            features = run_towers(folder, request, inputs, batch, way)
            check = check_against("inference", request.runtime, features, truth, torch_rms, torch_maximum)
            judged = way != "default" or len(request.how.ways) == 1
            cost, near = measure_cost(way, features, truth), _cosines(features, truth, golden)
            found.append(Check(way, batch, check, cost, judged, stored.coarsest, near, stored.bound))
    return found


def _cosines(ours: Features, truth: Features, golden: tuple[slice, slice]) -> dict[str, float]:
    """The smallest of each tower, both features less the mean of PyTorch's golden ones."""
    found = {}
    for tower, rows in zip(("image", "text"), golden, strict=True):
        mine, theirs = getattr(ours, tower), getattr(truth, tower)
        if mine is not None and theirs is not None:
            with np.errstate(all="ignore"):
                found[tower] = float(cosines(mine, theirs, centre_of(theirs[rows])).min())
    return found


def ways_here(request: Request) -> tuple[str, ...]:
    """The ways of a runtime that this machine has: a browser may not be there."""
    from ..web.browser import why_no_browser

    return tuple(way for way in request.how.ways if way != BROWSER or why_no_browser() is None)


def run_towers(folder: Path, request: Request, inputs: ProofInputs, batch: int, way: str) -> Features:
    """The features that a bundle's files compute."""
    if way == BROWSER:
        from ..web.proving import run_in_browser

        return run_in_browser(folder, inputs)
    image = text = None
    fixed = (request.batches and batch) or None
    if "image" in request.towers:
        run = open_tower(request.runtime, folder / f"image{request.how.suffix}", fixed, way)
        if inputs.pixels is None:
            image = in_batches(run, {"image": inputs.fixed.images}, batch)["image_features"]
        else:
            image = _pictures(run, inputs.pixels, batch, request.pixels is None)
    if "text" in request.towers:
        given = {"tokens": inputs.fixed.tokens.astype(np.int32)}
        if request.embed_outside:
            look_up = open_tower(request.runtime, folder / f"text_lookup{request.how.suffix}", fixed, way)
            given = in_batches(look_up, given, batch)
        run = open_tower(request.runtime, folder / f"text{request.how.suffix}", fixed, way)
        text = in_batches(run, given, batch)["text_features"]
    return Features(image, text)


def first_batch(folder: Path, request: Request, inputs: ProofInputs, tower: str, batch: int) -> Arrays:
    """What the last file of a tower gets for the first rows."""
    if tower == "image":
        if inputs.pixels is not None:
            return {"pixels": np.stack([inputs.pixels[0]] * batch)}
        return {"image": _first(inputs.fixed.images, batch)}
    given = {"tokens": _first(inputs.fixed.tokens.astype(np.int32), batch)}
    if request.embed_outside:
        fixed = batch if request.batches else None
        path = folder / f"text_lookup{request.how.suffix}"
        return open_tower(request.runtime, path, fixed, request.how.ways[0])(given)
    return given


def _first(rows: np.ndarray, batch: int) -> np.ndarray:
    return np.ascontiguousarray(rows[np.arange(batch) % len(rows)])


def _pictures(run: Run, pixels: Iterable[np.ndarray], batch: int, each_its_own: bool) -> np.ndarray:
    """Features of pictures: those of one size in batches, others one by one."""
    if each_its_own:
        return np.concatenate([run({"pixels": picture[None]})["image_features"] for picture in pixels])
    return in_batches(run, {"pixels": np.stack(list(pixels))}, batch)["image_features"]


def in_batches(run: Run, given: Arrays, batch: int) -> Arrays:
    """All rows, in batches of one size: the last is filled up with rows that are there."""
    count = len(next(iter(given.values())))
    found: dict[str, list[np.ndarray]] = {}
    for start in range(0, count, batch):
        rows = np.arange(start, start + batch) % count
        outputs = run({name: np.ascontiguousarray(array[rows]) for name, array in given.items()})
        for name, array in outputs.items():
            found.setdefault(name, []).append(array[: count - start])
    return {name: np.concatenate(parts) for name, parts in found.items()}
