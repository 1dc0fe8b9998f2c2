"""Trains the tiny model of shapes from nothing, in plain PyTorch: python examples/train_shapes.py --out FOLDER

timm's mci tower and the RepMixer text tower of verify/torch_models/mct.py learn from generated pictures and captions.
Written are mobileclip_shapes.safetensors, in Apple's layout with the embedding's rows of known words alone, and
mobileclip_shapes.json, which says how well it does and how it was made. verify/shapes holds both, and says what the
pictures show. The same seed and number of threads give the same weights on the same machine.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, astuple, dataclass
from functools import partial
from importlib.metadata import version
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.numpy import save_file
from torch import Tensor, nn
from torch.nn import functional

from mobileclip_keras.verify.shapes.captions import describe
from mobileclip_keras.verify.shapes.checkpoint import EMBEDDING, PACKED, REPORT, pack
from mobileclip_keras.verify.shapes.drawing import draw
from mobileclip_keras.verify.shapes.scene import CHOICES, FIELDS, NONE, Scene, neighbour, random_scene
from mobileclip_keras.verify.shapes.task import PICTURES, Accuracy, accuracy, parts
from mobileclip_keras.verify.shapes.vocabulary import Vocabulary, with_unknown_words
from mobileclip_keras.verify.torch_models.keys import mci_from_timm
from mobileclip_keras.verify.torch_models.mct import MobileTextTower
from mobileclip_keras.verify.torch_models.towers import MIXER_TOWERS, new_image_tower

GROUP = 4
"""Scenes that differ in one thing each, side by side in a batch."""
WARM_UP = 50
"""Steps."""
LAYER_SCALE = 0.3
"""Where layer scales start. The published 1e-5 is for long training."""
HEADS_SHARE = 0.25
"""Weight of `attribute_loss` beside the contrastive loss."""
CAPTIONED = slice(None, None, 2)
"""The pictures of a batch that have captions. The others are wrong answers; texts cost as much time as pictures."""


@dataclass(frozen=True)
class Options:
    """How to train.

    Attributes:
        alone: steps in which the image tower learns alone.
        together: steps after these, in which both towers learn.
        batch: pictures in each step.
        pictures: to draw. They are used again, each time with other captions.
        rate: the highest learning rate.
        threads: of PyTorch, and processes that draw.
        seed: of everything.
        asked: pictures in each part of the task at the end.
    """

    alone: int = 3000
    together: int = 1500
    batch: int = 64
    pictures: int = 32768
    rate: float = 2e-3
    threads: int = 2
    seed: int = 0
    asked: int = PICTURES


class Pictures(NamedTuple):
    """What is trained on: groups of scenes, and each scene as a picture, uint8 (groups, 4, 64, 64, 3)."""

    scenes: list[list[Scene]]
    images: np.ndarray


class Batch(NamedTuple):
    """Pictures, captions of the first, third, fifth ... of them, and what both say as whole numbers."""

    images: Tensor  # float32 (n, 3, 64, 64)
    rows: Tensor  # int64 (m, 77), of the embedding
    there: Tensor  # int64 (n, fields)
    says: Tensor  # int64 (m, fields), NONE where a caption says nothing

    @property
    def true(self) -> Tensor:
        """bool (n, m): whether a picture (row) is as a caption (column) says."""
        there, says = self.there[:, None], self.says[None]
        return ((says == NONE) | (says == there)).all(-1)


class Model(NamedTuple):
    """Both towers, and the logarithm of the logits' scale."""

    image: nn.Module
    text: MobileTextTower
    scale: nn.Parameter


def main() -> None:
    """The command."""
    out, options = _arguments()
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    words = Vocabulary.of_captions()
    started = time.time()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as bars:
        pictures = draw_pictures(options, bars)
        model = train(pictures, words, options, bars)
    encoders = image_encoder(model.image), text_encoder(model.text, words)
    unseen, seen = (accuracy(*encoders, parts(options.asked, held_out=held_out)) for held_out in (True, False))
    minutes = (time.time() - started) / 60
    save_file(pack(state_of(model), words.ids), out / PACKED.name)
    (out / REPORT.name).write_text(json.dumps(_report(options, unseen, seen, minutes), indent=2) + "\n")
    print(f"Zero-shot accuracy on pairs of colour and shape that training never showed: {unseen}")
    print(f"On pairs that it showed: {seen}")
    print(f"Wrote {out / PACKED.name} after {minutes:.0f} minutes.")


