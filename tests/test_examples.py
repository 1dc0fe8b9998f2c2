"""Every program under examples/ runs on its own, and says what it promises; so does the code in the README."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import mobileclip_keras as mk
from tests.small import small_model

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"

# What those are given that do nothing useful, or take too long, without.
SMALL = ("--alone", "1", "--together", "2", "--batch", "16", "--pictures", "32", "--asked", "5")
ARGUMENTS = {"train_shapes": ("--out", "out", *SMALL)}
# What each prints, as a pattern. An example whose features are all zero also runs, so where there are numbers the
# patterns ask for some that only a working model gives.
EXPECTED = {
    "build_variant": r"image_encoder: 11,457,266 parameters to train, 11,348,032 to run",
    "contrastive_loop": r"after 20 steps; guessing gives 1\.386\nlearning rate: 1\.5e-04 at first, 3\.0e-04 at most",
    "collection": r"embedded 8, 0 unreadable\nembedded 1 more, 8 were there\n(.|\n)*the same: (cat|copy).jpg, c",
    "demo": r"equal to PyTorch(.|\n)*9 of 9 labels are right",
    "embeddings": r"of length \[1\. 1\. 1\. 1\.\]",
    "export": r"(?s)SavedModel differs from Keras by (0e\+00|\de-0[6-9]).*LiteRT differs from Keras by \de-0[6-9]",
    "fine_tune": r"after 50 steps; guessing gives 1\.386",
    "forward_pass": r"probabilities, an image to a row",
    "mixed_precision": r"cosine similarity to float32: \[(1\. +|0\.99\d* *){2}\]",
    "save_and_load": r"image_features: up to 0\.[1-9]\d*, the largest difference is 0\.0",
    "train_shapes": r"Wrote out/mobileclip_shapes\.safetensors",
    "training_ways": r"(?s)in chunks: .*LoRA: .* of adapters\ndistilled: .*between: logit scale 1\d",
    "zero_shot": r"astronaut\.jpg: \w+ \d+%",
}


def test_every_example_is_tested() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(EXPECTED)


@pytest.mark.nightly
@pytest.mark.parametrize("name", EXPECTED)
def test_example_runs(name: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-W", "error:::mobileclip_keras", str(EXAMPLES / f"{name}.py"), *ARGUMENTS.get(name, ())]
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert re.search(EXPECTED[name], ran.stdout), ran.stdout
    if name == "fine_tune":
        _, after, chance = (float(number) for number in re.findall(r"\d+\.\d+", ran.stdout))
        assert after < 0.9 * chance
    if name == "forward_pass":
        rows = re.findall(r"\[+([\d. ]+)\]", ran.stdout)
        assert rows[0] != rows[1], "every image has the same probabilities"


@pytest.mark.usefixtures("small_towers")
def test_the_code_in_the_readme_runs_as_pasted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    small_model(form="inference", variant="mobileclip_s0").save_pretrained(
        "mobileclip_s2-keras", preprocessor=mk.ImagePreprocessor(64)
    )
    for name in ("cat.jpg", "dog.jpg"):
        shutil.copy(ROOT / "verify" / "photos" / "cat.jpg", name)
    names: dict = {}
    exec(code, names)
    assert tuple(names["similarity"].shape) == (2, 2) and names["tokens"].shape == (2, 77)
