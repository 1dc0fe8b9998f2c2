"""A verification as a picture: the error of each stage, and logits against logits."""

from pathlib import Path

from .verification import Verification

COLOURS = {"torch": "0.6", "train": "tab:blue", "reparameterized": "tab:green", "inference": "tab:orange"}
LABELS = {"torch": "PyTorch float32"}


def draw(verification: Verification, path: Path) -> None:
    """Writes the picture as PNG.

    Above: each stage's largest float32 error, relative to the stage's largest value, against PyTorch in float64.
    Below: Keras' float32 logits against PyTorch's float64 ones, and their differences.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(
        f"{verification.variant}, Keras ({verification.backend}) against PyTorch: "
        + ("passed" if verification.passed else "FAILED")
    )
    grid = figure.add_gridspec(2, 2, height_ratios=(1.1, 1))
    stages = figure.add_subplot(grid[0, :])
    for form, errors in verification.stages.items():
        label = LABELS.get(form, f"Keras {form}")
        heights = [max(error, 1e-17) for error in errors.values()]  # a logarithmic axis has no 0
        stages.plot(list(errors), heights, "o-", ms=3, lw=1, color=COLOURS[form], label=label)
    stages.set(yscale="log", ylabel="relative error, float32", title="Error of each stage against PyTorch in float64")
    stages.tick_params(axis="x", labelrotation=90, labelsize=7)
    stages.grid(alpha=0.3)
    stages.legend()

    truth = verification.logits["torch"].ravel()
    agreement, difference = figure.add_subplot(grid[1, 0]), figure.add_subplot(grid[1, 1])
    for form, logits in verification.logits.items():
        if form != "torch":
            label = f"Keras {form}"
            agreement.plot(truth, logits.ravel(), ".", ms=4, color=COLOURS[form], label=label)
            difference.plot(truth, logits.ravel() - truth, ".", ms=4, color=COLOURS[form], label=label)
    limits = [truth.min(), truth.max()]
    agreement.plot(limits, limits, color="0.7", lw=1, zorder=0)
    agreement.set(xlabel="PyTorch float64 logit", ylabel="Keras float32 logit", title="Logits")
    difference.axhline(0, color="0.7", lw=1, zorder=0)
    difference.set(xlabel="PyTorch float64 logit", ylabel="Keras minus PyTorch", title="Differences")
    for axes in (agreement, difference):
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=110)
