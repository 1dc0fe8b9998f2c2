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
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from datetime import timedelta
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
from torch import Tensor, distributed, nn
from torch.nn import functional

from mobileclip_keras.verify.shapes.captions import describe
from mobileclip_keras.verify.shapes.checkpoint import EMBEDDING, PACKED, REPORT, pack
from mobileclip_keras.verify.shapes.drawing import draw
from mobileclip_keras.verify.shapes.scene import (
    CHOICES,
    FIELDS,
    FILLED,
    LARGE,
    MIDDLE,
    NONE,
    Scene,
    neighbour,
    random_scene,
)
from mobileclip_keras.verify.shapes.task import PICTURES, Accuracy, accuracy, parts
from mobileclip_keras.verify.shapes.vocabulary import Vocabulary, with_unknown_words
from mobileclip_keras.verify.torch_models.keys import mci_from_timm
from mobileclip_keras.verify.torch_models.mct import MobileTextTower
from mobileclip_keras.verify.torch_models.towers import MIXER_TOWERS, new_image_tower

GROUP = 4
"""Scenes that differ in one thing each, side by side in a batch."""
WARM_UP = 50
"""Steps."""
DECAY = 0.05
"""Of kernels, times the learning rate."""
EASY = 0.4
"""The part of the pictures that begins with easy ones alone and ends with hardly any. Training sees it first.

Among small, many and textured shapes, the image tower learns nothing about their kinds for a thousand steps.
"""
LAYER_SCALE = 0.3
"""Where layer scales start. The published 1e-5 is for long training."""
HEADS_SHARE = 0.5
"""Weight of `attribute_loss` beside the contrastive loss."""
CAPTIONED = slice(None, None, 2)
"""The pictures of a batch that have captions. The others are wrong answers; texts cost as much time as pictures."""


@dataclass(frozen=True)
class Options:
    """How to train.

    Attributes:
        alone: steps in which the image tower learns alone.
        together: steps after these, in which both towers learn.
        batch: pictures in each step, of all processes together.
        pictures: to draw. They are used again, each time with other captions.
        rate: the highest learning rate.
        processes: that draw, and that train together, a thread each: layers this small gain nothing from threads.
        seed: of everything.
        asked: pictures in each part of the task at the end.
    """

    alone: int = 2400
    together: int = 2000
    batch: int = 128
    pictures: int = 40960
    rate: float = 4e-3
    processes: int = 2
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
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    words = Vocabulary.of_captions()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as bars:
        pictures = draw_pictures(options, bars)
        model = train_in_processes(pictures, words, options, bars)
    encoders = image_encoder(model.image), text_encoder(model.text, words)
    unseen, seen = (accuracy(*encoders, parts(options.asked, held_out=held_out)) for held_out in (True, False))
    save_file(pack(state_of(model), words.ids), out / PACKED.name)
    report = _report(options, unseen, seen)
    (out / REPORT.name).write_text(json.dumps(report, indent=2) + "\n")
    print(f"Zero-shot accuracy on pairs of colour and shape that training never showed: {unseen}")
    print(f"On pairs that it showed: {seen}")
    minutes = report["made"]["processor_minutes"]
    print(f"Wrote {out / PACKED.name} after {minutes} minutes of processor time in {options.processes} processes.")


