"""A verification as tables in the terminal."""

from rich.console import Group
from rich.table import Table
from rich.text import Text

from .criteria import FLOAT64_TOLERANCE, LOGIT_FLOOR, MAX_RATIO, RMS_RATIO
from .verification import Verification


def render(verification: Verification) -> Group:
    """The tables of a verification, and its verdict."""
    parts: list[Table | Text] = [_exact(verification), _rounding(verification)]
    if (verification.features.image is None) != (verification.features.text is None):
        parts.append(Text("In place of logits, which need both towers, similarities to fixed directions are compared."))
    if verification.costs:
        parts.append(_costs(verification))
    if verification.convention:
        parts.append(Text(verification.convention))
    if verification.reason:
        parts.append(Text(verification.reason))
    verdict = "equal to PyTorch" if verification.passed else "NOT equal to PyTorch"
    style = "bold green" if verification.passed else "bold red"
    where = f"{verification.variant} on {verification.backend} ({verification.device.get('name', 'unknown device')}): "
    title = Text.assemble(where, (verdict, style))
    return Group(*parts, title)


def _exact(verification: Verification) -> Table:
    title = f"float64, largest difference relative to the largest feature (at most {FLOAT64_TOLERANCE:.0e})"
    table = Table("form", "image", "text", "", title=title, title_justify="left")
    for check in verification.exact:
        table.add_row(check.form, _number(check.image), _number(check.text), _mark(check.passed))
    return table


def _rounding(verification: Verification) -> Table:
    title = (
        f"float32, error of logits at scale 100 (rms at most {RMS_RATIO} x PyTorch's largest of several runs, "
        f"maximum at most {MAX_RATIO:g} x or {LOGIT_FLOOR:.0e})"
    )
    table = Table(title=title, title_justify="left")
    for column in ("form", "program", "rms", "maximum"):
        table.add_column(column, no_wrap=True)
    for column in ("rms ratio", "max ratio", "other top-1", ""):
        table.add_column(column)
    if verification.rounding:
        first = verification.rounding[0]
        table.add_row("PyTorch", "", _number(first.torch_rms), _number(first.torch_maximum), "1", "1", "0", "")
    for check in verification.rounding:
        table.add_row(
            check.form,
            check.program,
            _number(check.rms),
            _number(check.maximum),
            f"{check.rms_ratio:.2f}",
            f"{check.max_ratio:.2f}",
            str(check.top1_differences),
            _mark(check.passed),
        )
    return table


def _costs(verification: Verification) -> Table:
    title = "what lower precision costs (measured on the first form, not judged)"
    columns = ("computed in", "rms", "maximum", "smallest cosine", "other top-1")
    table = Table(*columns, title=title, title_justify="left")
    for cost in verification.costs:
        table.add_row(
            cost.way,
            _number(cost.rms),
            _number(cost.maximum),
            f"{cost.smallest_cosine:.6f}",
            str(cost.top1_differences),
        )
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"


def _mark(passed: bool) -> Text:
    return Text("passed", "green") if passed else Text("FAILED", "bold red")
