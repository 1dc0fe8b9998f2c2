"""mobileclip-keras finetune: from a folder and pairs to a folder, and on where a run was killed."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from typer.testing import CliRunner

import mobileclip_keras as mk
from mobileclip_keras.converters.cli.app import app
from mobileclip_keras.converters.tuning import finetune as tuning
from mobileclip_keras.converters.tuning import run_folder, training
from mobileclip_keras.converters.tuning.history import History, Recall
from mobileclip_keras.converters.tuning.options import DTYPES
from mobileclip_keras.converters.tuning.pairs.batches import Feeder
from mobileclip_keras.converters.tuning.run_folder import RunFolder
from mobileclip_keras.keras_models.registry import get_variant
from tests.finetune_support import write_table
from tests.support import nightly_on

ROOT = Path(__file__).resolve().parents[1]
BASE, TUNED = "shapes", "tuned.safetensors"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the smallest variant. Not to be changed."""
    from mobileclip_keras.keras_models.store.resolve import converted_folder

    return converted_folder(get_variant(BASE), cache_dir=tmp_path_factory.mktemp("cache"))


@pytest.fixture
def cheap_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step changes one weight by what the batch holds, and no framework compiles anything; nor does a validation. Of
    the result, the log and the tuned weights are written."""

    def step(model: Any, batch: Any, return_dict: bool) -> dict[str, float]:
        change = float(batch["image"].mean()) + 1e-6 * float(batch["text"][0].sum())
        taken, scale = int(_array(model.optimizer.iterations)), _array(model.logit_scale)
        model.logit_scale.assign(scale - 1e-3 * change * (1 + taken % 3))
        model.optimizer.iterations.assign(taken + 1)
        return {"loss": float(_array(model.logit_scale))}

    def write(_: Any, tuned: Path, out: Path, *rest: Any, **__: Any) -> None:
        out.mkdir()
        shutil.copyfile(tuned, out / TUNED)
        rest[-1](out)

    monkeypatch.setattr(mk.MobileClipModel, "train_on_batch", step)
    monkeypatch.setattr(tuning, "write_result", write)
    monkeypatch.setattr(tuning, "measure", lambda model, **_: Recall(float(_array(model.logit_scale)) % 1, 0.5))


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table of 14 pairs, in the current folder."""
    monkeypatch.chdir(tmp_path)
    write_table(tmp_path / "pairs.csv", 14)
    return Path("pairs.csv")


