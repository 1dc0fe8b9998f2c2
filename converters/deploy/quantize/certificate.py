"""What rounded weights cost, as bundle.json says it, and the bound that the bundle is held to ever after."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..proofs.proof import Check
from ..request import Request
from .trial import Trial

SLACK = 1.5
"""Another processor rounds otherwise: a cosine may be this times as far from 1 as it was here."""
PICTURE_FILE = "quantization.png"


@dataclass(frozen=True)
class Rounded:
    """What rounding gave.

    Attributes:
        chosen: by tower, the candidate whose files the bundle holds.
        trials: all that were tried, float32 first.
        inputs: how many there were, and whose.
        layers: by tower, what each layer became; nothing of a tower whose layers all have one recipe.
    """

    chosen: dict[str, str]
    trials: list[Trial]
    inputs: dict[str, Any]
    layers: dict[str, Any]

    def certificate(self, request: Request, checks: list[Check]) -> dict[str, Any]:
        """The section of bundle.json.

        Args:
            request: that the bundle was made by.
            checks: of the bundle's files against PyTorch.
        """
        return {
            "recipe": request.recipe,
            "stored": self.chosen,
            "budget": request.budget,
            "measured_on": self.inputs,
            "tried": [trial.to_json() for trial in self.trials],
            "layers": self.layers,
            "bound": bound_of(checks),
            "meaning": "size and latency are parts of float32's. smallest_cosine is that of a row's features to "
            "float32's in the same runtime, both less the mean of float32's features. agreement is the part of rows "
            "whose best match stays. bound is the smallest such cosine to PyTorch's features that verify accepts, with "
            "the mean of the golden features.",
        }


def bound_of(checks: list[Check]) -> dict[str, float]:
    """By tower, the smallest cosine to PyTorch that the bundle may have anywhere."""
    judged = [check.cosines for check in checks if check.judged]
    return {tower: 1 - SLACK * (1 - min(each[tower] for each in judged)) for tower in judged[0]}


def draw(trials: list[Trial], chosen: dict[str, str], path: Path) -> None:
    """Writes the picture: for each tower, what each recipe costs in nearness, over its size."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    towers = list(trials[0].towers)
    figure = Figure(figsize=(5.5 * len(towers), 4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, tower in zip(figure.subplots(1, len(towers), squeeze=False)[0], towers, strict=True):
        for trial in trials[1:]:
            cost = trial.towers[tower]
            error = max(1 - cost.near.smallest_cosine, 1e-7)  # a logarithmic axis has no 0
            marker, size = ("*", 14) if trial.name == chosen[tower] else ("o", 8)
            axes.plot(cost.size, error, marker, ms=size)
            label = f"{trial.name}\nagreement {cost.near.agreement:.2f}, time {cost.latency:.2f}"
            axes.annotate(label, (cost.size, error), xytext=(6, 4), textcoords="offset points", fontsize=7)
        axes.set(xlabel="size / float32's", ylabel="1 - smallest cosine", yscale="log", xlim=(0, 0.8), title=tower)
        axes.grid(alpha=0.3)
    figure.suptitle("What rounded weights cost; the star is what the bundle holds")
    figure.savefig(path, dpi=110)