def draw_pictures(options: Options, bars: Progress) -> Pictures:
    """Draws the pictures. Each group depends on the seed and its own number alone."""
    groups = range(options.pictures // GROUP)
    keys = ((options.seed, number, 1 - number / (EASY * len(groups))) for number in groups)
    with get_context("fork").Pool(options.processes) as pool:
        made = list(bars.track(pool.imap(_draw_group, keys, chunksize=32), len(groups), description="Drawing"))
    scenes, images = zip(*made, strict=True)
    return Pictures(list(scenes), np.stack(images))


def _draw_group(key: tuple[int, int, float]) -> tuple[list[Scene], np.ndarray]:
    *seed, easy = key
    rng = np.random.default_rng(seed)
    if rng.random() < easy:
        scenes = [_easy_scene(rng) for _ in range(GROUP)]
        return scenes, np.stack([np.asarray(draw(scene, rng, plain=True)) for scene in scenes])
    first = random_scene(rng)
    scenes = [first, *(neighbour(first, rng) for _ in range(GROUP - 1))]
    return scenes, np.stack([np.asarray(draw(scene, rng)) for scene in scenes])


def _easy_scene(rng: np.random.Generator) -> Scene:
    """One large filled shape in the middle of a plain background."""
    plain = {"pattern": 0, "second": NONE, "texture": FILLED, "size": LARGE, "position": MIDDLE}
    return replace(random_scene(rng, shapes=1), **plain)


def batches(pictures: Pictures, words: Vocabulary, options: Options, rank: int) -> Iterator[Batch]:
    """One process's batches, with new captions each time.

    Each picture comes once before any comes again, first in their own order. Each process takes its share of a step.
    """
    shuffled, rng = np.random.default_rng([options.seed, 1]), np.random.default_rng([options.seed, 2, rank])
    per_batch, order = options.batch // GROUP, np.arange(len(pictures.scenes))
    while True:
        if len(order) < per_batch:
            order = shuffled.permutation(len(pictures.scenes))
        chosen, order = order[:per_batch][rank :: options.processes], order[per_batch:]
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


def new_model(words: Vocabulary, pictures: Pictures) -> Model:
    """The towers with initial weights. The embedding has rows for known words alone."""
    image = new_image_tower("mci_shapes")
    nn.init.zeros_(image.head.fc.bias)  # Apple's layout has none
    image.head.fc.bias.requires_grad_(False)
    _leave_out_pixels_first(image.stem[0].conv_scale.conv)
    _repeat_channels_first(image)
    _see_edges_first(image, pictures)
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


def _repeat_channels_first(tower: nn.Module) -> None:
    """Gives convolutions that make several channels of each those channels several times. oneDNN is faster so."""
    for conv in tower.modules():
        if isinstance(conv, nn.Conv2d) and 1 < conv.groups < conv.out_channels:
            times = conv.out_channels // conv.groups
            conv.in_channels = conv.groups = conv.out_channels
            conv.register_forward_pre_hook(partial(_repeated, times=times))


def _repeated(_: nn.Module, inputs: tuple[Tensor], times: int) -> tuple[Tensor]:
    return (inputs[0].repeat_interleave(times, 1).contiguous(memory_format=torch.channels_last),)


def _see_edges_first(tower: nn.Module, pictures: Pictures) -> None:
    """Starts the first filters as the main components of small patches, each with its negative.

    Most of what differs between patches is their brightness. Random filters see little else, and no edges.
    """
    conv, colours = tower.stem[0].conv_kxk[0].conv, tower.stem[0].conv_scale.bn
    patches = functional.unfold(_as_pixels(pictures.images[-100:].reshape(-1, *pictures.images.shape[2:])), 3, stride=2)
    patches = patches.transpose(1, 2).reshape(-1, conv.weight[0].numel())
    components = torch.linalg.eigh(torch.cov(patches.T)).eigenvectors.T.flip(0)[: len(conv.weight) // 2]
    with torch.no_grad():
        conv.weight.copy_(torch.stack([components, -components], 1).reshape(conv.weight.shape))
        colours.weight.fill_(0.1)


def train_in_processes(pictures: Pictures, words: Vocabulary, options: Options, bars: Progress) -> Model:
    """A trained model. All processes take the same steps, by the mean of their gradients; this one keeps the model."""
    with tempfile.TemporaryDirectory() as folder:
        meet = f"file://{folder}/meet"
        others = [
            get_context("fork").Process(target=_train, args=(pictures, words, options, None, rank, meet), daemon=True)
            for rank in range(1, options.processes)
        ]
        for other in others:
            other.start()
        model = _train(pictures, words, options, bars, 0, meet)
        for other in others:
            other.join()
    return model


def _train(
    pictures: Pictures, words: Vocabulary, options: Options, bars: Progress | None, rank: int, meet: str
) -> Model:
    distributed.init_process_group(
        "gloo", init_method=meet, rank=rank, world_size=options.processes, timeout=timedelta(minutes=5)
    )
    try:
        return train(pictures, words, options, bars, rank)
    finally:
        distributed.destroy_process_group()


def train(pictures: Pictures, words: Vocabulary, options: Options, bars: Progress | None, rank: int) -> Model:
    """What one process does.

    Contrastive learning alone sees colour and place at once, and shape hardly ever. So the image tower learns by
    `attribute_loss` first, and captions join when it tells shapes apart.
    """
    model = new_model(words, pictures)
    width = model.text.projection_layer.shape[1]
    heads = nn.ModuleDict({name: nn.Linear(width, count) for name, count in CHOICES.items()})
    modules = nn.ModuleList([model.image, model.text, heads]).train()
    optimizers = _optimizers(model, heads, options)
    steps = options.alone + options.together
    task = bars.add_task("Training", total=steps) if bars else None
    for step, batch in enumerate(islice(batches(pictures, words, options, rank), steps)):
        images = functional.normalize(model.image(batch.images), dim=-1)
        loss = attribute_loss(heads, images, batch.there)
        if step >= options.alone:
            texts = functional.normalize(model.text(batch.rows), dim=-1)
            told = loss + attribute_loss(heads, texts, batch.says)
            loss = contrastive_loss(images, texts, model.scale.exp(), batch.true) + HEADS_SHARE * told
        for optimizer, _ in optimizers:
            optimizer.zero_grad()
        loss.backward()
        _average_gradients([*modules.parameters(), model.scale])
        nn.utils.clip_grad_norm_([*modules.parameters(), model.scale], 5.0)
        for optimizer, schedule in optimizers:
            optimizer.step()
            schedule.step()
        with torch.no_grad():
            model.scale.clamp_(max=math.log(100.0))
        if bars and task is not None:
            bars.update(task, advance=1, description=f"Training, loss {loss.item():.2f}")
            if (step % 50 == 0 or step + 1 == options.alone) and not bars.console.is_terminal:
                print(f"Step {step} of {steps}: loss {loss.item():.2f}", flush=True)
    modules.eval()
    return model


def _average_gradients(parameters: list[nn.Parameter]) -> None:
    """Gives every process the mean of all processes' gradients."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    together = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(together)
    together /= distributed.get_world_size()
    for gradient, mean in zip(gradients, together.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


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
        * (2 if name == "shape" else 1)  # which is learned last
        for name, head in heads.items()
    ]
    return torch.stack(losses).nan_to_num().sum()  # of what no caption of a batch says there is no mean


def _optimizers(
    model: Model, heads: nn.Module, options: Options
) -> list[tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]]:
    """Muon for the image tower's matrices, AdamW for everything else, with weight decay for kernels alone."""
    matrices: list[nn.Parameter] = []
    groups: list[dict] = []
    rates: list[Callable[[int], float]] = []
    steps = options.alone + options.together
    for tower, first in ((nn.ModuleList([model.image, heads]), 0), (model.text, options.alone)):
        kernels, others = [], [] if first == 0 else [model.scale]
        for name, parameter in tower.named_parameters():
            is_kernel = parameter.ndim >= 2 and "embed" not in name and "layer_scale" not in name
            if first == 0 and parameter.ndim == 4 and is_kernel and parameter.shape[1] > 1:
                matrices.append(parameter)
            else:
                (kernels if is_kernel else others).append(parameter)
        groups += [{"params": kernels, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}]
        rates += [partial(_rate, first=first, steps=steps)] * 2
    adam = torch.optim.AdamW(groups, lr=options.rate, betas=(0.9, 0.98))
    muon = Muon(matrices, 5 * options.rate)
    schedule = torch.optim.lr_scheduler.LambdaLR
    return [(adam, schedule(adam, rates)), (muon, schedule(muon, rates[0]))]


class Muon(torch.optim.Optimizer):
    """Steps of which all singular values are about 1 (Keller Jordan and others, 2024), so that rare directions count.

    torch.optim.Muon takes matrices alone. These are kernels, (outputs, inputs, height, width).
    """

    def __init__(self, parameters: list[nn.Parameter], rate: float) -> None:
        super().__init__(parameters, {"lr": rate})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Changes the parameters."""
        for group in self.param_groups:
            for kernel in group["params"]:
                mean = self.state[kernel].setdefault("mean", torch.zeros_like(kernel)).lerp_(kernel.grad, 0.05)
                change = _orthogonal(kernel.grad.lerp(mean, 0.95).flatten(1))
                shape = max(1.0, len(change) / change.shape[1]) ** 0.5
                kernel.mul_(1 - group["lr"] * DECAY).sub_(group["lr"] * shape * change.view_as(kernel))


def _orthogonal(matrix: Tensor) -> Tensor:
    """The nearest matrix of orthogonal rows or columns, roughly: five steps of Newton and Schulz."""
    tall = matrix.shape[0] > matrix.shape[1]
    near = (matrix.T if tall else matrix).bfloat16()
    near = near / (near.norm() + 1e-7)
    for _ in range(5):
        square = near @ near.T
        near = 3.4445 * near + (-4.775 * square + 2.0315 * square @ square) @ near
    return (near.T if tall else near).float()


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
