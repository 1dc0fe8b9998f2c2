"""Files damaged by chance or on purpose, from a seed: JSON, HDF5, PyTorch's files, safetensors, features."""

import io
import json
import os
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from safetensors.torch import save as safetensors_bytes

from .test_strangers_weights import BAD, dataset_of

Chance = random.Random
EVIL = "a\x1b[31m\n\u202eb" * 3
ABSURD: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1,
    10**9,
    10**18,
    -(10**18),
    1e-320,
    1e300,
    0.5,
    "",
    "a",
    "a" * 5000,
    EVIL,
    [],
    [[]],
    {},
    {"a": {}},
    [0] * 1000,
    ["a"],
    [None],
    "../../etc/passwd",
    "train",
    "mobileclip_s2",
    "float16",
    "int8",
    {"class_name": "Lambda"},
    {"module": "os", "class_name": "system", "config": {"command": "true"}, "registered_name": None},
    {"module": "keras.layers", "class_name": "Dense", "config": {"units": 10**9}, "registered_name": None},
)
RAW = (
    "NaN",
    "1e999",
    "-Infinity",
    "9" * 5000,
    "[" * 50_000,
    '{"a":' * 3000 + "1" + "}" * 3000,
    '"\\ud800"',
    "tru",
    "1 2",
)


def places(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where the values of a JSON text stand; of long lists only the first."""
    found = [path]
    items = list(content.items()) if isinstance(content, dict) else list(enumerate(content))
    for key, value in items[:40]:
        found += places(value, (*path, key)) if isinstance(value, dict | list) else [(*path, key)]
    return found


def mutate_json(chance: Chance, path: Path) -> str:
    content = json.loads(path.read_text())
    place = chance.choice(places(content))
    mark = "@@mark@@"
    holder = content
    for key in place[:-1]:
        holder = holder[key]
    way = chance.choice(("absurd", "absurd", "absurd", "raw", "without", "twice", "bytes"))
    if way == "bytes" or not place:
        return flip(chance, path)
    if way == "without":
        del holder[place[-1]]
        path.write_text(json.dumps(content))
    elif way == "twice":
        path.write_text(json.dumps(content).replace("{", '{"config": 1, "config": {}, ', 1))
    else:
        value = chance.choice(ABSURD)
        holder[place[-1]] = mark if way == "raw" else value
        path.write_text(json.dumps(content).replace(f'"{mark}"', chance.choice(RAW)))
    return f"{path.name} {way} {place}"


def flip(chance: Chance, path: Path) -> str:
    """Bits turned over, bytes cut off, or a part written twice."""
    content = bytearray(path.read_bytes())
    way = chance.choice(("start", "anywhere", "cut", "twice", "zeros", "empty"))
    size = max(len(content), 1)
    if way in ("start", "anywhere") and content:
        for _ in range(chance.choice((1, 1, 3, 30))):
            content[chance.randrange(min(size, 2000) if way == "start" else size)] ^= 1 << chance.randrange(8)
    elif way == "cut":
        del content[chance.randrange(size) :]
    elif way == "twice":
        at = chance.randrange(size)
        content[at:at] = content[at : at + chance.randrange(1, 4000)]
    elif way == "zeros":
        at = chance.randrange(size)
        content[at : at + 64] = bytes(len(content[at : at + 64]))
    else:
        content.clear()
    path.write_bytes(content)
    return f"{path.name} {way}"


def mutate_hdf5(chance: Chance, path: Path) -> str:
    if chance.random() < 0.5:
        return flip(chance, path)
    name = chance.choice(list(BAD))
    secret = path.parent / "secret"
    secret.write_bytes(b"root:x:" * 10_000)
    with h5py.File(path, "r+") as file:
        BAD[name][0](file, dataset_of(file), secret)
    return f"{path.name} {name}"


def mutate_place(chance: Chance, path: Path) -> str:
    way = chance.choice(("pipe", "link", "missing", "folder", "device"))
    path.unlink()
    if way == "pipe":
        os.mkfifo(path)
    elif way == "link":
        path.symlink_to("/etc/passwd")
    elif way == "folder":
        path.mkdir()
    elif way == "device":
        path.symlink_to("/dev/zero")
    return f"{path.name} {way}"


def mutated_folder(seed: int, original: Path, target: Path) -> str:
    """Copies a converted folder, and damages one to three of its files. Says what was done."""
    chance = Chance(seed)
    shutil.copytree(original, target)
    said = []
    for _ in range(chance.choice((1, 1, 2, 3))):
        path = chance.choice(sorted(path for path in target.rglob("*") if path.is_file() and not path.is_symlink()))
        if chance.random() < 0.1:
            said.append(mutate_place(chance, path))
        elif path.suffix == ".json" and path.stat().st_size:
            try:
                said.append(mutate_json(chance, path))
            except ValueError:  # damaged already
                said.append(flip(chance, path))
        elif path.suffix == ".h5":
            try:
                said.append(mutate_hdf5(chance, path))
            except (OSError, KeyError, StopIteration, RuntimeError, ValueError):
                said.append(flip(chance, path))
        else:
            said.append(flip(chance, path))
    return ", ".join(said)


class Runs:
    """Unpickles by making a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def holds_itself() -> dict[str, Any]:
    made: dict[str, Any] = {}
    made["state_dict"] = made
    return made


def deep(depth: int) -> Any:
    made: Any = {}
    for _ in range(depth):
        made = {"state_dict": made}
    return made


Tensors = dict[Any, Any]


def strange_entries(mark: Path) -> tuple[tuple[Any, Callable[[torch.Tensor], Any]], ...]:
    """Names and values that training code does not write: None for a name that is there."""
    return (
        (None, lambda t: t.double()),
        (None, lambda t: t.half()),
        (None, lambda t: t.to(torch.complex64)),
        (None, lambda t: t * torch.nan),
        (None, lambda t: t.flatten()),
        (None, lambda t: t[None]),
        (None, lambda t: torch.empty(0)),
        (None, lambda t: t.to_sparse() if t.ndim else t),
        (None, lambda t: 3),
        (None, lambda t: t.to("meta")),
        (None, lambda t: t.to(torch.float8_e4m3fn)),
        (None, lambda t: t.bool()),
        (None, lambda t: torch.zeros(()).expand(10**6, 10**6)),
        (None, lambda t: torch.zeros(()).expand(t.shape)),
        (None, lambda t: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])),
        (None, lambda t: Runs(mark)),
        (None, lambda t: torch.quantize_per_tensor(t.float(), 0.1, 0, torch.qint8)),
        (None, lambda t: [t] * 100),
        (EVIL, lambda t: t),
        ("a" * 5000, lambda t: t),
        (10**5000, lambda t: t),
        ((1, 2), lambda t: t),
        ("", lambda t: t),
        ("state_dict", lambda t: deep(3)),
        ("state_dict", lambda t: deep(400)),
        ("state_dict", lambda t: holds_itself()),
        ("model", lambda t: {}),
        ("epoch", lambda t: Runs(mark)),
        ("args", lambda t: bytearray(1000)),
        ("layers.0.0.0.0.0.0.0.0.0.0", lambda t: t),
        ("numbers", lambda t: list(range(20_000))),
    )


