"""How long one step of training takes, and how much memory: this package on each backend beside plain PyTorch.

    python benchmarks/training.py s0 --batch 8
    python benchmarks/training.py s2 --batch 128 --sides "PyTorch,keras-torch" --device cuda

A step is forward, backward and AdamW's update of both towers in the train form, with the contrastive loss: Keras' by
`fit`, with what `compile` does by itself and the optimizer of `fine_tuning_recipe`, PyTorch's by hand with the same
towers of timm and open_clip. Each side is a process that stays up, and they take turns, so that whatever else the
machine does falls on all alike. Printed are the seconds of the first step, which is where backends compile, the
median of the others, its ratio to PyTorch's, and the peak of memory beyond what the built model takes. On a GPU both
sides compute in bfloat16, on a CPU in float32.
"""

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from arguments import JSON, NAMES
from rich.console import Console
from rich.progress import track
from rich.table import Table
from samples import MIB, THREADS, forget_peak, keep, memory

PLAIN = "PyTorch"
SIDES = (PLAIN, "keras-torch", "keras-tensorflow", "keras-jax")
LEARNING_RATE = 1e-4

Step = Callable[[int], None]
"""Trains for so many steps, and returns when they are done."""


def plain_torch(variant: str, batch: int, device: str) -> Step:
    """The towers of timm and open_clip, trained by hand."""
    import torch

    from mobileclip_keras.keras_models.registry import get_variant
    from mobileclip_keras.verify.data import synthetic
    from mobileclip_keras.verify.torch_models import build_reference

    shapes, layout = published(variant)
    kind, known = get_variant(variant), synthetic.state_dict(shapes.items(), seed=0)
    reference = build_reference(kind.image_tower, kind.text_tower, known, layout, dtype="float32")
    towers = torch.nn.ModuleList([reference.image_tower, reference.text_tower]).to(device).train().requires_grad_()
    # On CPUs oneDNN's gradient of a 1 x 1 kernel with strides, channels last, writes outside its memory and aborts.
    layout_in_memory = torch.contiguous_format if device == "cpu" else torch.channels_last
    towers[0].to(memory_format=layout_in_memory)
    scale = torch.nn.Parameter(torch.tensor(np.log(100.0), dtype=torch.float32, device=device))
    optimizer = torch.optim.AdamW([*towers.parameters(), scale], lr=LEARNING_RATE, fused=True)
    pixels, tokens = pairs(variant, batch)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(memory_format=layout_in_memory).to(device)
    texts, own = torch.from_numpy(tokens.astype("int64")).to(device), torch.arange(batch, device=device)

    def run(steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device, torch.bfloat16, enabled=device != "cpu"):
                features = [torch.nn.functional.normalize(t(x)) for t, x in zip(towers, (images, texts), strict=True)]
                logits = scale.exp() * features[0] @ features[1].T
            cross_entropy = torch.nn.functional.cross_entropy
            loss = (cross_entropy(logits.float(), own) + cross_entropy(logits.float().T, own)) / 2
            loss.backward()
            optimizer.step()
        loss.item()  # waits for the device

    return run


def keras_fit(variant: str, batch: int, device: str) -> Step:
    """`fit` on the backend in use."""
    import keras

    from mobileclip_keras import MobileClipModel
    from mobileclip_keras.keras_models.training.optimizer import AdamW

    keras.config.set_dtype_policy("float32" if device == "cpu" else "mixed_bfloat16")
    model = MobileClipModel.from_variant(variant, form="train")
    model.compile(AdamW(LEARNING_RATE))
    pixels, tokens = pairs(variant, batch)
    data = {"image": pixels, "text": tokens}

    class Repeated(keras.utils.PyDataset):
        def __init__(self, steps: int) -> None:
            super().__init__()
            self._steps = steps

        def __len__(self) -> int:
            return self._steps

        def __getitem__(self, index: int) -> tuple[dict[str, np.ndarray]]:
            return (data,)

    return lambda steps: model.fit(Repeated(steps), epochs=1, verbose=0)


def published(variant: str) -> tuple[dict[str, tuple[int, ...]], Any]:
    """Names and shapes of a variant's published checkpoint, and its layout."""
    from mobileclip_keras.converters.checkpoints.identify import known_formats
    from mobileclip_keras.keras_models.registry import get_variant

    wanted = get_variant(variant)
    (found,) = (
        known
        for known in known_formats()
        if (known.layout, known.form) == (wanted.published.layout, "train") and wanted in known.variants
    )
    return found.shapes, found.layout


