"""The command that fine-tunes a model on pairs of images and texts."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...keras_models.shown import shown
from .evaluate import templates_of
from .progress import bars
from .terminal import Force, Json, console, errors, plain_errors, print_json, say

if TYPE_CHECKING:
    from ...verify.verification import Verification
    from ..tuning.outcome import Outcome

MOST_NAMED = 20


def finetune(
    folder: Annotated[
        str, typer.Argument(help="A converted folder with the train form, a Hub repository, or a variant.")
    ],
    data: Annotated[
        str, typer.Option(help="Pairs: a .csv, .tsv or .jsonl, WebDataset shards, or a folder of class folders.")
    ],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    val: Annotated[str | None, typer.Option(help="Pairs to validate with; if left out, some are held back.")] = None,
    val_share: Annotated[float, typer.Option(help="The part of the pairs to hold back.")] = 0.1,
    image_column: Annotated[str | None, typer.Option(help="Of a table; found by its name if left out.")] = None,
    text_column: Annotated[str | None, typer.Option(help="Of a table; found by its name if left out.")] = None,
    templates: Annotated[
        list[str] | None,
        typer.Option(help="Captions of classes: single, short, openai, or sentences with {c}."),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Times that all pairs are seen.")] = 10,
    batch_size: Annotated[int, typer.Option(help="Pairs that are compared with each other.")] = 32,
    chunk_size: Annotated[
        int | None, typer.Option(min=1, help="Pairs in memory at once; the step is that of the whole batch.")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="The highest; 1e-5 if left out, and 1e-4 with --lora.")
    ] = None,
    warmup_steps: Annotated[
        int | None, typer.Option(min=0, help="Steps in which it rises; a tenth if left out.")
    ] = None,
    weight_decay: Annotated[float, typer.Option(help="Of matrices.")] = 0.2,
    freeze: Annotated[
        list[str] | None, typer.Option(help="image, text or norms: not trained. May be repeated.")
    ] = None,
    lora: Annotated[int | None, typer.Option(min=1, help="Train adapters of this rank, and merge them.")] = None,
    alpha: Annotated[
        float, typer.Option(help="How much of the change to keep, 0 to 1 (WiSE-FT). Less keeps more of what it knew.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the order of pairs, and of those held back.")] = 0,
    dtype: Annotated[str, typer.Option(help="float32, or mixed_bfloat16. Weights stay float32.")] = "float32",
    remat: Annotated[
        bool, typer.Option("--remat", help="Compute blocks again for the gradient: less memory, more time.")
    ] = False,
    checkpoint_every: Annotated[
        int | None,
        typer.Option(min=1, help="Steps between checkpoints; if left out, each epoch and every ten minutes."),
    ] = None,
    skip_broken: Annotated[bool, typer.Option("--skip-broken", help="Leave out broken pairs, and count them.")] = False,
    verify: Annotated[bool, typer.Option(help="Compare the result with PyTorch before it is written.")] = True,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Fine-tune a model on pairs. The same command goes on after a kill."""
    with plain_errors(folder, data, out, val):
        from ..tuning.data import Data
        from ..tuning.finetune import finetune as tune
        from ..tuning.options import Options

        options = Options(
            epochs=epochs,
            batch_size=batch_size,
            chunk_size=chunk_size,
            learning_rate=learning_rate,
            warmup_steps=warmup_steps,
            weight_decay=weight_decay,
            freeze=tuple(sorted({*(freeze or ())})),
            lora=lora,
            alpha=alpha,
            val_share=val_share,
            seed=seed,
            dtype=dtype,
            remat=remat,
        )
        pairs = Data(data, val, templates_of(templates), image_column, text_column, skip_broken)
        quiet = errors if as_json else console
        try:
            outcome = tune(
                folder,
                pairs,
                out,
                options,
                verify=verify,
                force=force,
                every=checkpoint_every,
                progress=bars(quiet),
                report=lambda found: quiet.print(_rendered(found)),
                say=lambda sentence: quiet.print(shown(sentence), soft_wrap=True),
            )
        except KeyboardInterrupt:
            errors.print("Interrupted. The same command goes on from the last checkpoint, if there is one yet.")
            raise typer.Exit(130) from None
        if as_json:
            print_json({"folder": str(out), **_facts(outcome)})
        else:
            _show(out, outcome)


def _rendered(found: "Verification") -> Any:
    from ...verify.report import render

    return render(found)


def _facts(outcome: "Outcome") -> dict[str, Any]:
    return {
        **outcome.record,
        "was_done": outcome.was_done,
        "resumed_at": outcome.resumed_at,
        "problems": list(outcome.problems),
    }


def _show(out: Path, outcome: "Outcome") -> None:
    record = outcome.record
    for problem in outcome.problems[:MOST_NAMED]:
        errors.print(shown(problem), soft_wrap=True)
    if outcome.problems:
        errors.print(f"{len(outcome.problems):,} pairs were left out.")
    recall = record["recall_at_1"]
    if recall["after"] is not None:
        before = f", {recall['before']['mean']:.1%} before" if recall["before"] else ""
        say(f"Recall@1 on {record['held_back']:,} pairs held back: {recall['after']['mean']:.1%}{before}.")
    if outcome.was_done:
        say(f"{out} is this run's result already. --force trains again.")
        return
    state = "verified" if record["verified"] else "not verified"
    pace = f"{record['images_per_second']:,.1f} images/s"
    say(f"Wrote {out} ({record['variant']}, fine-tuned in {record['steps']:,} steps, {pace}, {state}).")
