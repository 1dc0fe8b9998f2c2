"""What the runtimes' own quantisers make of the float files, beside what `export --quantize` writes.

    python benchmarks/library_quantisers.py s0 --to onnx --towers image --folder /tmp/s0 --save

They are ai-edge-quantizer (LiteRT), onnxruntime.quantization (ONNX) and NNCF (OpenVINO; `pip install nncf` first).
Each gets the float file that quantization.py wrote, and its own defaults for 8 bits without inputs to measure on. Size,
smallest cosine, agreement and time are measured as those of our files are, in the same run.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from quantization import found_in, inputs_of
from rich.console import Console
from rich.table import Table
from samples import keep

from mobileclip_keras.converters.deploy.quantize.trial import Trial, try_all
from mobileclip_keras.converters.deploy.request import make_request
from mobileclip_keras.converters.deploy.runtimes.litert_model import read_model, write_model
from mobileclip_keras.keras_models.registry import get_variant

RESULTS = Path(__file__).parent / "results" / "library_quantisers.json"
LONGEST = 300
"""Of what a library says."""
OURS = ("float32", "int8-weights", "int8", "mixed", "mixed-small")


def name_apart(path: Path, out: Path) -> None:
    """Gives every tensor a name of its own, which ai-edge-quantizer wants."""
    model = read_model(path)
    for number, tensor in enumerate(each for graph in model.subgraphs for each in graph.tensors):
        tensor.name = f"{number} ".encode() + tensor.name
    write_model(model, out)


def litert(recipe: str) -> Callable[[Path, Path], None]:
    """One of the recipes of ai-edge-quantizer."""

    def quantise(path: Path, out: Path) -> None:
        from ai_edge_quantizer import quantizer
        from ai_edge_quantizer import recipe as recipes

        named = out.with_name("named")
        name_apart(path, named)
        made = quantizer.Quantizer(str(named), getattr(recipes, recipe)()).quantize()
        named.unlink()
        out.write_bytes(made.quantized_model)

    return quantise


def onnx(operations: list[str] | None) -> Callable[[Path, Path], None]:
    """Weights of some kinds of operations, or of all that it knows; what they are given is rounded at every call."""

    def quantise(path: Path, out: Path) -> None:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantize_dynamic(
            path,
            out,
            op_types_to_quantize=operations,
            per_channel=True,
            weight_type=QuantType.QInt8,
            reduce_range=False,
        )

    return quantise


def openvino(path: Path, out: Path) -> None:
    """Weights alone, with a scale for each channel."""
    import nncf
    from openvino import Core, save_model

    made = nncf.compress_weights(Core().read_model(path), mode=nncf.CompressWeightsMode.INT8_SYM)
    save_model(made, out, compress_to_fp16=False)


LIBRARIES: dict[str, dict[str, Callable[[Path, Path], None]]] = {
    "litert": {
        "ai-edge-quantizer, all in integers": litert("dynamic_wi8_afp32"),
        "ai-edge-quantizer, weights alone": litert("weight_only_wi8_afp32"),
    },
    "onnx": {
        "onnxruntime, all that it knows": onnx(None),
        "onnxruntime, products and tables": onnx(["MatMul", "Gemm", "Gather"]),
    },
    "openvino": {"NNCF, weights alone": openvino},
}


def table_of(title: str, trials: list[Trial]) -> Table:
    """For people."""
    table = Table("made by", "tower", "size", "time", "smallest cosine", "agreement", title=title)
    for trial in trials:
        name = f"export, {trial.name}" if trial.name in OURS else trial.name
        for tower, cost in trial.towers.items():
            near = cost.near
            table.add_row(
                name,
                tower,
                f"{cost.size:.3f}",
                f"{cost.latency:.2f}",
                f"{near.smallest_cosine:.4f}",
                f"{near.agreement:.3f}",
            )
    return table


def main(
    variant: Annotated[str, typer.Argument(help="Whose towers.")] = "shapes",
    to: Annotated[str, typer.Option(help="The runtime.")] = "onnx",
    kind: Annotated[str, typer.Option(help="Of the weights; shapes has its own.")] = "heavy tails",
    towers: Annotated[str, typer.Option(help="image, text or both between a comma.")] = "image,text",
    budget: Annotated[float, typer.Option(help="Of auto.")] = 0.998,
    folder: Annotated[Path | None, typer.Option(help="Of quantization.py's files, or for them.")] = None,
    save: Annotated[bool, typer.Option("--save", help="Adds the outcome to results/library_quantisers.json.")] = False,
) -> None:
    """Measures, and prints what came out."""
    console, about = Console(width=120), get_variant(variant)
    request = make_request(to, ("image", "text"), towers=towers, quantize="auto", budget=budget)
    with tempfile.TemporaryDirectory() as beside:
        own = folder or Path(beside)
        found: dict[str, Any] = found_in(own, kind, about, request, console)
        place = own / f"{request.runtime}, {','.join(request.towers)}, {request.budget:g}"
        inputs = inputs_of(about)
        trials = try_all({name: place / name for name in OURS if name in found["recipes"]}, request, inputs)
        failed: dict[str, str] = {}
        for name, quantise in LIBRARIES[to].items():
            made = Path(beside) / name
            made.mkdir()
            try:
                for tower in request.towers:
                    file = f"{tower}{request.how.suffix}"
                    quantise(place / "float32" / file, made / file)
                trials += try_all({"float32": place / "float32", name: made}, request, inputs)[1:]
            except Exception as error:  # whatever a library, or the runtime of what it wrote, raises is the result
                failed[name] = " ".join(str(error).split())[:LONGEST]
    title = f"{about.short_name}, {'trained' if about.is_ours else kind}, {to}, {towers}"
    console.print(table_of(title, trials))
    for name, words in failed.items():
        console.print(f"{name}: {words}", markup=False)
    if save:
        measured = {trial.name: trial.to_json()["towers"] for trial in trials}
        keep(RESULTS, {title: {**measured, **{name: {"failed": words} for name, words in failed.items()}}})


if __name__ == "__main__":
    typer.run(main)
