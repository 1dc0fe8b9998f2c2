"""A small real task: handwritten digits, learned by the tiny model of shapes, and by plain PyTorch in the same way.

    KERAS_BACKEND=jax python benchmarks/finetuning.py --save
    python benchmarks/finetuning.py --plain --save

The digits are scikit-learn's, 1,797 pictures of 8 x 8 pixels, enlarged to 64; 500 of them are for the test alone. What
runs is `finetune` from the checkpoint in this package, without validation, so that the last weights are kept.
Plain PyTorch is timm's tower and the text tower of the verification, with torch.optim.AdamW, on the same batches in the
same order. Accuracy is that of zero-shot classification, the nearest of ten captions. Needs scikit-learn.
"""

import json
import math
import os
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image
from rich.console import Console
from samples import keep

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEMPLATE = "the digit {c}"
TEST, PIXELS = 500, 64
EPOCHS, BATCH, LEARNING_RATE, SEED = 10, 64, 1e-3, 0
RESULTS = Path(__file__).parent / "results" / "finetuning.json"


def write_digits(folder: Path) -> None:
    """Class folders, below "train" and "test"."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.images))
    for place, number in enumerate(order):
        split = "test" if place < TEST else "train"
        target = folder / split / NAMES[digits.target[number]]
        target.mkdir(parents=True, exist_ok=True)
        pixels = (digits.images[number] * (255 / 16)).astype(np.uint8)
        image = Image.fromarray(pixels).resize((PIXELS, PIXELS), Image.Resampling.BICUBIC)
        image.convert("RGB").save(target / f"{number:04d}.png")


def read(folder: Path) -> Any:
    """Pairs of class folders."""
    from mobileclip_keras import ImagePreprocessor
    from mobileclip_keras.converters.tuning.pairs.checking import check
    from mobileclip_keras.converters.tuning.pairs.opening import open_pairs

    return check(open_pairs(str(folder), (TEMPLATE,)), ImagePreprocessor(PIXELS), skip_broken=False)


def by_command(data: Path, work: Path) -> dict[str, Any]:
    """`finetune` on the backend in use."""
    import keras

    from mobileclip_keras import ImagePreprocessor, MobileClipModel, Tokenizer
    from mobileclip_keras.converters.tuning.base import find_base
    from mobileclip_keras.converters.tuning.data import Data
    from mobileclip_keras.converters.tuning.finetune import finetune
    from mobileclip_keras.converters.tuning.options import Options
    from mobileclip_keras.converters.tuning.validation import measure

    base = find_base("shapes").folder
    options = Options(epochs=EPOCHS, batch_size=BATCH, learning_rate=LEARNING_RATE, val_share=0, seed=SEED)
    pairs = Data(str(data / "train"), templates=(TEMPLATE,))
    record = finetune(str(base), pairs, work / "digits", options, verify=False).record
    test = read(data / "test")

    def accuracy(folder: Path) -> float:
        model = MobileClipModel.from_pretrained(folder, form="inference")
        return measure(model, test, ImagePreprocessor(PIXELS), Tokenizer()).mean

    return {
        "backend": keras.backend.backend(),
        "accuracy_before": accuracy(base),
        "accuracy_after": accuracy(work / "digits"),
        "loss": record["loss"],
        "steps": record["steps"],
        "images_per_second": record["images_per_second"],
    }


def by_plain_torch(data: Path) -> dict[str, Any]:
    """The same in PyTorch alone."""
    import torch

    from mobileclip_keras import ImagePreprocessor, Tokenizer
    from mobileclip_keras.converters.tuning.pairs.batches import Feeder
    from mobileclip_keras.keras_models.registry import get_variant
    from mobileclip_keras.verify.shapes.checkpoint import read_checkpoint
    from mobileclip_keras.verify.torch_models import build_reference

    variant, tensors = get_variant("shapes"), read_checkpoint()
    made = build_reference(variant.image_tower, variant.text_tower, tensors, "apple", dtype="float32")
    towers = torch.nn.ModuleDict({"image": made.image_tower, "text": made.text_tower})
    for parameter in towers.parameters():
        parameter.requires_grad_(True)
    scale = torch.nn.Parameter(torch.tensor(float(tensors["logit_scale"])))
    test, train = read(data / "test"), read(data / "train")
    tokenize, preprocess = Tokenizer(), ImagePreprocessor(PIXELS)
    pixels = torch.from_numpy(np.concatenate([preprocess(pair.image.read()) for pair in test.pairs]))
    labels = torch.tensor([pair.label for pair in test.pairs])
    words = torch.from_numpy(np.asarray(tokenize([captions[0] for captions in test.classes]), np.int64))

    def features(images: Any, texts: Any) -> Any:
        both = towers["image"](images.permute(0, 3, 1, 2)), towers["text"](texts)
        return [torch.nn.functional.normalize(each) for each in both]

    def accuracy() -> float:
        towers.eval()
        with torch.no_grad():
            images, texts = features(pixels, words)
        return round(float((images @ texts.T).argmax(1).eq(labels).float().mean()), 4)

    feeder = Feeder(train.pairs, preprocess, tokenize, BATCH, SEED)
    steps, losses = feeder.steps * EPOCHS, list[float]()
    matrices = [p for p in towers.parameters() if p.ndim >= 2]
    others = [p for p in towers.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.2}, {"params": [*others, scale], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, LEARNING_RATE, betas=(0.9, 0.98), eps=1e-6)
    before, begun = accuracy(), time.perf_counter()
    for epoch in range(EPOCHS):
        for batch in feeder.epoch(epoch):
            towers.train()
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * share_of_rate(len(losses), steps)
            images, texts = features(torch.from_numpy(batch["image"]), torch.from_numpy(batch["text"]).long())
            logits, own = scale.exp() * images @ texts.T, torch.arange(len(images))
            entropy = torch.nn.functional.cross_entropy
            loss = (entropy(logits, own) + entropy(logits.T, own)) / 2
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                scale.clamp_(max=math.log(100))
            losses.append(loss.item())
    return {
        "backend": "plain PyTorch",
        "accuracy_before": before,
        "accuracy_after": accuracy(),
        "loss": {"first": losses[0], "last": losses[-1]},
        "steps": steps,
        "images_per_second": round(steps * BATCH / (time.perf_counter() - begun), 2),
    }


def share_of_rate(step: int, steps: int) -> float:
    """Of the highest learning rate: a tenth of all steps up in a line, then down as a cosine."""
    warmup = steps // 10
    if step < warmup:
        return (1 + (warmup - 1) * step / warmup) / warmup
    return (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2


def main(
    plain: Annotated[bool, typer.Option("--plain", help="Train in PyTorch alone.")] = False,
    save: Annotated[bool, typer.Option("--save", help="Adds the outcome to results/finetuning.json.")] = False,
) -> None:
    """Trains, and prints what came out."""
    with tempfile.TemporaryDirectory() as place:
        write_digits(Path(place) / "data")
        data, work = Path(place) / "data", Path(place)
        begun = time.process_time()
        found = by_plain_torch(data) if plain else by_command(data, work)
        found |= {"processor_seconds": round(time.process_time() - begun, 1), "test_images": TEST}
        found |= {"cores": len(os.sched_getaffinity(0))}
    Console().print_json(json.dumps(found))
    if save:
        keep(RESULTS, {found["backend"]: found})


if __name__ == "__main__":
    typer.run(main)
