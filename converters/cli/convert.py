"""The commands about checkpoints: convert, inspect, verify and to-torch."""

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from ...keras_models.backend_choice import compile_quickly
from ...keras_models.errors import MobileClipError
from ...keras_models.shown import shown
from ...keras_models.store.file_names import BUNDLE_FILE
from .export import prove_again
from .progress import bars
from .terminal import Force, Json, console, errors, plain_errors, print_json, say

if TYPE_CHECKING:
    from ...verify.verification import Verification
    from ..conversion.convert import Conversion

Weights = Annotated[
    str | None, typer.Option(help="Which weights, where the file holds several sets, such as an average (EMA).")
]
IgnoreExtra = Annotated[
    bool, typer.Option("--ignore-extra", help="Leave out tensors that stand beside the model, such as another head.")
]

# Imports stand inside the commands, so that no command waits for a framework that it does not use.


def convert(
    src: Annotated[
        str | None,
        typer.Option(help='A checkpoint file, a Hub repository, or "synthetic"; none for --variant shapes.'),
    ] = None,
    variant: Annotated[str | None, typer.Option(help="s0, s2, b, 2-s4 ...; detected if left out.")] = None,
    out: Annotated[Path | None, typer.Option(help="The folder to write.")] = None,
    form: Annotated[str, typer.Option(help="both, inference or train.")] = "both",
    dtype: Annotated[str, typer.Option(help="float32, float16, bfloat16, or keep for the file's own.")] = "float32",
    verify: Annotated[bool, typer.Option(help="Compare with PyTorch before anything is written.")] = True,
    like_open_clip: Annotated[
        bool,
        typer.Option("--like-open-clip", help="Compute ViT-B/16 as open_clip does, not as it was trained."),
    ] = False,
    weights: Weights = None,
    ignore_extra: IgnoreExtra = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Convert a PyTorch checkpoint into a folder that Keras loads."""
    compile_quickly()
    with plain_errors(src or "", out):
        from ...keras_models.registry import get_variant
        from ..checkpoints.source import resolved, variant_of

        if variant is not None:
            get_variant(variant)
        variant = variant or variant_of(src)
        quiet = errors if as_json else console
        with resolved(src, variant) as source:
            done = _convert(
                quiet,
                source,
                out,
                variant=variant,
                form=form,
                dtype=dtype,
                verify=verify,
                force=force,
                like_open_clip=like_open_clip,
                weights=weights,
                ignore_extra=ignore_extra,
            )
        if as_json:
            print_json(_facts(done))
        else:
            _print_outcome(done)


def _convert(quiet: Console, source: Path, out: Path | None, **options: Any) -> "Conversion":
    from ...verify.report import render
    from ..conversion.convert import convert as convert_checkpoint

    def report(verification: "Verification") -> None:
        quiet.print(render(verification))

    return convert_checkpoint(source, out, progress=bars(quiet), report=report, **options)


def _facts(done: "Conversion") -> dict[str, Any]:
    return {
        "folder": str(done.folder),
        "variant": done.variant.name,
        "layout": done.format.layout,
        "source_form": done.format.form,
        "forms": list(done.forms),
        "dtype": done.dtype,
        "notes": list(done.notes),
        "verified": done.verification is not None and done.verification.passed,
    }


def _print_outcome(done: "Conversion") -> None:
    for note in done.notes:
        say(f"Note: {shown(note)}.")
    state = "verified" if done.verification else "not verified"
    say(f"Wrote {done.folder} ({done.variant.name}, {' and '.join(done.forms)} form, {state}).")


def inspect(
    file: Annotated[Path, typer.Argument(help='A checkpoint file, or "shapes" for the one in this package.')],
    weights: Weights = None,
    ignore_extra: IgnoreExtra = False,
    as_json: Json = False,
) -> None:
    """Say what a checkpoint is: layout, form, variant, dtype, size, what is odd about it, and whether it converts."""
    with plain_errors(file):
        from ..checkpoints.inspection import UnusableCheckpointError, inspect_checkpoint
        from ..checkpoints.source import own_variant, resolved

        with resolved(str(file), None) if own_variant(str(file)) else nullcontext(file) as path:
            facts = inspect_checkpoint(path, weights, ignore_extra)
        if as_json:
            print_json(facts)
        else:
            _print_facts(file, facts)
        if facts["problems"]:
            raise UnusableCheckpointError("It cannot be converted:\n" + "\n".join(facts["problems"]))


def _print_facts(file: Path, facts: dict[str, Any]) -> None:
    table = Table(show_header=False, title=shown(file), title_justify="left")
    for name, value in facts.items():
        if name != "problems":
            table.add_row(name, "\n".join(map(shown, value if isinstance(value, list) else [value])))
    console.print(table)


def verify(
    folder: Annotated[Path, typer.Argument(help="A converted folder, or an exported bundle.")],
    src: Annotated[
        str | None,
        typer.Option(
            help="The checkpoint that it was converted from. A bundle and what finetune wrote can do without."
        ),
    ] = None,
    thorough: Annotated[
        bool,
        typer.Option(
            "--thorough",
            help="On PyTorch, also compile both forms with Inductor; on JAX, choose products by time. Takes minutes.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Compare a converted folder with PyTorch, and write the outcome into it; or prove a bundle again."""
    with plain_errors(folder, src):
        if (folder / BUNDLE_FILE).is_file():
            prove_again(folder, None if src is None else Path(src), as_json)
            return
        if not thorough:
            compile_quickly()
        from ...keras_models.store.file_names import CONVERSION_FILE
        from ...verify.report import render
        from ..checkpoints.source import resolved
        from ..conversion.verifying import verify_folder
        from ..hub.record_fields import FINE_TUNED
        from ..hub.records import read_record
        from ..tuning.result import own_checkpoint

        quiet = errors if as_json else console
        record = read_record(folder, CONVERSION_FILE)
        if src is None and FINE_TUNED not in record:
            raise MobileClipError(f"{folder} is a converted folder: give the checkpoint that it comes from by --src.")
        with own_checkpoint(folder) if src is None else resolved(src, record["variant"]) as source:
            verification = verify_folder(folder, source, bars(quiet), thorough)
        if as_json:
            print_json(verification.to_json())
        else:
            console.print(render(verification))
        if not verification.passed:
            raise typer.Exit(1)


def to_torch(
    folder: Annotated[Path, typer.Argument(help="A converted folder, or a .keras file.")],
    out: Annotated[Path, typer.Option(help="The file to write: .pt, .pth, .bin or .safetensors.")],
    layout: Annotated[str, typer.Option(help="apple, open_clip or timm (the image tower alone).")] = "open_clip",
    force: Force = False,
) -> None:
    """Write the train form as a PyTorch checkpoint."""
    with plain_errors(folder, out):
        from ..conversion.to_torch import to_torch as write_checkpoint

        with bars(console)(f"Writing {out.name}") as advance:
            count = write_checkpoint(folder, layout, out, force=force, progress=advance)
        say(f"Wrote {count} tensors in the {layout} layout to {out}.")
