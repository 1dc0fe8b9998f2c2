"""The programs: `mobileclip-keras COMMAND`, and `convert` on its own."""

import io
import signal
import sys
from typing import Any

import typer

from . import convert, evaluate, export, finetune, publish, searches, use

app = typer.Typer(
    help="MobileCLIP and MobileCLIP2 between PyTorch and Keras 3.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for command in (
    convert.convert,
    convert.inspect,
    convert.verify,
    convert.to_torch,
    use.classify,
    use.embed,
    searches.search,
    searches.neighbours,
    searches.duplicates,
    searches.index,
    evaluate.evaluate,
    finetune.finetune,
    publish.publish,
    export.export,
    export.demo,
):
    app.command()(command)


def _prepare() -> None:
    """Sets the process up for a command."""
    signal.signal(signal.SIGTERM, _terminated)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a character that the output's encoding lacks must not end it
            stream.reconfigure(errors="replace" if stream is sys.stdout else "backslashreplace")


def _terminated(*_: Any) -> None:
    """Ends the process by an exception, so that unfinished files are removed."""
    raise SystemExit(128 + signal.SIGTERM)


def main() -> None:
    """Runs `mobileclip-keras`."""
    _prepare()
    app()


def convert_main() -> None:
    """Runs `convert`, which is `mobileclip-keras convert`."""
    _prepare()
    single = typer.Typer(pretty_exceptions_enable=False)
    single.command()(convert.convert)
    single()
