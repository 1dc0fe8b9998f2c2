"""What a bundle, and each file itself, says of a file: its inputs and outputs, in words and in numbers."""

from pathlib import Path
from typing import Any

from ..request import Request
from ..runtimes.lint import WHERE, lint
from ..runtimes.parts import Part, Shape
from ..runtimes.saved_model import SIGNATURE, signature_name

MEANINGS = {
    "image": 'A picture, preprocessed as "images" says.',
    "pixels": "RGB from 0 to 255, upright, not resized.",
    "tokens": 'Ids as "texts" says.',
    "embeddings": "What text_lookup gives: each id's embedding, its position's added.",
    "end": "What text_lookup gives: 1 where the text ends, else 0.",
    "image_features": "The picture's features, of length 1.",
    "text_features": "The text's features, of length 1.",
}


def metadata(part: Part) -> dict[str, str]:
    """What a file says of its inputs and outputs."""
    both = {"input": part.inputs, "output": part.outputs}
    return {
        f"{kind}.{name}": f"{dtype} (batch, {', '.join('any' if size is None else str(size) for size in shape)})"
        for kind, tensors in both.items()
        for name, (shape, dtype) in tensors.items()
    }


def part_facts(part: Part, request: Request, path: Path) -> dict[str, Any]:
    """What bundle.json says of a file.

    Args:
        part: that it holds.
        request: that it was made by.
        path: of the file.
    """
    signatures: dict[str, Any] = {signature_name(batch, request.batches): batch for batch in request.batches}
    found: dict[str, Any] = {
        "file": path.name,
        "signatures": signatures or {SIGNATURE: "any"},
        "inputs": {name: _tensor(name, shape, dtype) for name, (shape, dtype) in part.inputs.items()},
        "outputs": {name: _tensor(name, shape, dtype) for name, (shape, dtype) in part.outputs.items()},
    }
    where = WHERE.get(request.runtime)
    if where is not None:
        operations = request.how.code.operations(path)
        found[f"not_for_{where}"] = [finding.to_json() for finding in lint(operations, where)]
    return found


def _tensor(name: str, shape: Shape, dtype: str) -> dict[str, Any]:
    sizes = ["any" if size is None else size for size in shape]
    return {"shape": ["batch", *sizes], "dtype": dtype, "meaning": MEANINGS[name]}
