"""Whether the files of a bundle compute what PyTorch computes, in their own runtime, on the fixed inputs."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ....verify.compare import Cost, Features, RoundingCheck, check_against, measure_cost
from ....verify.criteria import MAX_RATIO, RMS_RATIO, ROUNDED
from ..request import Request
from ..runtimes.registry import BROWSER, Arrays, Run, open_tower
from .inputs import ProofInputs

FREE_BATCH = 8
"""Rows of a batch where a file takes any number."""


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

    @property
    def passed(self) -> bool:
        """Float32 is held to the criteria of every verification, rounded weights to what their rounding explains."""
        check = self.rounding
        factor = ROUNDED["float16"] if self.recipe == "fp16" else 1
        if factor == 1:
            return check.passed
        return (
            check.rms <= factor * RMS_RATIO * check.torch_rms
            and check.maximum <= factor * MAX_RATIO * check.torch_maximum
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
            "judged": self.judged,
            "passed": self.passed,
        }


def prove(
    folder: Path, request: Request, inputs: ProofInputs, truth: Features, torch_rms: float, torch_maximum: float
) -> list[Check]:
    """Runs every file of a bundle in every way.

    Args:
        folder: of the bundle.
        request: what it was made by.
        inputs: to run.
        truth: PyTorch's features of them in float64.
        torch_rms: root mean square of the error of PyTorch's own float32 logits.
        torch_maximum: the largest such error.
    """
    found = []
    for way in ways_here(request):
        for batch in request.batches or (FREE_BATCH,):
            features = run_towers(folder, request, inputs, batch, way)
            check = check_against("inference", request.runtime, features, truth, torch_rms, torch_maximum)
            judged = way != "default" or len(request.how.ways) == 1
            found.append(Check(way, batch, check, measure_cost(way, features, truth), judged, request.recipe))
    return found


def ways_here(request: Request) -> tuple[str, ...]:
    """The ways of a runtime that this machine has: a browser may not be there."""
    from ..web.browser import why_no_browser

    return tuple(way for way in request.how.ways if way != BROWSER or why_no_browser() is None)


def run_towers(folder: Path, request: Request, inputs: ProofInputs, batch: int, way: str) -> Features:
    """The features that a bundle's files compute."""
    if way == BROWSER:
        from ..web.proving import run_in_browser

        return run_in_browser(folder, inputs, batch)
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
