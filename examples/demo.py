"""From a PyTorch file to an answer: convert a checkpoint, see it verified, load it back, label pictures.

The checkpoint is this project's own: a tiny MobileCLIP that knows coloured shapes and nothing else. It was trained in
PyTorch by train_shapes.py, in the layout of Apple's files, and is not one of them. With a checkpoint of Apple's:

    convert --variant s2 --src mobileclip_s2.pt
"""

import os
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from rich.console import Console
from rich.table import Table

import mobileclip_keras as mk
from mobileclip_keras.converters.cli.progress import bars
from mobileclip_keras.converters.conversion.convert import convert
from mobileclip_keras.verify.report import render
from mobileclip_keras.verify.shapes.checkpoint import write_checkpoint
from mobileclip_keras.verify.shapes.samples import LABELS, example_pictures, save_grid

PICTURE = Path("demo.png")


def main() -> None:
    console = Console()
    with tempfile.TemporaryDirectory() as temporary:
        checkpoint = Path(temporary) / "mobileclip_shapes.safetensors"
        write_checkpoint(checkpoint)
        console.print(f"[bold]1.[/] A checkpoint that this project trained: {checkpoint.stat().st_size / 1e6:.0f} MB")

        console.print("[bold]2.[/] Converted, and compared with PyTorch before anything is written:")
        folder = Path(temporary) / "mobileclip_shapes-keras"
        convert(checkpoint, folder, progress=bars(console), report=lambda found: console.print(render(found)))

        console.print("[bold]3.[/] Loaded back, as an application would, without PyTorch's file:")
        model = mk.MobileClipModel.from_pretrained(folder)
    classifier = mk.ZeroShotClassifier(model, LABELS, templates=["{}"])
    pictures = example_pictures()
    table = Table("what was drawn", "best label", "probability", "")
    right = 0
    for drawn, (best, *_) in zip(LABELS, classifier.classify(pictures, top_k=1), strict=True):
        right += best.label == drawn
        table.add_row(drawn, best.label, f"{best.probability:.1%}", "right" if best.label == drawn else "wrong")
    console.print(table)
    save_grid(pictures, PICTURE)
    console.print(f"{right} of {len(LABELS)} labels are right. The pictures, in rows of three: {PICTURE}")


if __name__ == "__main__":
    main()