def pairs(variant: str, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """float32 (batch, height, width, 3) and int32 (batch, 77)."""
    from mobileclip_keras.keras_models.registry import get_variant
    from mobileclip_keras.verify.data import synthetic

    return synthetic.images(batch, get_variant(variant).image_size, seed=0), synthetic.tokens(batch, seed=0)


def peak(device: str, side: str) -> int:
    """Bytes at most since the last `forget_peak`. On GPUs PyTorch says what it took; JAX takes most of all at once."""
    if device == "cpu":
        return memory("VmHWM")
    if side.endswith("jax"):
        import jax

        return int(jax.devices()[0].memory_stats()["peak_bytes_in_use"])
    import torch

    return int(torch.cuda.max_memory_allocated())


def both_clocks() -> tuple[float, float]:
    """Seconds of the clock, and of all processors together."""
    return time.perf_counter(), time.process_time()


def serve(side: str, variant: str, batch: int, device: str) -> None:
    """Answers each line, a number of steps, with the seconds that each of them took, by the clock and of processors; 0
    with the peak of memory."""
    if side in (PLAIN, "keras-torch"):
        import torch

        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    run = (plain_torch if side == PLAIN else keras_fit)(variant, batch, device)
    before = memory("VmRSS") if device == "cpu" else 0
    forget_peak()
    print("answer", json.dumps("ready"), flush=True)
    for line in sys.stdin:
        if steps := int(line):
            start = both_clocks()
            run(steps)
            answer = [(end - begun) / steps for end, begun in zip(both_clocks(), start, strict=True)]
        else:
            answer = peak(device, side) - before
        print("answer", json.dumps(answer), flush=True)


class Side:
    """A process that trains. It stands still while others do: idle threads of some libraries keep a core busy."""

    def __init__(self, side: str, variant: str, batch: int, device: str) -> None:
        environment = {
            **os.environ,
            "KERAS_BACKEND": side.removeprefix("keras-") if side != PLAIN else "torch",
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "OMP_NUM_THREADS": str(THREADS),
            "TF_NUM_INTRAOP_THREADS": str(THREADS),
            **({"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}),
        }
        command = [sys.executable, __file__, variant, "--batch", str(batch), "--device", device, "--serve", side]
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._answer()
        self._process.send_signal(signal.SIGSTOP)

    def ask(self, steps: int) -> Any:
        assert self._process.stdin
        self._process.send_signal(signal.SIGCONT)
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        answer = self._answer()
        self._process.send_signal(signal.SIGSTOP)
        return answer

    def _answer(self) -> Any:
        assert self._process.stdout
        for line in self._process.stdout:  # libraries print, too
            if line.startswith("answer "):
                return json.loads(line.removeprefix("answer "))
        raise SystemExit(f"A process ended with status {self._process.wait()}.")

    def close(self) -> None:
        assert self._process.stdin
        self._process.send_signal(signal.SIGCONT)
        self._process.stdin.close()
        self._process.wait()


@contextmanager
def running(sides: list[str], variant: str, batch: int, device: str) -> Iterator[dict[str, Side]]:
    started: dict[str, Side] = {}
    try:
        for side in sides:
            started[side] = Side(side, variant, batch, device)
        yield started
    finally:
        for process in started.values():
            process.close()


def measure(
    variant: str, batch: int, sides: list[str], rounds: int, device: str, console: Console
) -> list[dict[str, Any]]:
    """One row for each side."""
    with running(sides, variant, batch, device) as started:
        first = {side: started[side].ask(1) for side in track(sides, f"{variant}: first step", console=console)}
        taken: dict[str, list[list[float]]] = {side: [] for side in sides}
        for _ in track(range(rounds), f"{variant}: steps", console=console):
            for side in sides:
                taken[side].append(started[side].ask(2))
        peaks = {side: started[side].ask(0) for side in sides}
    median = {side: [statistics.median(each) for each in zip(*times, strict=True)] for side, times in taken.items()}
    return [
        {
            "variant": variant,
            "batch": batch,
            "device": device,
            "side": side,
            "first": round(first[side][0], 1),
            "first_processor": round(first[side][1], 1),
            "seconds": round(median[side][0], 3),
            "processor": round(median[side][1], 3),
            "ratio": round(median[side][0] / median[PLAIN][0], 3) if PLAIN in sides else None,
            "plain_seconds": round(median[PLAIN][0], 3) if PLAIN in sides else None,
            "steps": 2 * rounds,
            "peak_mib": round(peaks[side] / MIB),
            "peak_ratio": round(peaks[side] / peaks[PLAIN], 3) if PLAIN in sides else None,
        }
        for side in sides
    ]


def table(rows: list[dict[str, Any]]) -> Table:
    columns = ("variant", "batch", "side", "first", "seconds", "ratio", "peak_mib", "peak_ratio")
    shown = Table("variant", "batch", "side", "first step, s", "step, s", "ratio", "peak, MiB", "ratio")
    for row in rows:
        shown.add_row(*("" if row[column] is None else str(row[column]) for column in columns))
    return shown


def main(
    variants: Annotated[list[str], NAMES],
    batch: Annotated[int, typer.Option(min=2, help="Pairs of a step.")] = 8,
    rounds: Annotated[int, typer.Option(min=1, help="Samples of each side, of two steps each.")] = 3,
    sides: Annotated[str, typer.Option(help="Which sides, with commas between them.")] = ",".join(SIDES),
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    out: Annotated[Path | None, JSON] = None,
    serving: Annotated[str | None, typer.Option("--serve", hidden=True)] = None,
) -> None:
    """Trains, and prints a table."""
    if serving:
        serve(serving, variants[0], batch, device)
        return
    chosen = sides.split(",")
    if unknown := [side for side in chosen if side not in SIDES]:
        raise typer.BadParameter(f"There is no side {unknown[0]!r}. There are {', '.join(SIDES)}.")
    if device not in ("cpu", "cuda"):
        raise typer.BadParameter(f"There is no device {device!r}. There are cpu and cuda.")
    console, rows = Console(stderr=True), []
    for variant in variants:
        rows += measure(variant, batch, chosen, rounds, device, console)
    Console().print(table(rows))
    if out:
        keep(out, {f"{row['variant']} x{row['batch']} {row['device']}, {row['side']}": row for row in rows})


if __name__ == "__main__":
    typer.run(main)
