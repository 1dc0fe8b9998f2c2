"""How long loading takes, and how much memory: `from_pretrained` of a local folder against open_clip.

    python benchmarks/loading.py s2 2-s0 --backend tensorflow --backend jax --backend torch

Both load the same weights, a synthetic checkpoint, each time in a new process, in turns; open_clip from the
safetensors file and from the .pt file. Imports are timed apart. Memory is the peak above what the imports take,
as a multiple of the float32 weights. "Keras' objects" are as many layers and variables of the same shapes, without
values: Keras' own batch norms, layer norms, dense layers and embeddings where the model has such, and plain layers for
all else. Less than that, no model of Keras takes. `--against` measures another checkout, too, each with the folder that
it converted itself.
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
from samples import OTHER, Sample, add_ratios_to_other, in_process, keep, measured, medians

FORMS = ("inference", "train")
OPEN_CLIP = ("open_clip, .safetensors", "open_clip, .pt")
RESULTS = Path(__file__).parent / "results" / "loading.json"


def load_keras(folder: str, form: str) -> Sample:
    """Loads a converted folder in this process."""
    start = time.perf_counter()
    import keras

    own = time.perf_counter()
    import mobileclip_keras as mk

    sample = {"import": time.perf_counter() - own, "imports": time.perf_counter() - start}
    import mobileclip_keras.keras_models.store.load

    with measured(sample):
        model = mk.MobileClipModel.from_pretrained(folder, form=form)
    assert keras.ops.convert_to_numpy(model.logit_scale) > 0
    return sample


def make_objects(folder: str, form: str) -> Sample:
    """Makes as many layers and variables as a form of a model has, and nothing else."""
    start = time.perf_counter()
    import keras

    from mobileclip_keras.keras_models.kernels.memory import no_collection
    from mobileclip_keras.keras_models.layers.initializers import to_be_overwritten

    sample = {"import": 0.0, "imports": time.perf_counter() - start}
    shapes = json.loads((Path(folder) / f"{form}.json").read_text())
    layers = []
    with measured(sample), to_be_overwritten(), no_collection():
        for kind, weights in shapes:
            first = weights[0][1] if weights else []
            layer: Any
            if kind == "Dense":
                layer = keras.layers.Dense(first[1], use_bias=len(weights) > 1)
                layer.build((None, first[0]))
            elif kind == "Embedding":
                layer = keras.layers.Embedding(*first)
                layer.build((None, None))
            elif kind.endswith("Normalization"):
                layer = getattr(keras.layers, kind)()
                layer.build((None, *first))
            else:
                layer = keras.layers.Layer()
                for name, shape in weights:
                    layer.add_weight(shape=tuple(shape), name=name)
            layers.append(layer)
    return sample


def keep_shapes(folder: Path, form: str) -> None:
    """Writes the kind of every layer, and the names and shapes of its weights, for `make_objects`."""
    import keras

    from mobileclip_keras.keras_models.layers.paths import layers_by_path
    from mobileclip_keras.keras_models.store.load import load_folder

    kinds = ("BatchNormalization", "LayerNormalization", "Dense", "Embedding")
    shapes: list[Any] = []
    seen: set[int] = set()
    # Inner layers come after outer ones. Each variable belongs to the innermost layer that has it.
    for _, layer in reversed([*layers_by_path(load_folder(folder, form=form))]):
        own = [v for v in layer.weights if id(v) not in seen]
        seen |= {id(v) for v in own}
        kind = next((kind for kind in kinds if isinstance(layer, getattr(keras.layers, kind))), "Layer")
        shapes.append((kind, [(v.name, tuple(v.shape)) for v in own]))
    (folder / f"{form}.json").write_text(json.dumps(shapes))


def load_open_clip(name: str, file: str) -> Sample:
    """Loads a checkpoint with open_clip in this process."""
    start = time.perf_counter()
    import open_clip

    sample = {"import": 0.0, "imports": time.perf_counter() - start}
    with measured(sample):
        model = open_clip.create_model(name, pretrained=file)
    assert model.logit_scale.item() > 0
    return sample


HOW = {"keras": load_keras, "objects": make_objects, "open_clip": load_open_clip}


def prepare(variant: str, folder: Path) -> tuple[str, dict[str, tuple[str, ...]], int]:
    """Writes the weights in every format; open_clip's name, the arguments of each way to load, and the bytes."""
    import numpy as np
    import torch
    from safetensors.numpy import load_file, save_file

    from mobileclip_keras.converters.checkpoints.identify import CheckpointFormat, known_formats
    from mobileclip_keras.converters.conversion.convert import convert
    from mobileclip_keras.keras_models.registry import get_variant
    from mobileclip_keras.verify.data import synthetic

    found = get_variant(variant)
    checkpoint_format = CheckpointFormat(
        found.image_tower, found.text_tower.removesuffix("_causal"), "open_clip", "train"
    )
    if checkpoint_format not in list(known_formats()):
        raise typer.BadParameter(f"open_clip has no {found.name} to compare with.")
    file = folder / f"{found.name}.safetensors"
    save_file(synthetic.state_dict(checkpoint_format.shapes.items(), seed=0), file)
    pickled = file.with_suffix(".pt")
    torch.save({name: torch.from_numpy(np.array(array)) for name, array in load_file(file).items()}, pickled)
    convert(file, folder / "keras", variant=found.name, verify=False)
    for form in FORMS:
        keep_shapes(folder / "keras", form)
    name = found.title
    ways = {
        OPEN_CLIP[0]: ("open_clip", name, str(file)),
        OPEN_CLIP[1]: ("open_clip", name, str(pickled)),
        **{form: ("keras", str(folder / "keras"), form) for form in FORMS},
        **{f"Keras' objects, {form}": ("objects", str(folder / "keras"), form) for form in FORMS},
    }
    return found.name, ways, file.stat().st_size


