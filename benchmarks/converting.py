"""How long converting takes, and how much memory, against torch.load and torch.save of the same file.

    python benchmarks/converting.py s0 s2 b 2-s4

Synthetic checkpoints in the published layout, as .pt and as .safetensors; each sample in a new process, in turns:
"torch" reads the .pt file whole and writes it again, "safetensors" does so with the .safetensors file by that
library's own functions, "mapping" opens a file, reads and assigns row by row, and writes the train form, "convert" is
all that `convert --no-verify` does, hashing and folding included. `--against` measures another checkout, too. Ratios
are to "torch". Memory is the peak above what the imports take, as a multiple of the weights.
"""

import json
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from arguments import NAMES, Against, Backend, Repeats
from rich.console import Console
from rich.table import Table
from samples import MIB, OTHER, Sample, add_ratios_to_other, in_process, keep, measured, medians

RESULTS = Path(__file__).parent / "results" / "converting.json"
OWN_WAYS = ("mapping", "convert")
WAYS = {".pt": ("torch", "mapping", "convert"), ".safetensors": ("torch", "safetensors", "mapping", "convert")}


def with_torch(source: str, out: str, _: str) -> Sample:
    """Reads the .pt file and writes it again."""
    import torch

    sample: Sample = {}
    with measured(sample):
        torch.save(torch.load(Path(source).with_suffix(".pt"), map_location="cpu", weights_only=True), out)
    return sample


def with_safetensors(source: str, out: str, _: str) -> Sample:
    """Reads the .safetensors file and writes it again."""
    from safetensors.torch import load_file, save_file

    sample: Sample = {}
    with measured(sample):
        save_file(load_file(source), out)
    return sample


def with_mapping(source: str, out: str, variant: str) -> Sample:
    """Opens, reads, assigns and writes; the model is built before the clock runs."""
    import keras

    from mobileclip_keras.converters.checkpoints.checkpoint import open_checkpoint
    from mobileclip_keras.converters.checkpoints.identify import identify
    from mobileclip_keras.converters.conversion.build import build_model, has_projection_bias
    from mobileclip_keras.converters.conversion.mapping import load_into
    from mobileclip_keras.keras_models.registry import get_variant
    from mobileclip_keras.keras_models.store.weights_file import save_model

    _import_reader(source)
    found = get_variant(variant)
    checkpoint = open_checkpoint(source)
    checkpoint_format = identify(checkpoint.shapes)
    model = build_model(found, checkpoint_format, has_projection_bias(found, checkpoint_format, checkpoint))
    sample: Sample = {}
    with measured(sample):
        checkpoint = open_checkpoint(source)
        load_into(model, checkpoint, checkpoint_format.rows)
        save_model(model, Path(out))
    assert keras.ops.convert_to_numpy(model.logit_scale) > 0
    return sample


def with_convert(source: str, out: str, variant: str) -> Sample:
    """The whole conversion."""
    import keras

    from mobileclip_keras.converters.conversion.convert import convert

    _import_reader(source)
    keras.saving.serialize_keras_object(keras.layers.Dense(1))  # where TensorFlow is there, Keras imports it for this
    sample: Sample = {}
    with measured(sample):
        convert(source, out, variant=variant, verify=False)
    return sample


def _import_reader(source: str) -> None:
    if source.endswith(".pt"):
        import torch  # noqa: F401


def prepare(variant: str, folder: Path) -> tuple[str, Path]:
    """Writes the checkpoint as .safetensors and as .pt."""
    import torch
    from safetensors.torch import load_file

    from mobileclip_keras.converters.checkpoints.source import synthetic_checkpoint
    from mobileclip_keras.keras_models.registry import get_variant

    file = synthetic_checkpoint(variant, folder)
    torch.save(load_file(file), file.with_suffix(".pt"))
    return get_variant(variant).name, file


def compare(variant: str, backend: str, repeats: int, against: Path | None) -> dict[str, Any]:
    """The medians of every way, for both formats."""
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        name, file = prepare(variant, Path(folder))
        for suffix, ways in WAYS.items():
            source = file.with_suffix(suffix)
            runs = {way: (way, None) for way in ways}
            if against:
                runs |= {OTHER + way: (way, against) for way in OWN_WAYS}
            samples: dict[str, list[Sample]] = {name: [] for name in runs}
            for turn in range(repeats + 1):
                for run, (way, checkout) in runs.items():
                    with tempfile.TemporaryDirectory(dir=folder) as out:
                        arguments = (way, str(source), f"{out}/new", name)
                        taken = in_process(
                            __file__, "--sample", json.dumps(arguments), backend=backend, checkout=checkout
                        )
                    if turn:  # the first brings the files into memory
                        samples[run].append(taken)
            found = {way: medians(taken) for way, taken in samples.items()}
            for taken in found.values():
                taken["ratio"] = taken["seconds"] / found["torch"]["seconds"]
                taken["peak_ratio"] = taken["peak"] / source.stat().st_size
            add_ratios_to_other(found)
            results[f"{name}{suffix}, {backend}"] = {
                "bytes": source.stat().st_size,
                "repeats": repeats,
                "ways": found,
            }
    return results


def main(
    variants: Annotated[list[str] | None, NAMES] = None,
    backend: Annotated[Backend, typer.Option(help="Backend of Keras.")] = Backend.tensorflow,
    repeats: Repeats = 3,
    against: Against = None,
    sample: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Prints and keeps the time and the memory that converting takes."""
    if sample:
        way, *arguments = json.loads(sample)
        runs = {
            "torch": with_torch,
            "safetensors": with_safetensors,
            "mapping": with_mapping,
            "convert": with_convert,
        }
        print(json.dumps(runs[way](*arguments)))
        return
    start = time.perf_counter()
    table = Table("file, backend", "MiB", "way", "s", "ratio", "peak / weights", "to other", title="Converting")
    for variant in variants or ["s0", "s2"]:
        results = compare(variant, backend, repeats, against)
        keep(RESULTS, results)
        for name, result in results.items():
            for way, taken in result["ways"].items():
                numbers = (f"{taken[key]:.2f}" for key in ("seconds", "ratio", "peak_ratio"))
                table.add_row(
                    name,
                    f"{result['bytes'] / MIB:.0f}",
                    way,
                    *numbers,
                    f"{taken['to_other']:.2f}" if "to_other" in taken else "",
                )
    Console(width=120).print(table, f"{time.perf_counter() - start:.0f} s in all")


if __name__ == "__main__":
    typer.run(main)