def run(*arguments: object, status: int = 0) -> str:
    result = CliRunner().invoke(app, ["finetune", *map(str, arguments)])
    assert result.exit_code == status, result.output + str(result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    return result.stderr if status else result.stdout


def finetuned(*arguments: object) -> dict[str, Any]:
    return json.loads(run(*arguments, "--no-verify", "--json"))


def weights(folder: Path) -> list[np.ndarray]:
    return mk.MobileClipModel.from_pretrained(folder, form="train").get_weights()


def same(one: Path, other: Path) -> bool:
    if (one / TUNED).exists():
        return (one / TUNED).read_bytes() == (other / TUNED).read_bytes()
    return all(np.array_equal(a, b) for a, b in zip(weights(one), weights(other), strict=True))


QUICK = ("--epochs", "2", "--batch-size", "4", "--learning-rate", "1e-3", "--val-share", "0.15")


@nightly_on("tensorflow", "jax")
def test_a_run_writes_a_folder_like_any_other(base: Path, data: Path) -> None:
    found = finetuned(base, "--data", data, "--out", "tuned", *QUICK)
    assert found | {"pairs": 12, "held_back": 2, "steps": 6, "was_done": False, "resumed_at": 0} == found
    assert {*found["recall_at_1"]["before"]} == {"image_to_text", "text_to_image", "mean"}
    assert [each["step"] for each in found["recall_at_1"]["by_step"]] == [0, 3, 6]
    out = Path("tuned")
    assert {path.name for path in Path().iterdir() if path.suffix != ".png"} == {"pairs.csv", "tuned"}
    assert json.loads((out / "training.json").read_text()).items() <= found.items()
    lines = (out / "training.csv").read_text().splitlines()
    assert len(lines) == 8 and lines[0].startswith("step,epoch,loss,learning_rate") and lines[-1].startswith("6,2,")
    assert (out / "training.png").read_bytes().startswith(b"\x89PNG")
    assert not same(base, out)
    conversion = json.loads((out / "conversion.json").read_text())
    assert conversion["source"]["file"] == "tuned.safetensors"
    before = json.loads((base / "conversion.json").read_text())
    assert conversion["fine_tuned"]["from"]["sha256"] == before["source"]["sha256"]
    assert conversion["fine_tuned"]["from"]["weights_sha256"] == before["weights_sha256"]["train"]
    assert not {*conversion["weights_sha256"].values()} & {*before["weights_sha256"].values()}
    card = (out / "README.md").read_text()
    assert "**These weights were fine-tuned.**" in card and "Nothing was retrained" not in card
    assert "- **Fine-tuned**: " in card and "before it was fine-tuned" in card
    assert mk.MobileClipModel.from_pretrained(out).form == "inference"


@pytest.mark.nightly
@pytest.mark.backend
@pytest.mark.parametrize("dtype", DTYPES)
def test_real_steps_that_broke_off_go_on_as_if_they_had_not(
    dtype: str, base: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_off_and_go_on(base, data, monkeypatch, "--dtype", dtype)


@nightly_on("jax")
def test_a_run_that_broke_off_goes_on_and_ends_as_if_it_had_not(
    base: Path, data: Path, cheap_steps: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_off_and_go_on(base, data, monkeypatch, "--freeze", "image")  # the fewest numbers in checkpoints


def break_off_and_go_on(base: Path, data: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> None:
    options = (base, "--data", data, *QUICK, "--checkpoint-every", "1", *more)
    whole = finetuned(*options, "--out", "whole")
    steps = 0
    plain = training.Training._step

    def breaking(self: training.Training, batch: Any) -> None:
        nonlocal steps
        steps += 1
        if steps == 5:
            raise OSError(28, "No space left on device", "somewhere")
        plain(self, batch)

    monkeypatch.setattr(training.Training, "_step", breaking)
    assert "no space left on device" in run(*options, "--out", "new", "--no-verify", status=1)
    assert not Path("new").exists() and Path("new.training").is_dir()
    said = run(*options, "--out", "new", "--no-verify", "--seed", "1", "--lora", "2", status=1)
    for words in ("new.training holds a run that is not done", "lora is 2 and was none", "seed is 1 and was 0"):
        assert words in said
    began_on("another", Path("new.training/run.json"))
    said = run(*options, "--out", "new", "--no-verify", status=1)
    assert f"another one: KERAS_BACKEND is {keras.backend.backend()} and was another. Use the options of that" in said
    began_on(keras.backend.backend(), Path("new.training/run.json"))
    again = finetuned(*options, "--out", "new")
    assert again["resumed_at"] == 4 and steps == 7 and again["recall_at_1"] == whole["recall_at_1"]
    assert again["loss"] == whole["loss"] and same(Path("whole"), Path("new"))
    assert Path("whole/training.csv").read_text() == Path("new/training.csv").read_text()
    assert not Path("new.training").exists()
    done = finetuned(*options, "--out", "new")
    assert done["was_done"] and steps == 7
    said = run(*options, "--out", "new", "--no-verify", "--alpha", "0.5", status=1)
    assert "new exists already, of another run: alpha is 0.5 and was 1.0" in said


def began_on(backend: str, record: Path) -> None:
    told = json.loads(record.read_text())
    told["asked"]["backend"] = backend
    record.write_text(json.dumps(told))


@pytest.mark.nightly
@pytest.mark.backend
def test_remat_takes_the_same_steps(base: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As near as another order of sums leaves them: the same batches, with their pairs in another order."""
    options = (base, "--data", data, *QUICK, "--val-share", "0", "--out")
    losses = [finetuned(*options, "plain")["loss"], finetuned(*options, "again", "--remat")["loss"]]
    plain = Feeder.epoch

    def turned(self: Feeder, *args: int) -> Iterator[Any]:
        return ({name: rows[::-1].copy() for name, rows in batch.items()} for batch in plain(self, *args))

    monkeypatch.setattr(Feeder, "epoch", turned)
    finetuned(*options, "turned")
    before, *after = (
        [array.astype("float64") for array in weights(Path(name))] for name in (base, "plain", "again", "turned")
    )
    expected, again, other = after
    rounding, moved = apart(expected, other), apart(before, expected)
    assert apart(expected, again) <= 2 * rounding < 0.1 * moved
    plainly, with_remat = losses
    assert abs(with_remat["last"] - plainly["last"]) < 0.1 * abs(plainly["last"] - plainly["first"])


def apart(one: list[np.ndarray], other: list[np.ndarray]) -> float:
    return float(np.sqrt(sum(np.sum((a - b) ** 2) for a, b in zip(one, other, strict=True))))


@pytest.mark.nightly
@pytest.mark.backend
def test_adapters_frozen_parts_chunks_and_half_of_the_change(base: Path, data: Path) -> None:
    options = (base, "--data", data, "--epochs", "1", "--batch-size", "6", "--val-share", "0", "--out", "half")
    more = ("--lora", "2", "--freeze", "image", "--chunk-size", "3", "--alpha", "0.5", "--learning-rate", "1e-2")
    found = finetuned(*options, *more)
    assert found["held_back"] == 0 and found["best_step"] is None and found["recall_at_1"]["after"] is None
    before, after = (mk.MobileClipModel.from_pretrained(folder, form="train") for folder in (base, "half"))
    pairs = [*zip(before.image_encoder.get_weights(), after.image_encoder.get_weights(), strict=True)]
    assert all(np.array_equal(a, b) for a, b in pairs)
    changed = [
        v.path for v, w in zip(before.weights, after.weights, strict=True) if not np.array_equal(*map(_array, (v, w)))
    ]
    assert changed and all("/attn/" in path or "/mlp/" in path or "fc" in path for path in changed), changed


def _array(variable: keras.Variable) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(variable))


def test_what_cannot_be_done_is_said_before_any_work(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training.Training, "run", lambda *_: pytest.fail("before any work"))
    Path("mine").mkdir()
    Path("mine/photo.txt").write_text("mine")
    usual = (base, "--data", data, "--out", "out", "--no-verify")
    for arguments, message in (
        (("nothing", "--data", data, "--out", "out"), "nothing"),
        ((base, "--data", "nothing.csv", "--out", "out"), "There is no file or folder nothing.csv"),
        ((base, "--data", data, "--out", "mine"), "mine exists already"),
        ((base, "--data", data, "--out", "mine", "--force"), "is left alone even with --force"),
        ((*usual, "--freeze", "words"), "--freeze takes image, text, norms, not 'words'"),
        ((*usual, "--freeze", "image", "--freeze", "text"), "nothing left to train"),
        ((*usual, "--learning-rate", "0"), "--learning-rate is a number above 0"),
        ((*usual, "--alpha", "1.5"), "--alpha lies between 0"),
        ((*usual, "--batch-size", "1"), "--batch-size is 2 at least"),
        ((*usual, "--warmup-steps", "99"), "--warmup-steps is 99, and there are only 10 steps in all"),
        ((*usual, "--lora", "5000"), "The rank of LoRA adapters is a whole number from 1"),
        ((*usual, "--templates", "a photo"), "'a photo' is no template"),
        ((*usual, "--dtype", "int8"), "--dtype is one of float32, mixed_bfloat16"),
    ):
        said = run(*arguments, status=1)
        assert said.startswith(("Error: ", "✓")) and message in said, said
    assert {path.name for path in Path().iterdir() if path.suffix != ".png"} == {"pairs.csv", "mine"}
    assert Path("mine/photo.txt").read_text() == "mine"


def test_broken_pairs_are_named_before_training_and_left_out_on_request(
    base: Path, data: Path, monkeypatch: pytest.MonkeyPatch, cheap_steps: None
) -> None:
    Path("3.png").unlink()
    Path("5.png").write_text("no image")
    said = run(base, "--data", data, "--out", "out", "--no-verify", status=1)
    assert "pairs.csv, row 5: 3.png does not exist." in said and "pairs.csv, row 7: 5.png is not an image" in said
    assert not Path("out").exists() and not Path("out.training").exists()
    found = finetuned(base, "--data", data, "--out", "out", "--skip-broken", *QUICK[:4], "--val-share", "0")
    assert found["pairs"] == 12 and found["left_out"] == 2 and len(found["problems"]) == 2


def test_a_folder_without_the_train_form_says_how_to_get_one(base: Path, data: Path, tmp_path: Path) -> None:
    mk.MobileClipModel.from_pretrained(base).save_pretrained(tmp_path / "folded")
    said = run(tmp_path / "folded", "--data", data, "--out", "out", status=1)
    assert "holds the inference form alone" in said and "--form both" in said


def test_two_at_once_in_one_folder(base: Path, data: Path) -> None:
    with RunFolder(Path("out")).alone():
        said = run(base, "--data", data, "--out", "out", "--no-verify", status=1)
    assert "Another process is at" in said and not Path("out.training").exists()


@pytest.mark.parametrize("is_link", [False, True])
def test_what_has_the_name_of_the_folder_of_the_run_is_left_alone(is_link: bool, tmp_path: Path) -> None:
    place = tmp_path / "out.training"
    place.symlink_to("nowhere") if is_link else place.write_text("mine")
    said = r"out\.training is no folder.* Move it away, or choose another --out\."
    with pytest.raises(run_folder.RunError, match=said), RunFolder(tmp_path / "out").alone():
        pytest.fail("must not be reached")
    assert place.is_symlink() if is_link else place.read_text() == "mine"


def test_a_full_disk_ends_a_run_and_keeps_its_last_checkpoint(
    base: Path, data: Path, monkeypatch: pytest.MonkeyPatch, cheap_steps: None
) -> None:
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    free = iter((1 << 40, 0, 0))
    monkeypatch.setattr(run_folder.shutil, "disk_usage", lambda _: usage(1, 1, next(free)))
    for _ in range(2):  # the first checkpoint is written
        said = run(base, "--data", data, "--out", "out", "--no-verify", *QUICK, status=1)
        assert "could not be written: no space left on device. " in said and "Nothing was left" not in said
        assert "out.training keeps the run: once that is mended, the same command goes on." in said
        assert not Path("out").exists()
    monkeypatch.undo()


def test_a_loss_that_is_no_number_ends_the_run(
    base: Path, data: Path, monkeypatch: pytest.MonkeyPatch, cheap_steps: None
) -> None:
    monkeypatch.setattr(mk.MobileClipModel, "train_on_batch", lambda *_, **__: {"loss": np.float32("nan")})
    said = run(base, "--data", data, "--out", "out", "--no-verify", *QUICK, status=1)
    assert "The loss of step 1 is not a finite number. Try a lower --learning-rate" in said


def test_what_a_kill_left_half_written_is_cleared_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """safetensors writes a file of another name first, as large as the checkpoint."""
    kept, variables = RunFolder(tmp_path / "out"), [keras.Variable(np.ones(3, "float32"))]

    def killed(_: Any, path: Path, **__: Any) -> None:
        (Path(path).parent / ".tmpAbC123").write_bytes(b"half")
        raise SystemExit

    def begin() -> None:
        kept.folder.mkdir(exist_ok=True)
        kept.begin({})
        with monkeypatch.context() as patch:
            patch.setattr("safetensors.numpy.save_file", killed)
            patch.setattr(RunFolder, "_clear_writing", lambda _: None)  # which a kill leaves no time for
            with pytest.raises(SystemExit):
                kept.save(variables, History())
        assert len([*kept.folder.rglob(".tmp*")]) == 1

    begin()
    kept.save(variables, History())
    assert {*os.listdir(kept.folder)} == {"run.json", "checkpoint.safetensors"}
    begin()
    with kept.alone():
        kept.remove()
    assert not kept.folder.exists()


@pytest.mark.nightly
@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forks")
def test_kills_at_any_moment_lose_no_more_than_one_interval(base: Path, tmp_path: Path) -> None:
    program = [sys.executable, ROOT / "tests" / "killed_finetunes.py", base, tmp_path, "10"]
    environment = {**os.environ, "KERAS_BACKEND": "torch", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(program, capture_output=True, text=True, env=environment)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert "wrong results: 0" in ran.stdout


@pytest.mark.nightly
@pytest.mark.real
@pytest.mark.torch
@pytest.mark.backend
def test_open_clip_loads_what_came_of_a_real_variant_and_computes_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import open_clip
    import torch
    from safetensors.torch import load_file

    from mobileclip_keras.converters.checkpoints.source import synthetic_checkpoint
    from mobileclip_keras.converters.conversion.convert import convert
    from mobileclip_keras.converters.conversion.to_torch import to_torch

    monkeypatch.chdir(tmp_path)
    convert(synthetic_checkpoint("2-s0", tmp_path), tmp_path / "base", variant="2-s0", verify=False)
    write_table(tmp_path / "pairs.csv", 8)
    options = ("--epochs", "1", "--batch-size", "4", "--val-share", "0", "--lora", "2", "--learning-rate", "1e-2")
    finetuned("base", "--data", "pairs.csv", "--out", "tuned", *options)
    to_torch("tuned", "open_clip", "tuned.safetensors")
    theirs = open_clip.create_model("MobileCLIP2-S0", pretrained=None).eval()
    theirs.load_state_dict(load_file("tuned.safetensors"), strict=True)
    ours, before = (mk.MobileClipModel.from_pretrained(folder) for folder in ("tuned", "base"))
    images = mk.ImagePreprocessor.from_pretrained("tuned")([f"{number}.png" for number in range(2)])
    tokens = np.asarray(mk.Tokenizer()(["a red square", "something else"]))
    with torch.no_grad():
        expected = [
            theirs.encode_image(torch.from_numpy(images).permute(0, 3, 1, 2), normalize=True).numpy(),
            theirs.encode_text(torch.from_numpy(tokens).long(), normalize=True).numpy(),
        ]
    for model, same_as_theirs in ((ours, True), (before, False)):
        found = [_array(model.encode_image(images)), _array(model.encode_text(tokens))]
        largest = max(np.abs(a - b).max() for a, b in zip(found, expected, strict=True))
        assert (largest < 1e-5) == same_as_theirs, largest
