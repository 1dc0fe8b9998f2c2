"""Programs of TorchScript: their parameters are read, and nothing in them is run."""

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mobileclip_keras.converters.checkpoints.checkpoint import open_checkpoint
from mobileclip_keras.converters.checkpoints.formats.tensor_file import CheckpointError

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore::DeprecationWarning")


class Network(nn.Module):
    """Every kind of tensor, shared ones and views among them."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.parts = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2).bfloat16())
        self.small = nn.Parameter(torch.arange(6.0).half().reshape(2, 3).t())
        self.same = self.linear
        self.register_buffer("mask", torch.ones(2, 2, dtype=torch.bool).triu(1))
        self.sizes = [1, 2]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.parts[0](self.linear(x))


def program(path: Path, how: str) -> nn.Module:
    network = Network().eval()
    made = torch.jit.script(network) if how == "script" else torch.jit.trace(network, torch.ones(5, 3))
    if how == "frozen":
        made = torch.jit.freeze(made)
    torch.jit.save(made, path)
    return network


@pytest.mark.parametrize("how", ["script", "trace"])
def test_parameters_are_read_as_state_dict_names_them(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = program(tmp_path / "a.ts", how).state_dict()
    for loader in ("load", "script", "trace"):
        monkeypatch.setattr(torch.jit, loader, None)
    checkpoint = open_checkpoint(tmp_path / "a.ts")
    assert checkpoint.notes == ["a TorchScript program, of which only the parameters are read"]
    assert expected.keys() - checkpoint.shapes.keys() <= {"same.weight", "same.bias"}  # trace names shared ones once
    assert checkpoint.shapes.keys() <= expected.keys()
    for name in checkpoint.shapes:
        tensor = expected[name]
        read = checkpoint.read(name)
        assert checkpoint.dtypes[name] == str(tensor.dtype).removeprefix("torch.")
        np.testing.assert_array_equal(read, (tensor.float() if tensor.is_floating_point() else tensor).numpy())


def test_a_frozen_program_has_no_names(tmp_path: Path) -> None:
    program(tmp_path / "a.ts", "frozen")
    with pytest.raises(CheckpointError, match=r"without parameters under names, as torch.jit.freeze makes them"):
        open_checkpoint(tmp_path / "a.ts")


class Runs:
    """Unpickles by making a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        import os

        return os.mkdir, (str(self.mark),)


def archive(path: Path, pickled: bytes, **files: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("a/constants.pkl", b"\x80\x02).")
        made.writestr("a/data.pkl", pickled)
        for name, content in files.items():
            made.writestr(f"a/data/{name}", content)
    return path


def test_nothing_in_it_is_run(tmp_path: Path) -> None:
    pickled = pickle.dumps(Runs(tmp_path / "mark"), protocol=2)
    with pytest.raises(CheckpointError, match="TorchScript program"):
        open_checkpoint(archive(tmp_path / "a.ts", pickled))
    assert not (tmp_path / "mark").exists()
    pickle.loads(pickled)
    assert (tmp_path / "mark").exists()


def test_damaged_ones_end_in_a_message_or_in_other_numbers(tmp_path: Path) -> None:
    program(tmp_path / "a.ts", "script")
    whole = (tmp_path / "a.ts").read_bytes()
    start = whole.index(b"data.pkl")
    chance = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        changed = bytearray(whole)
        changed[start + int(chance.integers(0, 2500))] ^= 1 << int(chance.integers(8))
        (tmp_path / "b.ts").write_bytes(changed)
        try:
            checkpoint = open_checkpoint(tmp_path / "b.ts")
            for name in checkpoint.shapes:
                checkpoint.read(name)
        except CheckpointError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 10


def test_sizes_that_the_file_does_not_hold(tmp_path: Path) -> None:
    program(tmp_path / "a.ts", "script")
    with zipfile.ZipFile(tmp_path / "a.ts") as source:
        pickled = source.read("a/data.pkl")
        files = {name.rpartition("/")[2]: source.read(name) for name in source.namelist() if "a/data/" in name}
    absurd = pickled.replace(b"K\x02K\x03t", b"K\x02K\xfft", 1)  # the shape (2, 3)
    assert absurd != pickled
    with pytest.raises(CheckpointError, match=r"whose tensor linear.weight cannot be read"):
        open_checkpoint(archive(tmp_path / "b.ts", absurd, **files))
    index = b"\x80\x02)r\xff\xff\xff\x7f."  # puts an object at the index 2**31 - 1
    with pytest.raises(CheckpointError, match="whose parameters cannot be read"):
        open_checkpoint(archive(tmp_path / "c.ts", index))
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("a/constants.pkl", b"\x80\x02).")
        made.writestr("a/data.pkl", b"\x80\x02" + b"N0" * (40 * 2**20) + b"N.")
    (tmp_path / "d.ts").write_bytes(bomb.getvalue())
    with pytest.raises(CheckpointError, match="whose parameters cannot be read"):
        open_checkpoint(tmp_path / "d.ts")
