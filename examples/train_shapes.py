"""Trains the tiny model of shapes from nothing, in plain PyTorch: python examples/train_shapes.py --out FOLDER

timm's mci tower and the RepMixer text tower of verify/torch_models/mct.py learn from generated pictures and captions.
Written are mobileclip_shapes.safetensors, in Apple's layout with the embedding's rows of known words alone, and
mobileclip_shapes.json, which says how well it does and how it was made. verify/shapes holds both, and says what the
pictures show. The same seed and number of processes give the same weights on the same machine.
"""

import argparse
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.numpy import save_file
from torch import Tensor, nn
from torch.nn import functional

from mobileclip_keras.verify.shapes.checkpoint import PACKED, REPORT, pack
from mobileclip_keras.verify.shapes.scene import CHOICES
from mobileclip_keras.verify.shapes.task import Accuracy, accuracy, parts
from mobileclip_keras.verify.shapes.training.batches import as_pixels, batches
from mobileclip_keras.verify.shapes.training.losses import attribute_loss, contrastive_loss
from mobileclip_keras.verify.shapes.training.model import Model, new_model, state_of
from mobileclip_keras.verify.shapes.training.optimizers import optimizers
from mobileclip_keras.verify.shapes.training.options import Options
from mobileclip_keras.verify.shapes.training.pictures import Pictures, draw_pictures
from mobileclip_keras.verify.shapes.training.processes import average_gradients, in_processes
from mobileclip_keras.verify.shapes.vocabulary import Vocabulary

HEADS_SHARE = 0.5
"""Weight of `attribute_loss` beside the contrastive loss."""


def main() -> None:
    """The command."""
    out, options = _arguments()
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    words = Vocabulary.of_captions()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as bars:
        pictures = draw_pictures(options, bars)
        model = in_processes(partial(train, pictures, words, options, bars), options.processes)
    encoders = image_encoder(model.image), text_encoder(model.text, words)
    unseen, seen = (accuracy(*encoders, parts(options.asked, held_out=held_out)) for held_out in (True, False))
    save_file(pack(state_of(model), words.ids), out / PACKED.name)
    report = _report(options, unseen, seen)
    (out / REPORT.name).write_text(json.dumps(report, indent=2) + "\n")
    print(f"Zero-shot accuracy on pairs of colour and shape that training never showed: {unseen}")
    print(f"On pairs that it showed: {seen}")
    minutes = report["made"]["processor_minutes"]
    print(f"Wrote {out / PACKED.name} after {minutes} minutes of processor time in {options.processes} processes.")


def train(pictures: Pictures, words: Vocabulary, options: Options, bars: Progress, rank: int) -> Model:
    """What one process does, the one of the number `rank`. The first tells how far it is.

    Contrastive learning alone sees colour and place at once, and shape hardly ever. So the image tower learns by
    `attribute_loss` first, and captions join when it tells shapes apart.
    """
    model = new_model(words, pictures)
    width = model.text.projection_layer.shape[1]
    heads = nn.ModuleDict({name: nn.Linear(width, count) for name, count in CHOICES.items()})
    modules = nn.ModuleList([model.image, model.text, heads]).train()
    steppers = optimizers(model, heads, options)
    steps = options.alone + options.together
    task = bars.add_task("Training", total=steps) if rank == 0 else None
    for step, batch in enumerate(islice(batches(pictures, words, options, rank), steps)):
        images = functional.normalize(model.image(batch.images), dim=-1)
        loss = attribute_loss(heads, images, batch.there)
        if step >= options.alone:
            texts = functional.normalize(model.text(batch.rows), dim=-1)
            told = loss + attribute_loss(heads, texts, batch.says)
            loss = contrastive_loss(images, texts, model.scale.exp(), batch.true) + HEADS_SHARE * told
        for optimizer, _ in steppers:
            optimizer.zero_grad()
        loss.backward()
        average_gradients([*modules.parameters(), model.scale])
        nn.utils.clip_grad_norm_([*modules.parameters(), model.scale], 5.0)
        for optimizer, schedule in steppers:
            optimizer.step()
            schedule.step()
        with torch.no_grad():
            model.scale.clamp_(max=math.log(100.0))
        if task is not None:
            bars.update(task, advance=1, description=f"Training, loss {loss.item():.2f}")
            if (step % 50 == 0 or step + 1 == options.alone) and not bars.console.is_terminal:
                print(f"Step {step} of {steps}: loss {loss.item():.2f}", flush=True)
    modules.eval()
    return model


def image_encoder(tower: nn.Module) -> Callable[[np.ndarray], np.ndarray]:
    """From uint8 (n, 64, 64, 3) to features, as `accuracy` takes it."""
    return lambda images: _in_batches(tower, as_pixels(images))


def text_encoder(tower: nn.Module, words: Vocabulary) -> Callable[[Sequence[str]], np.ndarray]:
    """From texts to features."""
    return lambda texts: _in_batches(tower, torch.from_numpy(words.rows(texts)))


def _in_batches(tower: nn.Module, inputs: Tensor) -> np.ndarray:
    with torch.inference_mode():
        return torch.cat([tower(batch) for batch in inputs.split(256)]).numpy()


def _report(options: Options, unseen: Accuracy, seen: Accuracy) -> dict:
    versions = {name: version(name) for name in ("torch", "timm", "numpy", "pillow")}
    used = os.times()
    minutes = round((used.user + used.system + used.children_user + used.children_system) / 60, 1)
    how = {
        "program": "examples/train_shapes.py",
        **asdict(options),
        "processor_minutes": minutes,
        "versions": versions,
    }
    return {"accuracy": unseen.to_json(), "accuracy_on_pairs_seen": seen.to_json(), "made": how}


def _arguments() -> tuple[Path, Options]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the folder to write into")
    for name, default in asdict(Options()).items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    given = vars(parser.parse_args())
    return given.pop("out"), Options(**given)


if __name__ == "__main__":
    main()