def mutated_checkpoint(seed: int, tensors: dict[str, np.ndarray], folder: Path, mark: Path) -> tuple[Path, str]:
    """A file of a checkpoint's tensors, damaged."""
    chance = Chance(seed)
    content: Tensors = {name: torch.from_numpy(np.array(array)) for name, array in tensors.items()}
    said = []
    kind = chance.choice(("zip.pt", "legacy.pt", "a.safetensors"))
    if chance.random() < 0.6:
        for _ in range(chance.choice((1, 1, 5))):
            index = chance.randrange(len(strange_entries(mark)))
            name, change = strange_entries(mark)[index]
            known = chance.choice(list(tensors))
            try:
                content[known if name is None else name] = change(content[known])
            except (RuntimeError, AttributeError, TypeError, NotImplementedError):  # of an entry changed before
                continue
            said.append(f"entry {index}")
    if chance.random() < 0.2:
        content = {chance.choice(("model", "state_dict", "x")): content, "note": "a"}
        said.append("nested")
    for _ in range(chance.choice((0, 0, 1, 20))):
        content.pop(chance.choice(list(content)), None) if len(content) > 1 else None
    path = folder / kind
    path.write_bytes(_written(content, kind))
    if not said or chance.random() < 0.4:
        said.append(flip(chance, path))
    return path, f"{kind} {', '.join(said)}"


def _written(content: Tensors, kind: str) -> bytes:
    if kind.endswith(".safetensors"):
        plain = {
            name: value.contiguous().clone()
            for name, value in content.items()
            if isinstance(name, str) and type(value) is torch.Tensor and _is_stored(value)
        }
        return safetensors_bytes(plain)
    buffer = io.BytesIO()
    try:
        torch.save(content, buffer, _use_new_zipfile_serialization=kind == "zip.pt")
    # Some strange entries cannot be saved. Then the file is a pickle that breaks off.
    except (RecursionError, RuntimeError, NotImplementedError, pickle.PicklingError, AttributeError):
        buffer = io.BytesIO(b"\x80\x02}")
    return buffer.getvalue()


def _is_stored(tensor: torch.Tensor) -> bool:
    plain = tensor.layout == torch.strided and not tensor.is_meta and not tensor.is_nested and not tensor.is_quantized
    return plain and tensor.dtype != torch.complex64 and tensor.numel() < 10**7
