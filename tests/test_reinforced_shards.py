"""DataCompDR's files: shards are read as published, and images become what the teachers saw."""

import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mobileclip_keras.keras_models.errors import MobileClipError
from mobileclip_keras.keras_models.inputs.preprocessing import ImagePreprocessor
from mobileclip_keras.keras_models.inputs.tokenizer import Tokenizer
from mobileclip_keras.keras_models.training.augmentations import OPERATIONS, reapply
from mobileclip_keras.keras_models.training.reinforced_sample import DataError
from mobileclip_keras.keras_models.training.reinforced_shards import ReinforcedShards

RANDOM = np.random.default_rng(0)
PICTURE = Image.fromarray(RANDOM.integers(0, 256, (40, 60, 3), np.uint8))
CROPS = [[0, 0, 40, 60], [5, 10, 20, 30], [3, 2, 16, 16]]
KINDS = ("teacher_image", "teacher_text", "teacher_syn_text")


def jpeg() -> bytes:
    stream = io.BytesIO()
    PICTURE.save(stream, "PNG")
    return stream.getvalue()


def packed(number: int, kind: str) -> bytes:
    """Embeddings that say whose they are: sample, row, and 0 for images or 1 for texts."""
    arrays = {
        name: np.array([[number, row, place, 0, 0, 0.5] for row in range(3)], np.float32)
        for place, name in enumerate(("image_emb", "text_emb"))
    }
    stream = io.BytesIO()
    if kind == "npz":
        np.savez(stream, **arrays)
        return stream.getvalue()
    import torch

    listed = {name: [torch.tensor(row, dtype=torch.bfloat16) for row in array] for name, array in arrays.items()}
    torch.save(listed if number % 2 else {name: torch.stack(rows) for name, rows in listed.items()}, stream)
    return gzip.compress(stream.getvalue())


def files_of(number: int, kind: str = "npz", as_text: bool = False) -> dict[str, bytes]:
    changes = [[crop, [[0, 0.0], [6, 0.1 * place]]] for place, crop in enumerate(CROPS)]
    changes[2][1] = None  # type: ignore[call-overload]
    return {
        "url.txt": b"https://example.org/image",
        "png": jpeg(),
        "txt": f"caption {number}".encode(),
        "json": b'{"uid": "0", "sha256": "0"}',
        "paug.json": json.dumps({"param_aug": json.dumps(changes) if as_text else changes}).encode(),
        "syn.json": json.dumps({"syn_text": [f"synthetic {number} {place}" for place in range(2)]}).encode(),
        kind: packed(number, kind),
    }


