"""Rounding by a recipe: candidates are written and tried in their runtime, and the one that is wanted is kept."""

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...conversion.progress import Progress
from ..proofs.inputs import ProofInputs
from ..request import Request
from .calibration import save_rows
from .certificate import Rounded
from .recipes import BY_LAYER, CANDIDATES, DEFAULT_BUDGET, IN_INTEGERS, candidates
from .trial import Trial, check_trial, choose, files_of, tower_of, try_all

Convert = Callable[[list[dict[str, Any]]], list[dict[str, Any]]]
"""Writes the files of candidates, and gives what bundle.json says of each."""
RoundJob = Callable[[Path, Path], dict[str, Any]]
"""Runs the job that rounds: from the file of inputs to what it wrote into a folder."""


def round_and_choose(
    request: Request,
    inputs: ProofInputs,
    staged: Path,
    convert: Convert,
    round_job: RoundJob,
    own: dict[str, Any],
    progress: Progress,
) -> tuple[dict[str, Any], Rounded]:
    """Writes the files of a recipe into a bundle.

    Args:
        request: says recipe and budget.
        inputs: to measure on.
        staged: the bundle's folder.
        convert: writes files.
        round_job: rounds weights.
        own: what bundle.json says of the inputs.
        progress: shows steps.

    Returns:
        What bundle.json says of the files that were kept, and what was tried.

    Raises:
        DeployError: where the recipe gives no numbers, or is not within its budget.
    """
    with tempfile.TemporaryDirectory() as beside:
        tried = try_recipes(request, inputs, Path(beside), convert, round_job, progress)
        chosen = _chosen(tried.trials, request)
        for tower, name in chosen.items():
            for path in files_of(tried.folders[name], tower):
                shutil.move(path, staged / path.name)
    layers = {tower: tried.layers[name][tower] for tower, name in chosen.items() if name in tried.layers}
    return _made(tried.made, chosen), Rounded(chosen, tried.trials, own, layers)


def _made(made: dict[str, dict[str, Any]], chosen: dict[str, str]) -> dict[str, Any]:
    """What bundle.json says of files, each tower's from the candidate that it is of."""
    found = dict(next(iter(made.values())))
    for about in ("parts", "float16"):
        found[about] = {
            part: facts
            for tower, name in chosen.items()
            for part, facts in made[name][about].items()
            if tower_of(part) == tower
        }
    return found


@dataclass(frozen=True)
class Tried:
    """What `try_recipes` wrote and measured.

    Attributes:
        folders: of each candidate's files.
        made: what bundle.json says of each candidate's files.
        layers: of the candidates with a precision for each layer, by tower, what they make of each.
        trials: what each candidate costs.
    """

    folders: dict[str, Path]
    made: dict[str, dict[str, Any]]
    layers: dict[str, Any]
    trials: list[Trial]


def try_recipes(
    request: Request, inputs: ProofInputs, place: Path, convert: Convert, round_job: RoundJob, progress: Progress
) -> Tried:
    """Writes the files of every candidate of a request into a folder each, and measures them.

    Args:
        request: says recipe and budget.
        inputs: to measure on.
        place: an empty folder for the candidates' folders.
        convert: writes files.
        round_job: rounds weights.
        progress: shows steps.
    """
    layers: dict[str, Any] = {}
    floats: dict[str, list[str]] = {}
    if request.recipe in BY_LAYER:
        with progress("Rounding weights"):
            save_rows(inputs, place / "rows.npz")
            found = round_job(place / "rows.npz", place)
            layers, floats = found["layers"], found["floats"]
    names = candidates(request.recipe, request.how.recipes)
    folders = {name: place / name for name in names}
    with progress(f"Converting to {request.how.title}, {len(names)} times"):
        made = dict(zip(names, convert([_spec(name, place, floats) for name in names]), strict=True))
    with progress(f"Measuring in {request.how.title}"):
        trials = try_all(folders, request, inputs)
    return Tried(folders, made, layers, trials)


def _spec(name: str, place: Path, floats: dict[str, list[str]]) -> dict[str, Any]:
    """A candidate as the job takes it."""
    out = place / name
    out.mkdir()
    weights = str(place / f"{CANDIDATES[name]}.npz") if name in CANDIDATES else None
    in_floats = floats.get(name, []) if name in IN_INTEGERS else None
    return {"recipe": name, "out": str(out), "weights": weights, "floats": in_floats}


def _chosen(trials: list[Trial], request: Request) -> dict[str, str]:
    """By tower, the candidate that is kept."""
    if request.recipe == "auto":
        return choose(trials, request.budget or DEFAULT_BUDGET)
    check_trial(trials[1], request.budget)
    return dict.fromkeys(request.towers, trials[1].name)
