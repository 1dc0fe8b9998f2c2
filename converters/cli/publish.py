"""The command that puts converted weights on the Hub."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from ...keras_models.shown import shown
from .terminal import Json, console, plain_errors, print_json, say


def publish(
    folder: Annotated[Path, typer.Argument(help="A converted folder whose verification passed.")],
    repo: Annotated[str, typer.Option(help="user/name on the Hub; made if it is not there.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository a private one.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, change nothing; needs no token.")
    ] = False,
    revision: Annotated[str | None, typer.Option(help="The branch to upload to; main if left out.")] = None,
    tag: Annotated[str | None, typer.Option(help="Of the upload; v and the package version if left out.")] = None,
    evaluation: Annotated[
        list[Path] | None, typer.Option(help="What `evaluate --out` wrote, for the card; may be given again.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Upload a verified folder to the Hugging Face Hub, with its model card and licence."""
    with plain_errors(folder, repo, revision, tag, evaluation or []):
        from ..hub.publish import publish as publish_folder

        options: dict[str, Any] = {"private": private, "dry_run": dry_run, "revision": revision, "tag": tag}
        done = publish_folder(folder, repo, **options, evaluations=evaluation or ())
        if as_json:
            print_json(done.to_json())
            return
        sent = [file for file in done.files if file.sent]
        state = "would be sent" if dry_run else "sent"
        table = Table("File", "Size", "")
        for file in done.files:
            table.add_row(shown(file.path), _readable(file.size), state if file.sent else "there already")
        console.print(table)
        for path in done.left_out:
            say(f"Left out: {shown(path)}")
        if done.would_create:
            say(f"{repo.removeprefix('hf://')} is not there, or not for everyone to see; it would be created.")
        size = _readable(sum(file.size for file in sent))
        say(f"{len(sent)} files ({size}) {state}, {done.tag}: {done.url}")


def _readable(size: float) -> str:
    """A size in bytes as people read it."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