def draw_pictures(options: Options, bars: Progress) -> Pictures:
    """Draws the pictures. Each group depends on the seed and its own number alone."""
    groups = range(options.pictures // GROUP)
    keys = ((options.seed, number) for number in groups)
    with get_context("fork").Pool(options.threads) as pool:
        made = list(bars.track(pool.imap(_draw_group, keys, chunksize=32), len(groups), description="Drawing"))
    scenes, images = zip(*made, strict=True)
    return Pictures(list(scenes), np.stack(images))


def _draw_group(key: tuple[int, int]) -> tuple[list[Scene], np.ndarray]:
    rng = np.random.default_rng(key)
    first = random_scene(rng)
    scenes = [first, *(neighbour(first, rng) for _ in range(GROUP - 1))]
    return scenes, np.stack([np.asarray(draw(scene, rng)) for scene in scenes])


def batches(pictures: Pictures, words: Vocabulary, options: Options) -> Iterator[Batch]:
    """Batches with new captions each time. Each picture comes once before any comes again."""
    rng = np.random.default_rng([options.seed, 1])
    per_batch, order = options.batch // GROUP, np.empty(0, np.int64)
    while True:
        if len(order) < per_batch:
            order = rng.permutation(len(pictures.scenes))
        chosen, order = order[:per_batch], order[per_batch:]
        scenes = [scene for group in chosen for scene in pictures.scenes[group]]
        captions = [describe(scene, rng) for scene in scenes[CAPTIONED]]
        rows = with_unknown_words(words.rows([caption.text for caption in captions]), rng)
        yield Batch(
            _as_pixels(_shifted(pictures.images[chosen].reshape(-1, *pictures.images.shape[2:]), rng)),
            torch.from_numpy(rows),
            torch.tensor([astuple(scene) for scene in scenes]),
            torch.tensor([astuple(caption.says) for caption in captions]),
        )


def _shifted(images: np.ndarray, rng: np.random.Generator, far: int = 3) -> np.ndarray:
    """All pictures moved by a few pixels. Their edges are drawn out to fill the gap."""
    padded = np.pad(images, ((0, 0), (far, far), (far, far), (0, 0)), mode="edge")
    y, x = rng.integers(0, 2 * far + 1, 2)
    return padded[:, y : y + images.shape[1], x : x + images.shape[2]]


def _as_pixels(images: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255


def new_model(words: Vocabulary) -> Model:
    """The towers with initial weights. The embedding has rows for known words alone."""
    image = new_image_tower("mci_shapes")
    nn.init.zeros_(image.head.fc.bias)  # Apple's layout has none
    image.head.fc.bias.requires_grad_(False)
    _leave_out_pixels_first(image.stem[0].conv_scale.conv)
    text = MobileTextTower(**MIXER_TOWERS["mct_shapes"], vocabulary=len(words))
    width = text.projection_layer.shape[0]
    with torch.no_grad():
        for name, parameter in text.named_parameters():
            if "pos_embed" in name:
                parameter.normal_(std=0.02)
            elif "embedding" in name:
                parameter.normal_(std=0.1)
            elif name == "projection_layer":
                parameter.normal_(std=width**-0.5)
        for tower in (image, text):
            for name, parameter in tower.named_parameters():
                if "layer_scale" in name:
                    parameter.fill_(LAYER_SCALE)
    scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
    return Model(image.to(memory_format=torch.channels_last), text, scale)


def _leave_out_pixels_first(conv: nn.Conv2d) -> None:
    """Has a strided 1 x 1 convolution take every second pixel, and convolve those.

    oneDNN's backward pass of the strided one, over images of three channels, writes outside its memory.
    """
    conv.stride = (1, 1)
    conv.register_forward_pre_hook(lambda _, inputs: (inputs[0][..., ::2, ::2],))


def train(pictures: Pictures, words: Vocabulary, options: Options, bars: Progress) -> Model:
    """A trained model.

    Contrastive learning alone sees colour and place at once, and shape hardly ever. So the image tower learns by
    `attribute_loss` first, and captions join when it tells shapes apart.
    """
    model = new_model(words)
    width = model.text.projection_layer.shape[1]
    heads = nn.ModuleDict({name: nn.Linear(width, count) for name, count in CHOICES.items()})
    modules = nn.ModuleList([model.image, model.text, heads]).train()
    optimizer, schedule = _optimizer(model, heads, options)
    steps = options.alone + options.together
    task = bars.add_task("Training", total=steps)
    for step, batch in enumerate(islice(batches(pictures, words, options), steps)):
        images = functional.normalize(model.image(batch.images), dim=-1)
        loss = attribute_loss(heads, images, batch.there)
        if step >= options.alone:
            texts = functional.normalize(model.text(batch.rows), dim=-1)
            told = loss + attribute_loss(heads, texts, batch.says)
            loss = contrastive_loss(images, texts, model.scale.exp(), batch.true) + HEADS_SHARE * told
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([*modules.parameters(), model.scale], 5.0)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            model.scale.clamp_(max=math.log(100.0))
        bars.update(task, advance=1, description=f"Training, loss {loss.item():.2f}")
        if step % 50 == 0 and not bars.console.is_terminal:
            print(f"Step {step} of {steps}: loss {loss.item():.2f}", flush=True)
    modules.eval()
    return model


def contrastive_loss(images: Tensor, texts: Tensor, scale: Tensor, true: Tensor) -> Tensor:
    """CLIP's loss (arXiv 2103.00020), in which no caption that is true of a picture counts as a wrong one.

    Args:
        images: float32 (n, d), of length 1.
        texts: float32 (m, d), of length 1: the captions of the pictures CAPTIONED.
        scale: of the logits.
        true: bool (n, m), whether a picture is as a caption says.
    """
    pictures = torch.arange(len(images))[CAPTIONED]
    captions = torch.arange(len(texts))
    others = true.clone()
    others[pictures, captions] = False
    logits = (scale * images @ texts.T).masked_fill(others, -torch.inf)
    return (functional.cross_entropy(logits[pictures], captions) + functional.cross_entropy(logits.T, pictures)) / 2


def attribute_loss(heads: nn.ModuleDict, features: Tensor, fields: Tensor) -> Tensor:
    """How badly linear layers read each thing from features: the same layers from pictures and from captions.

    So both towers keep things apart, colour from shape and shape from count. The layers are not kept.
    """
    losses = [
        functional.cross_entropy(head(10 * features), fields[:, FIELDS.index(name)], ignore_index=NONE)
        for name, head in heads.items()
    ]
    return torch.stack(losses).nan_to_num().sum()  # of what no caption of a batch says there is no mean


def _optimizer(
    model: Model, heads: nn.Module, options: Options
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW with weight decay for kernels alone, and the rates of each tower."""
    steps = options.alone + options.together
    groups: list[dict] = []
    rates: list[Callable[[int], float]] = []
    for tower, first in ((nn.ModuleList([model.image, heads]), 0), (model.text, options.alone)):
        kernels, others = [], [] if first == 0 else [model.scale]
        for name, parameter in tower.named_parameters():
            is_kernel = parameter.ndim >= 2 and "embed" not in name and "layer_scale" not in name
            (kernels if is_kernel else others).append(parameter)
        groups += [{"params": kernels, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
        rates += [partial(_rate, first=first, steps=steps)] * 2
    optimizer = torch.optim.AdamW(groups, lr=options.rate, betas=(0.9, 0.98))
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, rates)


def _rate(step: int, first: int, steps: int) -> float:
    """From the first step of a tower on: warm-up, then a cosine down to nothing."""
    if step < first:
        return 0.0
    return min((step - first + 1) / WARM_UP, 0.5 * (1 + math.cos(math.pi * (step - first) / (steps - first))))


def image_encoder(tower: nn.Module) -> Callable[[np.ndarray], np.ndarray]:
    """From uint8 (n, 64, 64, 3) to features, as `accuracy` takes it."""
    return lambda images: _in_batches(tower, _as_pixels(images))


def text_encoder(tower: nn.Module, words: Vocabulary) -> Callable[[Sequence[str]], np.ndarray]:
    """From texts to features."""
    return lambda texts: _in_batches(tower, torch.from_numpy(words.rows(texts)))


def _in_batches(tower: nn.Module, inputs: Tensor) -> np.ndarray:
    with torch.inference_mode():
        return torch.cat([tower(batch) for batch in inputs.split(256)]).numpy()


def state_of(model: Model) -> dict[str, np.ndarray]:
    """The weights by Apple's names. The embedding has its few rows still."""
    image, text = (
        {name: tensor.numpy() for name, tensor in tower.state_dict().items()} for tower in (model.image, model.text)
    )
    tensors = {
        "logit_scale": model.scale.detach().numpy(),
        **{f"image_encoder.model.{name}": array for name, array in mci_from_timm(image).items()},
        **{f"text_encoder.{name}": array for name, array in text.items()},
    }
    assert EMBEDDING in tensors
    return {name: np.array(array, order="C") for name, array in tensors.items()}


def _report(options: Options, unseen: Accuracy, seen: Accuracy, minutes: float) -> dict:
    versions = {name: version(name) for name in ("torch", "timm", "numpy", "pillow")}
    how = {"program": "examples/train_shapes.py", **asdict(options), "minutes": round(minutes, 1), "versions": versions}
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
