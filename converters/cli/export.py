"""The command that exports a converted folder as a bundle for devices, and proving one again."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from ...keras_models.shown import shown
from .progress import bars
from .terminal import Force, Json, console, errors, plain_errors, print_json, say

if TYPE_CHECKING:
    from ..deploy.proofs.proof import Check
    from ..deploy.proofs.verify_bundle import Proof


def export(
    folder: Annotated[str, typer.Argument(help="A converted folder that is verified, a Hub repository, or a variant.")],
    to: Annotated[str, typer.Option(help="litert, onnx, openvino, saved-model, or web for a page.")],
    out: Annotated[Path | None, typer.Option(help="The folder to write.")] = None,
    towers: Annotated[str | None, typer.Option(help="image, text or image,text; all if left out.")] = None,
    batch: Annotated[
        str | None, typer.Option(help='Rows at once: numbers between commas, or "any" where the runtime takes it.')
    ] = None,
    quantize: Annotated[
        str | None, typer.Option(help="fp16, int8-weights, int8, int4-weights, or auto; float32 if left out.")
    ] = None,
    calibrate: Annotated[
        list[Path] | None,
        typer.Option(help="Of --quantize, what to measure on: pictures, a folder of them, a .txt file with texts."),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(help="The smallest cosine, and the part of best matches that stay; auto takes 0.995."),
    ] = None,
    preprocess: Annotated[
        bool, typer.Option("--preprocess", help="Resize, crop and normalise inside the graph, from uint8.")
    ] = False,
    pixels: Annotated[str | None, typer.Option(help="Of --preprocess, the one size that it takes: 480x640.")] = None,
    embed_outside: Annotated[
        bool, typer.Option("--embed-outside", help="Put the look-up of token ids into a file of its own.")
    ] = False,
    src: Annotated[Path | None, typer.Option(help="The checkpoint, for a folder without its train form.")] = None,
    runtime: Annotated[
        Path | None, typer.Option(help="Of --to web, a folder with LiteRT.js' files; npm brings them otherwise.")
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write a bundle for phones and browsers, proven in its own runtime against PyTorch."""
    with plain_errors(folder, out, src, runtime, *(calibrate or ())):
        from ..deploy.export import export as export_folder

        done = export_folder(
            folder,
            to,
            out=out,
            force=force,
            source=src,
            runtime=runtime,
            progress=bars(errors if as_json else console),
            towers=towers,
            batch=batch,
            quantize=quantize,
            calibrate=tuple(calibrate or ()),
            budget=budget,
            preprocess=preprocess,
            pixels=pixels,
            embed_outside=embed_outside,
        )
        if as_json:
            checks = [check.to_json() for check in done.checks]
            print_json({"folder": str(done.folder), **done.about, "checks": checks})
            return
        certificate = done.about.get("quantization")
        if certificate is not None:
            console.print(table_of_trials(certificate))
        console.print(table_of(done.checks))
        for name, part in done.about["towers"].items():
            findings = part.get("not_for_gpu_delegates", ())
            if findings:
                kinds = sorted({finding["kind"] for finding in findings})
                say(f"The {name} file has {len(findings)} operations that GPU delegates refuse: {', '.join(kinds)}.")
        say(f"Wrote {done.folder} ({done.about['model']['title']} for {done.about['runtime']}, {_proven(done.about)}).")
        if "web" in done.about:
            say(f"To look at it: mobileclip-keras demo {shown(done.folder)}, or any web server.")


def _proven(about: dict[str, Any]) -> str:
    """What was proven, in words."""
    page = about.get("web")
    if page is None or page["proven_in_a_browser"]:
        return "proven" if page is None else "proven in a browser"
    return f"proven in LiteRT. {page['why_not'].removesuffix('.')}"


def demo(
    folder: Annotated[
        Path | None,
        typer.Argument(help="What export --to web wrote. If left out: a page of shapes, made the first time."),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="To listen at; any that is free if left out.")] = 0,
    browser: Annotated[bool, typer.Option(help="Open it in the browser.")] = True,
) -> None:
    """Show a page with pictures and words, computed in the browser; nothing leaves this machine."""
    with plain_errors(folder):
        from ..deploy.web.demo import check_page, own_page, show

        if folder is None:
            page = own_page(bars(console))
        else:
            check_page(page := folder)
        show(page, port, browser, lambda address: say(f"{shown(page)} is at {address} until Ctrl+C."))


def prove_again(folder: Path, src: Path | None, as_json: bool) -> None:
    """Runs a bundle's files and compares them; exits with 1 where they fail."""
    from ..deploy.proofs.verify_bundle import verify_bundle

    proof = verify_bundle(folder, src, progress=bars(errors if as_json else console))
    if as_json:
        checks = [check.to_json() for check in proof.checks]
        print_json(
            {
                "folder": str(folder),
                "passed": proof.passed,
                "against": proof.against,
                "checks": checks,
                "note": proof.note,
            }
        )
    else:
        console.print(table_of(proof.checks))
        say(f"{shown(folder)} {_verdict(proof)} {proof.against}.")
        if proof.note:
            say(proof.note)
    if not proof.passed:
        raise typer.Exit(1)


def _verdict(proof: "Proof") -> str:
    """How a bundle's files compare, in words. Rounded weights are never equal to what they were rounded from."""
    if proof.stored.coarsest == "float32":
        return "equals" if proof.passed else "differs from"
    words = "are within what the bundle states of" if proof.passed else "are further than the bundle states from"
    from ..deploy.quantize.recipes import in_words

    return f"holds rounded weights ({in_words(proof.stored.recipes)}), whose features {words}"


def table_of_trials(certificate: dict[str, Any]) -> Table:
    """One row for each recipe and tower."""
    table = Table("recipe", "tower", "MB", "size", "latency", "smallest cosine", "best matches kept", "")
    for trial in certificate["tried"]:
        for name, tower in trial["towers"].items():
            cosine = "no numbers" if tower["smallest_cosine"] is None else f"{tower['smallest_cosine']:.5f}"
            numbers = f"{tower['bytes'] / 1e6:.1f}", f"{tower['size']:.3f}", f"{tower['latency']:.2f}"
            kept = "taken" if trial["recipe"] == certificate["stored"][name] else ""
            table.add_row(trial["recipe"], name, *numbers, cosine, f"{tower['agreement']:.1%}", kept)
    return table


def table_of(checks: "list[Check]") -> Table:
    """One row for each way and batch."""
    columns = "rms / PyTorch's", "maximum / PyTorch's", "smallest cosine", "other best matches"
    table = Table("way", "batch", *columns, "")
    for check in checks:
        rounding = check.rounding
        verdict = ("passed" if check.passed else "failed") if check.judged else "measured only"
        cosine = f"{min(check.cosines.values()):.5f}"
        numbers = f"{rounding.rms_ratio:.2f}", f"{rounding.max_ratio:.2f}", cosine, str(rounding.top1_differences)
        table.add_row(check.way or "default", str(check.batch), *numbers, verdict)
    return table
