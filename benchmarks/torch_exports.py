"""PyTorch's own export of timm's reparameterised tower, which benchmarks/runtimes.py compares ours with.

    python torch_exports.py RUNTIME FOLDER TOWER BATCH OUT

FOLDER is as benchmarks/inference.py prepares it. For LiteRT this runs in an environment of its own, because
litert-torch asks for another PyTorch.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from engines import folded, reference, torch_inputs

Export = Callable[[Any, Any, Path], None]


def to_litert(model: Any, batch: Any, out: Path) -> None:
    import litert_torch

    litert_torch.convert(model, (batch,)).export(str(out))


def to_onnx(model: Any, batch: Any, out: Path) -> None:
    import torch

    torch.onnx.export(model, (batch,), out, dynamo=True, verbose=False, external_data=False)


def to_openvino(model: Any, batch: Any, out: Path) -> None:
    import openvino

    os.environ["CI"] = "true"  # elsewhere it sends records of its use
    found = openvino.convert_model(model, example_input=batch, input=[tuple(batch.shape)])
    for tensor, name in ((found.input(), "given"), (found.output(), "features")):
        tensor.get_tensor().set_names({name})
    openvino.save_model(found, str(out), compress_to_fp16=False)


EXPORTS: dict[str, Export] = {"litert": to_litert, "onnx": to_onnx, "openvino": to_openvino}


def main(runtime: str, folder: Path, tower: str, batch: int, out: Path) -> None:
    """Writes one file, for one number of rows."""
    import torch

    given = torch_inputs(tower, np.load(folder / f"{tower}.npy")[:batch])
    if runtime == "litert" and tower == "text":
        given = given.to(torch.int32)  # as phones have it
    with torch.inference_mode():
        EXPORTS[runtime](folded(reference(folder, tower, "float32")).eval(), given, out)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), Path(sys.argv[5]))
