"""Files that are no checkpoints, or were one: one clear message, and nothing that they hold is run."""

import io
import os
import pickle
import random
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save as save_bytes

from mobileclip_keras.converters.checkpoints.checkpoint import open_checkpoint
from mobileclip_keras.converters.checkpoints.formats.tensor_file import CheckpointError
from mobileclip_keras.keras_models.errors import MobileClipError

TENSORS = {f"layers.{i}.weight": torch.full((40, 3), float(i)) for i in range(6)} | {"logit_scale": torch.tensor(4.5)}


def torch_bytes(content: Any, **options) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def zip_bytes(**entries: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in entries.items():
            archive.writestr(name, text)
    return buffer.getvalue()


def npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.ones(3))
    return buffer.getvalue()


def holds_itself() -> dict:
    made = {"a": torch.ones(3)}
    made["state_dict"] = made
    return made


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 215871234\n"
BAD = {
    "empty": (b"", "is empty"),
    "lfs": (LFS, "is a Git LFS pointer, not the file itself"),
    "html": (b"\n<!DOCTYPE html><html><body>404</body></html>", "is a web page"),
    "text": (b"Entry not found", "is not a PyTorch checkpoint, or is damaged"),
    "noise": (random.Random(0).randbytes(4000), "is not a PyTorch checkpoint, or is damaged"),
    "npz": (npz(), r"is a zip archive, but not of torch.save \(it holds a.npy\)"),
    "zip": (zip_bytes(readme="hello"), r"is a zip archive, but not of torch.save \(it holds readme\)"),
    "empty zip": (zip_bytes(), r"is a zip archive, but not of torch.save \(it holds nothing\)"),
    "numbers": (pickle.dumps({"a": np.ones(3)}), "is not a PyTorch checkpoint, or is damaged"),
    "list": (torch_bytes([torch.ones(3)]), "holds a list, not named tensors"),
    "tensor": (torch_bytes(torch.ones(3)), "holds a Tensor, not named tensors"),
    "no tensors": (torch_bytes({"epoch": 3}), "holds no tensors"),
    "empty dict": (torch_bytes({}), "holds no tensors"),
    "nested list": (torch_bytes({"model": {"state_dict": {"x": 1}}}), "holds no tensors"),
    "module": (torch_bytes(torch.nn.Linear(2, 2)), r"is refused.*torch.nn.modules.linear.Linear"),
    "legacy module": (
        torch_bytes(torch.nn.Linear(2, 2), _use_new_zipfile_serialization=False),
        "is refused.*Linear",
    ),
    "numpy inside": (torch_bytes({"a": np.ones(3)}), "is refused.*numpy"),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize("suffix", [".pt", ".bin"])
def test_what_it_is_not(tmp_path: Path, what: Any, suffix: str) -> None:
    content, match = BAD[what]
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=match) as error:
        open_checkpoint(path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_a_dict_that_holds_itself(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(torch_bytes(holds_itself()))
    assert open_checkpoint(tmp_path / "a.pt").shapes == {"a": (3,)}


SAFE_BAD = {
    "empty": (b"", "is empty"),
    "lfs": (LFS, "is a Git LFS pointer"),
    "noise": (random.Random(0).randbytes(4000), "is not a whole safetensors file"),
    "short": (b"\x01\x02", "is not a whole safetensors file"),
    "huge header": (struct.pack("<Q", 2**62) + b"{" + b" " * 100, "is not a whole safetensors file"),
    "large header": (struct.pack("<Q", 90_000_000) + b"{" + b" " * 100, "is not a whole safetensors file"),
    "no json": (struct.pack("<Q", 8) + b"{" + b"x" * 100, "is not a whole safetensors file"),
    "overlong": (save_bytes(TENSORS) + b"more", "is not a whole safetensors file"),
}


@pytest.mark.parametrize("what", SAFE_BAD)
def test_what_is_no_safetensors_file(tmp_path: Path, what: Any) -> None:
    content, match = SAFE_BAD[what]
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=match):
        open_checkpoint(path)


class Runs:
    """Unpickles by running a command."""

    def __init__(self, call: Any, *arguments):
        self.call = call, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
@pytest.mark.parametrize("call", [os.system, eval, exec, os.mkdir])
def test_nothing_in_a_file_is_run(tmp_path: Path, form: str, call: Any) -> None:
    mark = tmp_path / "mark"
    argument = {os.system: f"touch {mark}", os.mkdir: str(mark)}.get(call, f"__import__('os').mkdir({str(mark)!r})")
    content = {"logit_scale": torch.ones(()), "other": Runs(call, argument)}
    path = tmp_path / "a.pt"
    if form == "pickle":
        path.write_bytes(pickle.dumps({"other": Runs(call, argument)}, protocol=2))
    else:
        path.write_bytes(torch_bytes(content, _use_new_zipfile_serialization=form == "zip"))
    with pytest.raises(CheckpointError, match=r"is refused: to load it, Python code that it names would have to run"):
        open_checkpoint(path)
    assert not mark.exists()
    with open(path, "rb") as file:  # the file is as malicious as it is meant to be
        if form == "pickle":
            pickle.load(file)
        else:
            torch.load(file, weights_only=False)
    assert mark.exists()


def opened_and_read(path: Path) -> dict | str:
    """Everything in a file, or the message."""
    try:
        checkpoint = open_checkpoint(path)
        return {name: checkpoint.read(name) for name in checkpoint.shapes}
    except MobileClipError as error:
        assert str(error) and "Traceback" not in str(error)
        return str(error)


WHOLE = {
    "zip.pt": torch_bytes(TENSORS),
    "legacy.pt": torch_bytes(TENSORS, _use_new_zipfile_serialization=False),
    "a.safetensors": save_bytes(TENSORS),
}


@pytest.mark.parametrize("name", WHOLE)
def test_cut_short_anywhere(tmp_path: Path, name: str) -> None:
    whole = WHOLE[name]
    chance = random.Random(1)
    for length in [*range(1, 64), *(chance.randrange(64, len(whole)) for _ in range(120)), len(whole) - 1]:
        (tmp_path / name).write_bytes(whole[:length])
        assert isinstance(opened_and_read(tmp_path / name), str), length


def test_a_cut_archive_is_called_so(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(WHOLE["zip.pt"][:2000])
    with pytest.raises(CheckpointError, match=r"is cut short. Download it again"):
        open_checkpoint(tmp_path / "a.pt")


@pytest.mark.parametrize("name", WHOLE)
def test_flipped_bits_end_in_a_message_or_in_other_numbers(tmp_path: Path, name: str) -> None:
    whole = WHOLE[name]
    chance = random.Random(2)
    messages = 0
    for _ in range(250):
        damaged = bytearray(whole)
        for _ in range(chance.choice((1, 1, 20))):
            damaged[chance.randrange(min(len(whole), 1500))] ^= 1 << chance.randrange(8)
        (tmp_path / name).write_bytes(damaged)
        messages += isinstance(opened_and_read(tmp_path / name), str)
    assert messages > 20


def test_places_that_hold_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path, match in {
        tmp_path / "missing.pt": "There is no file",
        tmp_path: "is a folder. Give a checkpoint file",
        tmp_path / ("x" * 300 + ".pt"): "File name too long",
        "/dev/null": "is not a file",
    }.items():
        with pytest.raises(CheckpointError, match=match):
            open_checkpoint(path)
    path = tmp_path / "a.pt"
    path.write_bytes(WHOLE["zip.pt"])

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(CheckpointError, match="may not be read by this user"):
        open_checkpoint(path)


def test_tensors_that_numpy_has_no_type_for(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"sparse": torch.eye(3).to_sparse(), "dense": torch.ones(2)}, path)
    checkpoint = open_checkpoint(path)
    with pytest.raises(CheckpointError, match="sparse cannot be read"):
        checkpoint.read("sparse")
    (tmp_path / "a.safetensors").write_bytes(save_bytes({"a": torch.ones(3).to(torch.float8_e4m3fn)}))
    with pytest.raises(CheckpointError, match="a cannot be read"):
        open_checkpoint(tmp_path / "a.safetensors").read("a")
