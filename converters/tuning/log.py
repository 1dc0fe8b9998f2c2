"""What a fine-tuning leaves beside the weights: its record, every step as a table, and both as a picture."""

import csv
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .history import History

RECORD, TABLE, PICTURE = "training.json", "training.csv", "training.png"
COLUMNS = ("step", "epoch", "loss", "learning_rate", "image_to_text", "text_to_image")
SMOOTH = 25
"""The line of the mean is drawn over a SMOOTHth of all steps."""


def write_log(folder: Path, record: dict[str, Any], history: History, steps_per_epoch: int) -> None:
    """Writes the record, the table and, where matplotlib is there, the picture into a folder."""
    (folder / RECORD).write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    write_table(folder / TABLE, history, steps_per_epoch)
    if find_spec("matplotlib") is not None:
        draw(folder / PICTURE, history)


def write_table(path: Path, history: History, steps_per_epoch: int) -> None:
    """A row for each step, and row 0 for what was there before. Recall stands where it was measured."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for step in range(history.step + 1):
            recall = history.validations.get(step)
            if step == 0:
                if recall is not None:
                    writer.writerow([0, 0, "", "", recall.image_to_text, _or_empty(recall.text_to_image)])
                continue
            done = [
                step,
                (step - 1) // steps_per_epoch + 1,
                repr(history.losses[step - 1]),
                repr(history.rates[step - 1]),
            ]
            found = ["", ""] if recall is None else [recall.image_to_text, _or_empty(recall.text_to_image)]
            writer.writerow([*done, *found])


def _or_empty(value: float | None) -> float | str:
    return "" if value is None else value


def draw(path: Path, history: History) -> None:
    """Writes the picture as PNG: the loss of each step and its mean, and below it recall@1."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = 2 if history.validations else 1
    figure = Figure(figsize=(9, 3.5 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    steps = range(1, history.step + 1)
    loss = figure.add_subplot(rows, 1, 1)
    loss.plot(steps, history.losses, color="tab:blue", alpha=0.35, lw=1, label="each step")
    loss.plot(steps, _means(history.losses), color="tab:blue", lw=2, label="mean")
    loss.set(ylabel="contrastive loss", xlabel="step", title="Training")
    axes = [loss]
    if history.validations:
        recall = figure.add_subplot(rows, 1, 2, sharex=loss)
        found = sorted(history.validations.items())
        lines = {"image to text": "image_to_text", "text to image": "text_to_image"}
        for (label, name), colour in zip(lines.items(), ("tab:orange", "tab:green"), strict=True):
            values = [(step, 100 * getattr(each, name)) for step, each in found if getattr(each, name) is not None]
            if values:
                recall.plot(*zip(*values, strict=True), "o-", color=colour, ms=4, label=label)
        if history.best_step is not None:
            recall.axvline(history.best_step, color="0.5", ls="--", lw=1, label=f"best, step {history.best_step}")
        recall.set(ylabel="recall@1, %", xlabel="step", title="Pairs held back")
        axes.append(recall)
    for each in axes:
        each.grid(alpha=0.3)
        each.legend()
    figure.savefig(path, dpi=110)


def _means(losses: list[float]) -> list[float]:
    """The mean of the steps up to each one, over a window."""
    window = max(1, len(losses) // SMOOTH)
    sums = [0.0]
    for loss in losses:
        sums.append(sums[-1] + loss)
    starts = [max(0, end - window) for end in range(1, len(sums))]
    return [(sums[end] - sums[start]) / (end - start) for end, start in enumerate(starts, 1)]
