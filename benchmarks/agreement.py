"""How equal to PyTorch each variant is: verifies synthetic checkpoints, and prints one table.

    KERAS_BACKEND=jax python benchmarks/agreement.py s0 s1 --json benchmarks/results/agreement.json

Results are added to the JSON file, one entry for each variant, layout and backend.
"""

import json
import tempfile
import time
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import keras
import typer
from arguments import JSON, NAMES
from rich.console import Console
from rich.table import Table
from safetensors.numpy import save_file

from mobileclip_keras.converters.checkpoints.identify import known_formats
from mobileclip_keras.converters.conversion.convert import VerificationError, convert
from mobileclip_keras.keras_models.registry import get_variant
from mobileclip_keras.verify.data import synthetic

Layout = StrEnum("Layout", ["apple", "open_clip", "timm"])
SourceForm = StrEnum("SourceForm", ["train", "reparameterized"])


def measure(name: str, layout: str, form: str) -> dict[str, Any] | None:
    """Verifies one variant from a synthetic checkpoint; None where there is no such layout of it."""
    variant = get_variant(name)
    fitting = [k for k in known_formats() if (k.layout, k.form) == (layout, form) and variant in k.variants]
    if not fitting:
        return None
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / f"{variant.name}.safetensors"
        save_file(synthetic.state_dict(fitting[0].shapes.items(), seed=0), source)
        size = source.stat().st_size
        start = time.perf_counter()
        verifications: list[Any] = []
        with suppress(VerificationError):  # the table shows it
            convert(source, Path(folder) / "out", variant=name, report=verifications.append)
        seconds = time.perf_counter() - start
    (verification,) = verifications
    return {
        "variant": variant.name,
        "layout": layout,
        "source_form": form,
        "bytes": size,
        "seconds": round(seconds, 1),
        **verification.to_json(),
    }


def main(
    variants: Annotated[list[str], NAMES],
    layout: Annotated[list[Layout] | None, typer.Option(help="Layouts to verify, else the published.")] = None,
    form: Annotated[list[SourceForm] | None, typer.Option(help="Forms of the checkpoint, else train.")] = None,
    out: Annotated[Path | None, JSON] = None,
) -> None:
    """Prints and keeps the agreement of some variants."""
    columns = (
        "variant",
        "layout",
        "source",
        "form",
        "float64",
        "rms ratio",
        "max ratio",
        "other top-1",
        "passed",
    )
    table = Table(*columns)
    results = json.loads(out.read_text()) if out and out.exists() else {}
    for name in variants:
        for wanted in layout or [get_variant(name).published.layout]:
            for source_form in form or ["train"]:
                result = measure(name, wanted, source_form)
                if result is None:
                    continue
                results["/".join([result["variant"], wanted, source_form, keras.backend.backend()])] = result
                for exact, rounding in zip(result["float64"], result["float32"], strict=True):
                    worst = max(v for v in (exact["image"], exact["text"]) if v is not None)
                    table.add_row(
                        result["variant"],
                        wanted,
                        source_form,
                        rounding["form"],
                        f"{worst:.1e}",
                        f"{rounding['rms_ratio']:.2f}",
                        f"{rounding['max_ratio']:.2f}",
                        str(rounding["top1_differences"]),
                        "yes" if result["passed"] else "NO",
                    )
                if out:
                    out.write_text(json.dumps(dict(sorted(results.items())), indent=1) + "\n")
    if not table.rows:
        raise typer.BadParameter("These variants have no checkpoint in such a layout and form.")
    Console().print(table, f"Keras {keras.__version__} on {keras.backend.backend()}, synthetic checkpoints")


if __name__ == "__main__":
    typer.run(main)
