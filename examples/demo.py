"""From a PyTorch file to an answer: convert a checkpoint, see it verified, load it back, classify photos.

The checkpoint is synthetic: it has the names and shapes of Apple's MobileCLIP-S0 and made-up values. So the
labels mean nothing, while the numbers are those that PyTorch computes from the same file, within the errors
that the verification shows. With a real checkpoint:

    convert --variant s0 --src mobileclip_s0.pt
"""

import os
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import torch
from rich.console import Console
from rich.table import Table

import mobileclip_keras as mk
from mobileclip_keras import verify
from mobileclip_keras.converters.checkpoints.identify import CheckpointFormat
from mobileclip_keras.converters.cli.progress import bars
from mobileclip_keras.converters.conversion.convert import convert
from mobileclip_keras.verify.data import synthetic
from mobileclip_keras.verify.report import render

PHOTOS = sorted(Path(verify.__file__).parent.glob("photos/*.jpg"))
LABELS = ["astronaut", "cat", "cup of coffee", "rocket", "raccoon"]


def main() -> None:
    console = Console()
    with tempfile.TemporaryDirectory() as temporary:
        checkpoint = Path(temporary) / "mobileclip_s0.pt"
        shapes = CheckpointFormat("mci0", "mct", "apple", "train").shapes
        tensors = synthetic.state_dict(shapes.items(), seed=0)
        torch.save({name: torch.from_numpy(values) for name, values in tensors.items()}, checkpoint)
        console.print(f"[bold]1.[/] A synthetic checkpoint: {checkpoint.stat().st_size / 1e6:.0f} MB")

        console.print("[bold]2.[/] Converted, and compared with PyTorch before anything is written:")
        folder = Path(temporary) / "mobileclip_s0-keras"
        convert(checkpoint, folder, progress=bars(console), report=lambda found: console.print(render(found)))

        console.print("[bold]3.[/] Loaded back, as an application would, without PyTorch's file:")
        model = mk.MobileClipModel.from_pretrained(folder)
    classifier = mk.ZeroShotClassifier(model, LABELS)
    table = Table("photograph", "best label", "probability")
    for photo, (best, *_) in zip(PHOTOS, classifier.classify(PHOTOS, top_k=1), strict=True):
        table.add_row(photo.name, best.label, f"{best.probability:.1%}")
    console.print(table)
    console.print("The weights are synthetic, so the labels mean nothing; the numbers are right, as verified above.")


if __name__ == "__main__":
    main()
