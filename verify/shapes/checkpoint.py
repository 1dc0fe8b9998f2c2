"""The checkpoint in this package: Apple's layout, but for the embedding, which holds the rows of known words alone.

The whole checkpoint, as PyTorch wants it:

    python -m mobileclip_keras.verify.shapes.checkpoint mobileclip_shapes.safetensors
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from .vocabulary import Vocabulary

PACKED = Path(__file__).parent / "mobileclip_shapes.safetensors"
REPORT = PACKED.with_suffix(".json")
"""How the checkpoint was made, and how well it does."""
EMBEDDING, IDS = "text_encoder.embedding_layer.weight", "vocabulary.ids"


def pack(tensors: Mapping[str, np.ndarray], ids: np.ndarray) -> dict[str, np.ndarray]:
    """A checkpoint of a small embedding, with the ids that its rows belong to: row i + 1 is that of `ids[i]`."""
    return {**tensors, IDS: np.asarray(ids, np.int64)}


def unpack(packed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The whole checkpoint: the tensors of Apple's layout, the embedding with a row for each of the tokenizer's ids.

    Ids without a row of their own get row 0, which training gave to unknown words.
    """
    tensors = {name: array for name, array in packed.items() if name != IDS}
    return {**tensors, EMBEDDING: Vocabulary(packed[IDS]).embedding(packed[EMBEDDING])}


def read_checkpoint(path: Path = PACKED) -> dict[str, np.ndarray]:
    """The tensors of the checkpoint in this package, whole, by Apple's names."""
    from safetensors.numpy import load_file

    return unpack(load_file(path))


def write_checkpoint(path: Path, packed: Path = PACKED) -> None:
    """Writes the checkpoint in this package as a whole .safetensors file, which any code for Apple's layout reads."""
    from safetensors.numpy import save_file

    save_file(read_checkpoint(packed), path)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=write_checkpoint.__doc__)
    parser.add_argument("path", type=Path)
    write_checkpoint(parser.parse_args().path)


if __name__ == "__main__":
    main()