def prepare_other(checkout: Path, name: str, folder: Path) -> dict[str, tuple[str, ...]]:
    """Lets another checkout convert the checkpoint; its ways to load."""
    sample = ("convert", str(folder / f"{name}.safetensors"), str(folder / "other"), name)
    in_process(str(Path(__file__).with_name("converting.py")), "--sample", json.dumps(sample), checkout=checkout)
    return {OTHER + form: ("keras", str(folder / "other"), form) for form in FORMS}


def compare(variant: str, backends: list[str], repeats: int, against: Path | None) -> dict[str, Any]:
    """The medians of every way to load a variant."""
    with tempfile.TemporaryDirectory() as folder:
        name, ways, size = prepare(variant, Path(folder))
        if against:
            ways |= prepare_other(against, name, Path(folder))
        runs = [(way, "torch") for way in OPEN_CLIP]
        # A checkout's way beside the same of the other.
        ordered = sorted((way for way in ways if way not in OPEN_CLIP), key=lambda way: way.removeprefix(OTHER))
        runs += [(way, backend) for backend in backends for way in ordered]
        samples: dict[str, list[Sample]] = {f"{way}, {backend}": [] for way, backend in runs}
        for turn in range(repeats + 1):
            for way, backend in runs:
                checkout = against if way.startswith(OTHER) else None
                sample = in_process(__file__, "--sample", json.dumps(ways[way]), backend=backend, checkout=checkout)
                if turn:  # the first brings the files into memory
                    samples[f"{way}, {backend}"].append(sample)
    found = {way: medians(taken) for way, taken in samples.items()}
    best = min(found[f"{way}, torch"]["seconds"] for way in OPEN_CLIP)
    for sample in found.values():
        sample |= {"ratio": sample["seconds"] / best, "peak_ratio": sample["peak"] / size}
    add_ratios_to_other(found)
    return {name: {"bytes": size, "repeats": repeats, "ways": found}}


def main(
    variants: Annotated[list[str] | None, NAMES] = None,
    backend: Annotated[list[Backend] | None, typer.Option(help="Backends of Keras; all where left out.")] = None,
    repeats: Repeats = 5,
    against: Against = None,
    sample: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Prints and keeps the time and the memory that loading takes."""
    if sample:
        how, *arguments = json.loads(sample)
        print(json.dumps(HOW[how](*arguments)))
        return
    columns = ("variant", "way", "imports, s", "own import, s", "load, s", "ratio", "peak / weights", "to other")
    table = Table(*columns, title="Loading; ratios to the faster of open_clip's", title_justify="left")
    for variant in variants or ["s2"]:
        results = compare(variant, backend or list(Backend), repeats, against)
        keep(RESULTS, results)
        for name, result in results.items():
            for way, taken in result["ways"].items():
                numbers = ("imports", "import", "seconds", "ratio", "peak_ratio")
                to_other = f"{taken['to_other']:.2f}" if "to_other" in taken else ""
                table.add_row(name, way, *(f"{taken[key]:.2f}" for key in numbers), to_other)
    Console(width=120).print(table)


if __name__ == "__main__":
    typer.run(main)
