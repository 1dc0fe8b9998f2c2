"""What was measured last, as one table: each ratio beside the most that it should be.

    python benchmarks/summary.py

Reads benchmarks/results/, which the other programs write; measures nothing.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engines import BASELINE
from loading import FORMS
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"
BACKENDS = ("TensorFlow", "JAX", "PyTorch")
AT_MOST = {"TensorFlow": 0.9, "JAX": 1.0, "PyTorch": 0.9}
FORM_SPEEDUP = 1.5
ERROR = 1.5
LOADING, LOADING_PEAK, OWN_IMPORT = 1.0, 1.5, 0.3
MAPPING, CONVERTING_PEAK = 3.0, 2.5

Line = tuple[str, str, float, str]
"""What was measured, for which case, the number, and the bound: "<= 0.9"."""


def inference(results: dict[str, Any]) -> Iterator[Line]:
    """The best way of each backend beside PyTorch's reparameterised model, and the forms beside each other."""
    for variant, kept in results.items():
        rows = kept["rows"]
        errors = {way: _error_of_logits(rows, way) for way in dict.fromkeys(row["way"] for row in rows)}
        wrong = {way for way, error in errors.items() if error is not None and error > ERROR * errors[BASELINE]}
        for tower, batch in dict.fromkeys((row["tower"], row["batch"]) for row in rows):
            ratios = {row["way"]: row["ratio"] for row in rows if (row["tower"], row["batch"]) == (tower, batch)}
            ratios = {way: ratio for way, ratio in ratios.items() if way not in wrong}  # a fast wrong way cannot win
            for backend in BACKENDS:
                case = f"{variant} {tower} x{batch}, Keras on {backend}"
                best = {form: _best(ratios, f"Keras on {backend}, {form} form") for form in FORMS}
                if best["inference"] is not None:
                    bound = f"<= {AT_MOST[backend]}"
                    yield "inference form / PyTorch's", case, best["inference"], bound
                if best["inference"] is not None and best["train"] is not None and tower == "image":
                    yield "train form / inference form", case, best["train"] / best["inference"], f">= {FORM_SPEEDUP}"
        for way, error in errors.items():
            if error is not None and way.startswith("Keras"):
                yield "error of logits / PyTorch's", f"{variant}, {way}", error / errors[BASELINE], f"<= {ERROR}"


def _error_of_logits(rows: list[dict[str, Any]], way: str) -> float | None:
    """Both towers' errors together, of their larger batches: over many features, those of a dot product of them."""
    largest = {row["tower"]: row["error"] for row in sorted(rows, key=lambda row: row["batch"]) if row["way"] == way}
    return math.hypot(*largest.values()) if len(largest) > 1 else None


def _best(ratios: dict[str, float], way: str) -> float | None:
    return min((value for name, value in ratios.items() if name.startswith(way)), default=None)


def loading(results: dict[str, Any]) -> Iterator[Line]:
    """from_pretrained beside open_clip."""
    for variant, kept in results.items():
        for way, taken in kept["ways"].items():
            if way.startswith(FORMS):
                yield "loading / open_clip's", f"{variant}, {way}", taken["ratio"], f"<= {LOADING}"
                yield "peak of loading / weights", f"{variant}, {way}", taken["peak_ratio"], f"<= {LOADING_PEAK}"
                yield "import beyond Keras', s", f"{variant}, {way}", taken["import"], f"<= {OWN_IMPORT}"


def converting(results: dict[str, Any]) -> Iterator[Line]:
    """Mapping beside reading and writing the same file, and the peak of a conversion."""
    for case, kept in results.items():
        ways = kept["ways"]
        yield "mapping / load and save", case, ways["mapping"]["ratio"], f"<= {MAPPING}"
        yield "peak of converting / weights", case, ways["convert"]["peak_ratio"], f"<= {CONVERTING_PEAK}"


def holds(number: float, bound: str) -> bool:
    """Whether a number is within a bound."""
    sign, limit = bound.split()
    return number <= float(limit) if sign == "<=" else number >= float(limit)


def main() -> None:
    """Prints the table."""
    table = Table("measured", "case", "number", "should be", "")
    for read in (inference, loading, converting):
        path = RESULTS / f"{read.__name__}.json"
        for what, case, number, bound in read(json.loads(path.read_text())) if path.exists() else ():
            table.add_row(what, case, f"{number:.2f}", bound, "" if holds(number, bound) else "not met")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
