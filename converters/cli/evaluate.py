"""The command that measures a model on a data set."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from ...keras_models.shown import shown
from .progress import bars
from .terminal import Force, Json, console, errors, plain_errors, print_json, say

if TYPE_CHECKING:
    from ...verify.evaluation.evaluate import Evaluation

WORK_FOLDER = "evaluations"


def evaluate(
    model: Annotated[str, typer.Argument(help="A converted folder, a Hub repository, a variant, or a bundle.")],
    data: Annotated[
        str, typer.Option(help="A folder, or a data set on the Hub, in CLIP_benchmark's layout; or class folders.")
    ],
    split: Annotated[str, typer.Option(help="Which part of the data set.")] = "test",
    templates: Annotated[
        list[str] | None,
        typer.Option(help="In place of the data set's own: single, short, openai, or sentences with {c}."),
    ] = None,
    published: Annotated[
        str | None,
        typer.Option(
            help='Which of Apple\'s data sets this is, such as imagenet1k; or "none". By its name if left out.'
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="A .json file for the certificate; a .md file appears beside.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images at once.")] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Measure a model on a data set, beside the figures that Apple publishes."""
    with plain_errors(model, data, split, out):
        from ...verify.evaluation.certificate import certificate
        from ...verify.evaluation.data.open_data import open_dataset
        from ...verify.evaluation.evaluate import evaluate as measure
        from ...verify.evaluation.published import find
        from ...verify.evaluation.report import markdown
        from ..conversion.cache import cache_folder
        from .evaluated import open_model

        _check_out(out, force)
        own = templates_of(templates)
        found = open_dataset(data, split)
        row = find(found.name, published)
        show = bars(errors if as_json else console)
        with show(f"Loading {model}"):
            encoder = open_model(model, batch_size)

        def report(done: "Evaluation") -> None:
            content = certificate(encoder, found, done, row, ", ".join(templates or ()))
            if out is not None:
                _write(out, content, markdown(content), force)
            if as_json:
                print_json(content)
            else:
                _show(content, out)

        try:
            done = measure(encoder, found, cache_folder() / WORK_FOLDER, own, show, report)
        except KeyboardInterrupt:
            errors.print("Interrupted. The same command goes on from here.")
            raise typer.Exit(130) from None
        if done.unreadable:
            for _, reason in done.unreadable[:20]:
                errors.print(shown(reason), soft_wrap=True)
            errors.print(f"{len(done.unreadable):,} images could not be read, and are in no figure.")
            raise typer.Exit(1)


def templates_of(given: list[str] | None) -> tuple[str, ...] | None:
    """Sentences with {c}, also where the user wrote {} as elsewhere; None where the data set's own are to be used."""
    from ...keras_models.tasks.prompts import get_templates
    from ...verify.evaluation.data.words import check_template

    if given is None:
        return None
    slots = [each.replace("{c}", "{}") for each in given]
    found = tuple(each.replace("{}", "{c}") for each in get_templates(slots[0] if len(slots) == 1 else slots))
    for each in found:
        check_template(each, "--templates")
    return found


def _check_out(out: Path | None, force: bool) -> None:
    from ...keras_models.store.writing.output_errors import OutputError
    from ...keras_models.store.writing.targets import check_file_target

    if out is None:
        return
    if out.suffix != ".json":
        raise OutputError(f"{out} must end in .json.")
    for path in (out, out.with_suffix(".md")):
        check_file_target(path, (".json", ".md"), force)


def _write(out: Path, content: dict[str, Any], text: str, force: bool) -> None:
    from ...keras_models.store.writing.atomic import file_written_whole

    for path, written in ((out, json.dumps(content, indent=2) + "\n"), (out.with_suffix(".md"), text)):
        with file_written_whole(path, force) as place:
            place.write_text(written, encoding="utf-8")


def _show(content: dict[str, Any], out: Path | None) -> None:
    data, speed, published = content["data"], content["speed"], content["published"]
    table = Table("Figure", "Measured", "95 % interval", "Apple's")
    for name, figure in content["figures"].items():
        apples = published["value"] if published and name == published["metric"] else None
        table.add_row(
            name,
            f"{figure['value']:.2%}",
            f"{figure['low']:.2%} to {figure['high']:.2%}",
            "" if apples is None else f"{apples:.2%}",
        )
    console.print(table)
    if published:
        say(published["says"])
    pace = f"{speed['images_per_second']:.1f} images/s, the towers busy {speed['tower_share']:.0%} of the time"
    say(f"{data['images']:,} images, {pace}.")
    if out is not None:
        say(f"Wrote {out} and {out.with_suffix('.md')}.")
