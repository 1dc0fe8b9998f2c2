"""Fine-tuning from a folder and pairs to another folder, and going on where a run was killed."""

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import keras

from ...keras_models.errors import MissingPackageError
from ...keras_models.inputs.preprocessing import ImagePreprocessor
from ...keras_models.inputs.tokenizer import Tokenizer
from ...keras_models.store.writing.output_errors import OutputError
from ...keras_models.store.writing.targets import check_target
from ...verify.verification import Verification
from ..conversion.progress import Advance, Progress, silent
from ..conversion.verifying import check_packages
from .base import Base, find_base
from .data import Data
from .history import History
from .log import write_log
from .options import Options, differences
from .outcome import Outcome, record_of
from .pairs.batches import Feeder
from .pairs.checking import Checked, check
from .pairs.holding_back import hold_back
from .pairs.opening import open_pairs
from .result import final_model, read_result, write_checkpoint, write_result
from .run_folder import RunError, RunFolder
from .training import Training, Watched, prepare
from .validation import measure


def finetune(
    name: str,
    data: Data,
    out: Path,
    options: Options,
    *,
    verify: bool = True,
    force: bool = False,
    every: int | None = None,
    progress: Progress = silent,
    report: Callable[[Verification], None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Fine-tunes a model into a new folder.

    A run that was killed goes on from its last checkpoint when it is called again with the same arguments. A run that
    is done is not done again.

    Args:
        name: a converted folder with the train form, a repository on the Hub, or a variant.
        data: pairs.
        out: the folder to write. Beside it, `OUT.training` keeps what a run needs to go on, until it is done.
        options: how to train.
        verify: whether to compare the result with PyTorch.
        force: whether to replace a folder of weights that is there, or a run with other options.
        every: steps between checkpoints; None for one after each epoch and every ten minutes.
        progress: shows steps of the task.
        report: called with the verification.
        say: called with sentences about what happens.

    Raises:
        MobileClipError: saying what is wrong with the model, the data, the options, the folder or the disk. What was
            computed up to the last checkpoint is kept.
    """
    options.check()
    base = find_base(name)
    asked = {**options.to_json(), **data.asked(), "backend": keras.backend.backend(), "weights": base.weights_sha256}
    run = RunFolder(out)
    done = None if force else _finished(out, asked)
    if done is not None:
        if run.folder.is_dir():  # a kill between the result and this
            with run.alone():
                run.remove()
        return Outcome(done, was_done=True)
    check_target(out, force)
    _check_packages(verify)
    with run.alone():
        _check_same(run, asked, force)
        trained = _train(base, data, options, asked, run, force, every, progress, say)
        gc.collect()  # the conversion loads models of its own
        record = {**trained.record, "verified": verify}  # where that fails, nothing is written
        write_result(
            base,
            run.tuned,
            out,
            trained.short,
            trained.preprocess,
            lambda folder: write_log(folder, record, trained.history, record["steps_per_epoch"]),
            verify=verify,
            force=force,
            progress=progress,
            report=report,
        )
        run.remove()
    return Outcome(record, resumed_at=trained.resumed_at, problems=trained.problems)


def _finished(out: Path, asked: dict[str, Any]) -> dict[str, Any] | None:
    """The record of the same run, where it is done.

    Raises:
        OutputError: where another run is.
    """
    record = read_result(out)
    if record is None:
        return None
    different = differences(asked, record["asked"])
    if not different:
        return record
    raise OutputError(
        f"{out} exists already, of another run: {'; '.join(different)}. Choose another --out, or replace it with "
        "--force."
    )


def _check_packages(verify: bool) -> None:
    if not verify:
        return
    try:
        check_packages()
    except MissingPackageError as error:
        raise MissingPackageError(f"{error}. To write the result without comparing, use --no-verify.") from error


@dataclass(frozen=True)
class _Trained:
    """What is known once the tuned weights lie in the folder of the run.

    Attributes:
        record: for training.json.
        short: for conversion.json.
        history: of the training.
        preprocess: of its images.
        resumed_at, problems: as in `Outcome`.
    """

    record: dict[str, Any]
    short: dict[str, Any]
    history: History
    preprocess: ImagePreprocessor
    resumed_at: int
    problems: tuple[str, ...]


def _train(
    base: Base,
    data: Data,
    options: Options,
    asked: dict[str, Any],
    run: RunFolder,
    force: bool,
    every: int | None,
    progress: Progress,
    say: Callable[[str], None],
) -> _Trained:
    """Takes the steps that are left, and writes the tuned weights into the folder of the run."""
    with progress(f"Loading {base.folder.name}"):
        model = base.load(options.dtype)
        preprocess, tokenize = base.preprocess(model), Tokenizer(model.text_encoder.context_length)
    pairs, held, problems = _read(data, options, preprocess, progress)
    told = {**asked, "pairs": pairs.fingerprint, "held_back": held.fingerprint if held and data.validation else None}
    _begin(run, told, force)
    if held is None:
        say("Nothing is held back for validation: the last weights are kept.")
    feeder = Feeder(pairs.pairs, preprocess, tokenize, options.batch_size, options.seed)
    validate = None if held is None else partial(measure, data=held, preprocess=preprocess, tokenize=tokenize)
    recipe = prepare(model, options, feeder.steps * options.epochs)
    training = Training(model, recipe, feeder, options.epochs, run, validate, every)
    if training.resumed_at:
        say(f"Going on after step {training.resumed_at:,} of {training.steps:,}.")
    with _steps(progress, training) as watch:
        training.run(watch)
    training.take_best()
    with progress("Writing the tuned weights"):
        made = final_model(model, base, options.alpha, options.lora is not None)
        after = None if validate is None else validate(made)
        write_checkpoint(made, run.tuned)
    record = record_of(base, asked, told, training, pairs, held, problems, after)
    short = {
        "from": base.origin(),
        "data": Path(data.pairs).name,
        "pairs": record["pairs"],
        "steps": training.history.best_step or training.history.step,
        "alpha": options.alpha,
    }
    return _Trained(record, short, training.history, preprocess, training.resumed_at, problems)


def _check_same(run: RunFolder, asked: dict[str, Any], force: bool) -> None:
    """Refuses, before any work, to go on with a run that was asked for something else."""
    there = run.asked()
    if there is None or force:
        return
    different = differences(asked, {key: value for key, value in there.items() if key in asked})
    if different:
        raise _other_run(run, different)


def _begin(run: RunFolder, told: dict[str, Any], force: bool) -> None:
    """Begins a run, or goes on with the same one. Another one is removed if `force` says so."""
    there = run.asked()
    different = [] if there is None else differences(told, there)
    if different and not force:
        raise _other_run(run, different)
    if there is None or different:
        run.remove()
        run.begin(told)


def _other_run(run: RunFolder, different: list[str]) -> RunError:
    return RunError(
        f"{run.folder} holds a run that is not done, and this is another one: {'; '.join(different)}. Use the options "
        "of that run to go on with it, another --out for a new one, or --force to begin anew in its place."
    )


def _read(
    data: Data, options: Options, preprocess: ImagePreprocessor, progress: Progress
) -> tuple[Checked, Checked | None, tuple[str, ...]]:
    """Pairs to train with, those to validate with, and what was left out."""

    def read(name: str) -> Checked:
        found = open_pairs(name, data.templates, data.image_column, data.text_column)
        with progress(f"Checking {os.path.basename(name.rstrip('/')) or name}", len(found.pairs)) as advance:
            return check(found, preprocess, data.skip_broken, lambda count: advance(count))

    pairs = read(data.pairs)
    if data.validation is None:
        return *hold_back(pairs, options.val_share, options.seed), pairs.problems
    held = read(data.validation)
    return pairs, held, (*pairs.problems, *held.problems)


@contextmanager
def _steps(progress: Progress, training: Training) -> Iterator[Callable[[Watched], None]]:
    """A bar over the steps, with loss and images/s."""
    with progress("Training", training.steps) as advance:
        advance(training.resumed_at)
        yield _watcher(advance, training)


def _watcher(advance: Advance, training: Training) -> Callable[[Watched], None]:
    def watch(now: Watched) -> None:
        found = training.history.validations
        recall = f", recall@1 {found[max(found)].mean:.1%}" if found else ""
        advance(1, f"step {now.step}, loss {now.loss:.3f}, {now.images_per_second:,.1f} images/s{recall}")

    return watch
