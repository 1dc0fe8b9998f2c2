"""What each candidate costs in its own runtime: size, time, nearness to the float files."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ....verify.compare import Features
from ..proofs.inputs import ProofInputs
from ..proofs.proof import FREE_BATCH, first_batch, run_towers
from ..request import DeployError, Request
from ..runtimes.registry import open_tower
from .ranking import Nearness, nearness

TURNS, SECONDS = 5, 0.1
"""How often and how long each candidate is timed at least; all take turns. The least time counts: what else a machine
does only ever adds to it."""
SLOWER = 1.25
"""Times float32's latency, from which a candidate is slower. A busy machine's clock is no better than that."""


@dataclass(frozen=True)
class TowerTrial:
    """One tower of one candidate.

    Attributes:
        bytes: of its files.
        size: of float32's.
        latency: of float32's, for the smallest batch that the file takes.
        near: to float32's features.
    """

    bytes: int
    size: float
    latency: float
    near: Nearness

    def may_be_taken(self, budget: float) -> bool:
        """Whether it is within a budget and not slower than float32's."""
        return self.near.holds(budget) and self.latency <= SLOWER

    def to_json(self) -> dict[str, Any]:
        """As bundle.json has it."""
        facts = asdict(self)
        del facts["near"]
        return {**facts, **self.near.to_json()}


@dataclass(frozen=True)
class Trial:
    """One candidate: its name, and what each of its towers costs."""

    name: str
    towers: dict[str, TowerTrial]

    def to_json(self) -> dict[str, Any]:
        """As bundle.json has it."""
        return {"recipe": self.name, "towers": {name: tower.to_json() for name, tower in self.towers.items()}}


def try_all(folders: dict[str, Path], request: Request, inputs: ProofInputs) -> list[Trial]:
    """Runs candidates.

    Args:
        folders: of each candidate's files, by name; "float32" comes first.
        request: that they were made by.
        inputs: to measure on.
    """
    batch, way = (request.batches or (FREE_BATCH,))[0], request.how.ways[0]
    features = {name: run_towers(folder, request, inputs, batch, way) for name, folder in folders.items()}
    exact = features["float32"]
    found: dict[str, dict[str, TowerTrial]] = {name: {} for name in folders}
    for tower in request.towers:
        sizes = {name: tower_bytes(folder, tower) for name, folder in folders.items()}
        times = call_times(folders, request, inputs, tower)
        theirs = _of(exact, tower)
        others = next((_of(exact, each) for each in request.towers if each != tower), None)
        for name in folders:
            found[name][tower] = TowerTrial(
                sizes[name],
                sizes[name] / sizes["float32"],
                times[name] / times["float32"],
                nearness(_of(features[name], tower), theirs, others),
            )
    return [Trial(name, towers) for name, towers in found.items()]


def tower_of(part: str) -> str:
    """The tower that a part is of: "text_lookup" is of "text"."""
    return part.split("_", 1)[0]


def files_of(folder: Path, tower: str) -> list[Path]:
    """The files of a tower: `text.xml`, `text.bin` and `text_lookup.xml` are one tower's."""
    return [path for path in folder.iterdir() if path.is_file() and tower_of(path.name.split(".", 1)[0]) == tower]


def tower_bytes(folder: Path, tower: str) -> int:
    """Of all files of a tower."""
    return sum(path.stat().st_size for path in files_of(folder, tower))


def choose(trials: list[Trial], budget: float) -> dict[str, str]:
    """Of each tower, the smallest candidate that holds and is not slower than float32, which always holds.

    Of those within a hundredth of its size it is the fastest.
    """
    found = {}
    for tower in trials[0].towers:
        costs = {trial.name: trial.towers[tower] for trial in trials}
        held = {name: cost for name, cost in costs.items() if name == "float32" or cost.may_be_taken(budget)}
        least = min(cost.bytes for cost in held.values())
        near = [name for name, cost in held.items() if cost.bytes <= 1.01 * least]
        found[tower] = min(near, key=lambda name: costs[name].latency)
    return found


def check_trial(trial: Trial, budget: float | None) -> None:
    """Raises DeployError where a recipe that was asked for gives no numbers, or is not within its budget."""
    for name, tower in trial.towers.items():
        near = tower.near
        if not np.isfinite(near.smallest_cosine):
            raise DeployError(f"With the recipe {trial.name!r}, the {name} tower gives features that are no numbers.")
        if budget is not None and not near.holds(budget):
            raise DeployError(
                f"With the recipe {trial.name!r}, the {name} tower's smallest cosine is {near.smallest_cosine:.4f} and "
                f"{near.agreement:.1%} of its best matches stay, below the budget of {budget:g}: give --quantize auto, "
                "or a smaller --budget."
            )


def _of(features: Features, tower: str) -> np.ndarray:
    array = features.image if tower == "image" else features.text
    assert array is not None
    return array


def call_times(
    folders: dict[str, Path], request: Request, inputs: ProofInputs, tower: str, least: float = SECONDS
) -> dict[str, float]:
    """The least seconds of one call, for the smallest batch; of a free one, for one row.

    Args:
        folders: of each candidate's files, by name.
        request: that they were made by.
        inputs: to run on.
        tower: "image" or "text".
        least: for how many seconds each candidate is timed at least.
    """
    batch = min(request.batches, default=1)
    runs = {name: _timed(folder, request, inputs, tower, batch) for name, folder in folders.items()}
    for run in runs.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    end, turns = time.perf_counter() + least * len(runs), 0
    while turns < TURNS or time.perf_counter() < end:
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
        turns += 1
    return {name: min(each) for name, each in seconds.items()}


def _timed(folder: Path, request: Request, inputs: ProofInputs, tower: str, batch: int) -> Callable[[], Any]:
    """A call of a tower's last file, which computes nearly all."""
    fixed = batch if request.batches else None
    run = open_tower(request.runtime, folder / f"{tower}{request.how.suffix}", fixed, request.how.ways[0])
    given = first_batch(folder, request, inputs, tower, batch)
    return lambda: run(given)