def write_shard(path: Path, samples: dict[str, dict[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as archive:
        for key, files in samples.items():
            for kind, content in files.items():
                member = tarfile.TarInfo(f"{key}.{kind}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return path


def check(batch: dict[str, np.ndarray], numbers: list[int]) -> None:
    """Images, captions and embeddings of one row belong together."""
    tokenize, preprocess = Tokenizer(), ImagePreprocessor(32, (0.5,) * 3, (0.5,) * 3)
    for row, number in enumerate(numbers):
        chosen, synthetic = int(batch["teacher_image"][row, 1]), int(batch["teacher_syn_text"][row, 1]) - 1
        assert batch["teacher_image"][row].tolist() == [number, chosen, 0, 0, 0, 0.5]
        assert batch["teacher_text"][row].tolist() == [number, 0, 1, 0, 0, 0.5]
        assert batch["teacher_syn_text"][row].tolist() == [number, 1 + synthetic, 1, 0, 0, 0.5]
        assert np.array_equal(batch["text"][row], tokenize(f"caption {number}")[0])
        assert np.array_equal(batch["syn_text"][row], tokenize(f"synthetic {number} {synthetic}")[0])
        changes = [] if chosen == 2 else [(0, 0.0), (6, 0.1 * chosen)]
        seen = reapply(PICTURE, tuple(CROPS[chosen]), changes, 32)  # type: ignore[arg-type]
        assert np.array_equal(batch["image"][row], preprocess(seen)[0])


@pytest.mark.torch
def test_batches_of_published_shards(tmp_path: Path) -> None:
    without = {"png": b"", "txt": b""}
    one = {f"a/{n:08d}": files_of(n, "npz" if n < 2 else "pth.gz", as_text=n == 1) for n in range(4)}
    one["gone"] = {kind: content for kind, content in files_of(9).items() if kind not in without}
    shards = [
        write_shard(tmp_path / "0.tar", one),
        write_shard(tmp_path / "1.tar", {"4": files_of(4), "5": files_of(5)}),
    ]
    data = ReinforcedShards(shards, ImagePreprocessor(32, (0.5,) * 3, (0.5,) * 3), batch_size=3, seed=1)
    batches = list(data)
    assert len(batches) == 2 and data.skipped == 1
    for batch, numbers in zip(batches, ([0, 1, 2], [3, 4, 5]), strict=True):
        assert {key: value.dtype.kind for key, value in batch.items()} == {
            "image": "f",
            "text": "i",
            "syn_text": "i",
            "teacher_image": "f",
            "teacher_text": "f",
            "teacher_syn_text": "f",
        }
        check(batch, numbers)
    again, epochs = list(data), list(data.epochs(6))
    assert all(np.array_equal(one[key], other[key]) for one, other in zip(batches, again, strict=True) for key in one)
    assert len(epochs) == 12
    assert {int(index) for batch in epochs for index in batch["teacher_image"][:, 1]} == {0, 1, 2}
    assert {int(index) for batch in epochs for index in batch["teacher_syn_text"][:, 1]} == {1, 2}


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [
        ("paug.json", None, r"has no \.paug\.json"),
        ("paug.json", b"{", r"0\.paug\.json is not JSON"),
        ("paug.json", b'{"param_aug": []}', 'no list "param_aug"'),
        ("paug.json", b'{"param_aug": [[[0, 0, 0, 5], null]]}', r"no \[crop, changes\]"),
        ("paug.json", b'{"param_aug": [[[0, 0, 5, 5], [[14, 1.0], [0, 0.0]]]]}', r"no \[crop, changes\]"),
        ("syn.json", b'{"syn_text": [1, 2]}', "captions that are no texts"),
        ("syn.json", b'{"syn_text": ["a"]}', r"1 synthetic captions, and embeddings of the shapes \(3, 6\)"),
        ("npz", None, r"neither \.npz nor \.pth\.gz"),
        ("npz", b"PK and nothing", r"0\.npz is damaged"),
        ("png", b"no image", "cannot be|not an image|is no"),
    ],
)
def test_damage_is_named_by_shard_and_sample(tmp_path: Path, kind: str, content: bytes | None, message: str) -> None:
    files: dict[str, Any] = {**files_of(0), kind: content}
    shard = write_shard(tmp_path / "0.tar", {"0": {k: v for k, v in files.items() if v is not None}})
    with pytest.raises(MobileClipError, match=message) as raised:
        list(ReinforcedShards([shard], ImagePreprocessor(32), batch_size=1))
    assert "0.tar: 0" in str(raised.value)


def test_shards_that_are_none(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "0.tar", {"0": files_of(0)})
    (tmp_path / "cut.tar").write_bytes(shard.read_bytes()[:700])
    (tmp_path / "noise.tar").write_bytes(b"no archive" * 100)
    for name, message in (("missing", "There is no file"), ("cut", "is damaged"), ("noise", "is damaged")):
        with pytest.raises(DataError, match=message):
            list(ReinforcedShards([tmp_path / f"{name}.tar"], ImagePreprocessor(32)))
    for none in ([], str(shard)):
        with pytest.raises(DataError, match="Give a list"):
            ReinforcedShards(none, ImagePreprocessor(32))


@pytest.mark.torch
def test_augmentations_are_torchvisions_pixel_by_pixel() -> None:
    from torchvision.transforms import InterpolationMode, functional
    from torchvision.transforms.autoaugment import _apply_op

    names = "Identity ShearX ShearY TranslateX TranslateY Rotate Brightness Color Contrast Sharpness Posterize Solarize"
    magnitudes = {"TranslateX": -7.8, "TranslateY": 6.3, "Rotate": -11.5, "Posterize": 5.0, "Solarize": 120.4}
    for number, name in enumerate([*names.split(), "AutoContrast", "Equalize"]):
        for magnitude in (magnitudes.get(name, 0.27), 0.0 if name != "Posterize" else 8.0):
            expected = functional.resized_crop(PICTURE, 5, 10, 20, 30, [32, 32], InterpolationMode.BICUBIC)
            expected = _apply_op(expected, name, magnitude, interpolation=InterpolationMode.NEAREST, fill=None)
            found = reapply(PICTURE, (5, 10, 20, 30), [(number, magnitude)], 32)
            assert np.array_equal(np.asarray(found), np.asarray(expected)), name
    assert len(OPERATIONS) == 14
