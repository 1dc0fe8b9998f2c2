"""Every program under examples/ runs on its own, and says what it promises."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"

# Some of what each prints.
EXPECTED = {
    "build_variant": "image_encoder: ",
    "demo": "the labels mean nothing",
    "embeddings": "outer space: ",
    "fine_tune": "after 10 steps",
    "forward_pass": "probabilities, an image to a row",
    "mixed_precision": "of features: bfloat16",
    "save_and_load": "text_features: the largest difference is 0.0",
    "zero_shot": "astronaut.jpg: ",
}


def test_every_example_is_tested() -> None:
    # bench.py measures, and has tests of its own.
    assert {path.stem for path in EXAMPLES.glob("*.py")} - {"bench"} == set(EXPECTED)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPECTED)
def test_example_runs(name: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-W", "error:::mobileclip_keras", str(EXAMPLES / f"{name}.py")]
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert EXPECTED[name] in ran.stdout
    if name == "fine_tune":
        before, after = (float(number) for number in re.findall(r"\d+\.\d+", ran.stdout))
        assert after < before
