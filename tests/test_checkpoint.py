"""Opening checkpoint files: every container, wrapper and dtype gives the same names, shapes and numbers."""

import hashlib
import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import torch
from safetensors.torch import save_file

from mobileclip_keras.converters.checkpoints.checkpoint import Checkpoint, open_checkpoint, sha256
from mobileclip_keras.converters.checkpoints.formats import safetensors_file, torch_file
from mobileclip_keras.converters.checkpoints.formats.tensor_file import CheckpointError
from tests.converter_support import python

GENERATOR = np.random.default_rng(0)
ARRAYS = {
    "image_encoder.weight": GENERATOR.normal(size=(5, 3, 2, 2)).astype(np.float32),
    "image_encoder.bias": GENERATOR.normal(size=7).astype(np.float32),
    "image_encoder.num_batches_tracked": np.array(1000, np.int64),
    "logit_scale": np.array(4.5, np.float32),
}


def tensors(dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:
    made = {name: torch.from_numpy(array.copy()) for name, array in ARRAYS.items()}
    return {name: t.to(dtype) if dtype and t.is_floating_point() else t for name, t in made.items()}


def assert_holds(checkpoint: Checkpoint, expected: Any = ARRAYS) -> None:
    assert checkpoint.shapes == {name: array.shape for name, array in expected.items()}
    for name, array in expected.items():
        read = checkpoint.read(name)
        assert read.dtype == array.dtype and read.shape == array.shape
        np.testing.assert_array_equal(read, array)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt", ""])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_torch_save(tmp_path: Path, suffix: str, zipped: bool) -> None:
    path = tmp_path / f"weights{suffix}"
    torch.save(tensors(), path, _use_new_zipfile_serialization=zipped)
    checkpoint = open_checkpoint(str(path))
    assert_holds(checkpoint)
    assert checkpoint.notes == [] and checkpoint.files == (path,)
    assert checkpoint.bytes == path.stat().st_size
    assert sha256(checkpoint.files) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_safetensors_under_any_name(tmp_path: Path) -> None:
    for name in ("weights.safetensors", "weights.pt", "weights"):
        save_file(tensors(), tmp_path / name)
        assert_holds(open_checkpoint(tmp_path / name))


def test_torch_save_under_the_name_of_safetensors(tmp_path: Path) -> None:
    for zipped in (True, False):
        torch.save(tensors(), tmp_path / "a.safetensors", _use_new_zipfile_serialization=zipped)
        assert_holds(open_checkpoint(tmp_path / "a.safetensors"))


def test_safetensors_need_no_pytorch(tmp_path: Path) -> None:
    save_file({"a": torch.tensor([1.5, -2.0], dtype=torch.bfloat16)}, tmp_path / "a.safetensors")
    torch.save({"a": torch.ones(2)}, tmp_path / "a.pt")
    code = (
        "import sys\n"
        "from mobileclip_keras.converters.checkpoints.checkpoint import open_checkpoint\n"
        "print(open_checkpoint('a.safetensors').read('a').tolist(), 'torch' in sys.modules)\n"
        "try: open_checkpoint('a.pt')\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    done = python(code, missing=("torch",), cwd=tmp_path)
    assert done.stdout.splitlines() == [
        "[1.5, -2.0] False",
        'MissingPackageError Reading a.pt needs PyTorch: pip install "mobileclip-keras[convert]". '
        "A .safetensors file of the same weights does not.",
    ], done.stderr


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_dtypes_are_named_and_keep_their_values(tmp_path: Path, suffix: str, dtype: str) -> None:
    path = tmp_path / f"half{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(tensors(getattr(torch, dtype)), path)
    checkpoint = open_checkpoint(path)
    wide = np.float64 if dtype == "float64" else np.float32
    small = getattr(np, dtype) if dtype != "bfloat16" else ml_dtypes.bfloat16
    expected = {
        name: array.astype(small).astype(wide) if array.dtype.kind == "f" else array for name, array in ARRAYS.items()
    }
    assert_holds(checkpoint, expected)
    assert checkpoint.dtypes["image_encoder.weight"] == dtype
    assert checkpoint.dtypes["image_encoder.num_batches_tracked"] == "int64"


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_every_half_precision_number_is_read_exactly(tmp_path: Path, suffix: str) -> None:
    bits = np.arange(2**16, dtype=np.uint16)
    for dtype, small in ((torch.float16, np.float16), (torch.bfloat16, ml_dtypes.bfloat16)):
        tensor = torch.from_numpy(bits.copy()).view(dtype)
        (save_file if suffix == ".safetensors" else torch.save)({"a": tensor}, tmp_path / f"a{suffix}")
        with np.errstate(invalid="ignore"):
            np.testing.assert_array_equal(
                open_checkpoint(tmp_path / f"a{suffix}").read("a"), bits.view(small).astype(np.float32)
            )


WRAPPERS = {
    "state_dict": lambda t: {
        "state_dict": t,
        "epoch": 7,
        "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}},
    },
    "model": lambda t: {"model": t, "optimizer": {}, "args": {"lr": 0.1}},
    "module.": lambda t: {f"module.{name}": value for name, value in t.items()},
    "compiled": lambda t: {f"_orig_mod.module.{name}": value for name, value in t.items()},
    "both": lambda t: {"state_dict": {f"module.{name}": value for name, value in t.items()}, "epoch": 1},
    "nested twice": lambda t: {"model": {"state_dict": t}},
    "ordered": OrderedDict,
    "parameters": lambda t: {
        name: torch.nn.Parameter(value) if value.is_floating_point() else value for name, value in t.items()
    },
    "others": lambda t: {**t, "epoch": 3, "name": "a", "lr": 1e-3, "nothing": None},
    "vector": lambda t: {**t, "logit_scale": t["logit_scale"].reshape(1)},
    "transposed": lambda t: {
        **t,
        "image_encoder.weight": t["image_encoder.weight"].permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
    },
    "shared": lambda t: {**t, "image_encoder.bias": torch.cat([torch.zeros(3), t["image_encoder.bias"]])[3:]},
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrappers_are_taken_off(tmp_path: Path, wrapper: Any) -> None:
    torch.save(WRAPPERS[wrapper](tensors()), tmp_path / "a.pt")
    assert_holds(open_checkpoint(tmp_path / "a.pt"))


def test_wrappers_are_told(tmp_path: Path) -> None:
    torch.save(WRAPPERS["both"](tensors()), tmp_path / "a.pt")
    assert open_checkpoint(tmp_path / "a.pt").notes == [
        'weights under "state_dict", beside epoch',
        'every name begins with "module."',
    ]
    torch.save(WRAPPERS["others"](tensors()), tmp_path / "a.pt")
    assert open_checkpoint(tmp_path / "a.pt").notes == [
        "entries that are no tensors, passed over: epoch, name, lr, nothing"
    ]
    torch.save(WRAPPERS["vector"](tensors()), tmp_path / "a.pt")
    assert open_checkpoint(tmp_path / "a.pt").notes == ["logit_scale is a vector of one number, taken as a scalar"]


def test_a_prefix_that_not_every_name_has_stays(tmp_path: Path) -> None:
    """Taken off, two names would become one."""
    both = {"module.a": torch.ones(2), "a": torch.zeros(2)}
    torch.save(both, tmp_path / "a.pt")
    assert set(open_checkpoint(tmp_path / "a.pt").shapes) == set(both)
    torch.save({"module.module.a": torch.ones(2), "module.a": torch.zeros(2)}, tmp_path / "a.pt")
    assert set(open_checkpoint(tmp_path / "a.pt").shapes) == {"module.a", "a"}


def test_names_that_are_no_texts_are_passed_over(tmp_path: Path) -> None:
    torch.save({1: torch.ones(2), "1": torch.zeros(3)}, tmp_path / "a.pt")
    assert open_checkpoint(tmp_path / "a.pt").shapes == {"1": (3,)}


def sharded(folder: Path, names: Any = ("one.safetensors", "two.safetensors")) -> Any:
    made = tensors()
    order = list(made)
    save_file({name: made[name] for name in order[:2]}, folder / names[0])
    save_file({name: made[name] for name in order[2:]}, folder / names[1])
    weight_map = {name: names[index // 2] for index, name in enumerate(order)}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return index, weight_map


def test_sharded_safetensors(tmp_path: Path) -> None:
    index, _ = sharded(tmp_path)
    shards = [tmp_path / "one.safetensors", tmp_path / "two.safetensors"]
    for path in (index, tmp_path):
        checkpoint = open_checkpoint(path)
        assert_holds(checkpoint)
        assert checkpoint.notes == ["sharded over 2 files"]
        assert checkpoint.bytes == sum(shard.stat().st_size for shard in shards)
    whole = shards[0].read_bytes() + shards[1].read_bytes()
    assert sha256(checkpoint.files) == hashlib.sha256(whole).hexdigest()


def test_sharded_safetensors_that_do_not_fit_together(tmp_path: Path) -> None:
    index, weight_map = sharded(tmp_path)

    def refused(weight_map: Any, match: Any):
        index.write_text(json.dumps({"weight_map": weight_map}))
        with pytest.raises(CheckpointError, match=match):
            open_checkpoint(index)

    refused({**weight_map, "extra": "one.safetensors"}, "do not agree where these tensors are: extra")
    refused(
        {**weight_map, "extra": "three.safetensors"},
        "names the shard three.safetensors, which is not beside it",
    )
    refused({**weight_map, "extra": "../one.safetensors"}, "names the shard ../one.safetensors, which is outside its")
    refused(
        {**weight_map, "a": "../x", "b": "/y", "c": "three.bin", "d": ".."},
        "names the shards .., ../x, /y, which are outside its folder and the shard three.bin, which is not beside it",
    )
    first = next(iter(weight_map))
    refused({**weight_map, first: "two.safetensors"}, f"do not agree where these tensors are: {first}")
    refused({**weight_map, "extra": 3}, "is not the index")
    refused({}, "names no shards")
    refused([1], "is not the index")
    index.write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match="is not the index"):
        open_checkpoint(index)
    save_file(tensors(), tmp_path / "two.safetensors")
    refused(weight_map, "hold a tensor of the same name")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_what_was_read_is_still_there_and_reads_the_same(tmp_path: Path, suffix: str) -> None:
    (save_file if suffix == ".safetensors" else torch.save)(tensors(), tmp_path / f"a{suffix}")
    checkpoint = open_checkpoint(tmp_path / f"a{suffix}")
    first = {name: checkpoint.read(name) for name in ARRAYS}
    assert_holds(checkpoint)
    for name, array in first.items():  # what was read earlier is still there
        np.testing.assert_array_equal(array, ARRAYS[name])
    checkpoint.close()
    with pytest.raises(ValueError, match="closed"):
        checkpoint.read("logit_scale")


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the system does not say what is mapped where")
def test_memory_of_a_mapped_file_is_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large = {name: torch.arange(i, i + 2**20, dtype=torch.float32) for i, name in enumerate("abc")}
    torch.save(large, tmp_path / "a.pt")
    given = []
    original = torch_file._give_back
    monkeypatch.setattr(torch_file, "_give_back", lambda *what: given.append(what) or original(*what))
    before, checkpoint = open_checkpoint(tmp_path / "a.pt"), open_checkpoint(tmp_path / "a.pt")
    read = {name: checkpoint.read(name) for name in "abca"}
    np.testing.assert_array_equal(before.read("a"), read["a"])
    assert len(given) == 3
    assert all(any(tensor.data_ptr() in place for place in mapped) for tensor, mapped in given)
    for name, array in read.items():
        np.testing.assert_array_equal(array, large[name].numpy())
    mine = torch.ones(2**20)  # memory that no file is behind is left alone
    original(mine, given[0][1])
    assert bool((mine == 1).all())


def test_memory_of_a_safetensors_file_is_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large = {name: np.arange(i, i + 2**20, dtype=np.float32) for i, name in enumerate("abc")}
    safetensors.numpy.save_file({**large, "none": np.zeros((0, 4), np.float32)}, tmp_path / "a.safetensors")
    given = []
    original = safetensors_file._give_back
    monkeypatch.setattr(safetensors_file, "_give_back", lambda *what: given.append(what[1:]) or original(*what))
    checkpoint = open_checkpoint(tmp_path / "a.safetensors")
    read = {name: checkpoint.read(name) for name in "abca"}
    assert checkpoint.read("none").shape == (0, 4)
    assert [end - start for start, end in given] == [2**22] * 4
    for name, array in read.items():  # still there
        np.testing.assert_array_equal(array, large[name])
    read["a"][0] = 1
    np.testing.assert_array_equal(open_checkpoint(tmp_path / "a.safetensors").read("a"), large["a"])


def test_a_large_safetensors_file_is_not_all_in_memory(tmp_path: Path) -> None:
    safetensors.numpy.save_file({name: np.ones(2**24, np.float32) for name in "abcdef"}, tmp_path / "a.safetensors")
    program = (
        "from mobileclip_keras.converters.checkpoints.checkpoint import open_checkpoint\n"
        "peak = lambda: int(next(x for x in open('/proc/self/status') if x.startswith('VmHWM')).split()[1]) / 1024\n"
        "checkpoint = open_checkpoint(PATH)\n"
        "before = peak()\n"
        "assert all(checkpoint.read(name).all() for name in 'abcdef')\n"
        "print(peak() - before)\n"
    )
    if not Path("/proc/self/status").exists():
        pytest.skip("the system does not say how much memory a process takes")
    ran = python(program.replace("PATH", repr(str(tmp_path / "a.safetensors"))))
    assert float(ran.stdout) < 200, ran.stderr  # MiB, of 384
