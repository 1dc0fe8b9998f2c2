"""What Keras runs on where the user has not chosen, each time in a process of its own."""

import json
import os
from pathlib import Path

import pytest

from mobileclip_keras.keras_models.backend_choice import compile_quickly
from tests.converter_support import python

CODE = """
import os, sys
os.environ["KERAS_HOME"] = {home!r}
os.environ.pop("KERAS_BACKEND", None)
{before}
import mobileclip_keras
assert "keras" not in sys.modules, "imported before it is needed"
print(os.environ.get("KERAS_BACKEND"))
{after}
"""


def chosen(home: Path, missing: tuple[str, ...] = (), before: str = "", after: str = "") -> list[str]:
    """What a Python without some packages prints: KERAS_BACKEND after the import, and what `after` prints."""
    done = python(CODE.format(home=str(home), before=before, after=after), missing)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        ((), "None"),
        (("tensorflow",), "jax"),
        (("tensorflow", "jax"), "torch"),
        (("tensorflow", "jax", "torch"), "None"),
    ],
    ids=str,
)
def test_the_first_that_is_installed(tmp_path: Path, missing: tuple[str, ...], expected: str) -> None:
    assert chosen(tmp_path, missing) == [expected]


@pytest.mark.parametrize(("backend", "expected"), [("torch", "None"), ("tensorflow", "jax")])
def test_the_config_file_stands_where_its_backend_is_installed(tmp_path: Path, backend: str, expected: str) -> None:
    (tmp_path / "keras.json").write_text(json.dumps({"backend": backend}))
    assert chosen(tmp_path, ("tensorflow",)) == [expected]


def test_the_variable_is_never_changed(tmp_path: Path) -> None:
    before = 'os.environ["KERAS_BACKEND"] = "torch"'
    assert chosen(tmp_path, ("tensorflow", "torch"), before) == ["torch"]


def test_keras_takes_what_was_chosen(tmp_path: Path) -> None:
    after = "mobileclip_keras.MobileClipModel; import keras; print(keras.backend.backend())"
    assert chosen(tmp_path, ("tensorflow", "jax"), after=after) == ["torch", "torch"]


@pytest.mark.parametrize(
    ("missing", "before", "expected"),
    [
        (
            ("tensorflow", "jax", "torch"),
            "",
            'none is installed. Install one, such as with pip install "mobileclip-keras[',
        ),
        (("jax",), 'os.environ["KERAS_BACKEND"] = "jax"', "KERAS_BACKEND is jax, which is not installed."),
    ],
    ids=["none", "another"],
)
def test_without_a_backend_one_sentence_says_what_to_install(
    tmp_path: Path, missing: tuple[str, ...], before: str, expected: str
) -> None:
    after = """
try:
    mobileclip_keras.MobileClipModel
except mobileclip_keras.MobileClipError as error:
    print(error)
sys.argv = ["convert", "--src", "synthetic", "--variant", "s0", "--no-verify"]
sys.stderr = sys.stdout
from mobileclip_keras.converters.cli.app import convert_main
convert_main()
"""
    code = CODE.format(home=str(tmp_path), before=before, after=after)
    done = python(code, missing)
    assert done.returncode == 1 and done.stdout.count(expected) == 2, done.stdout + done.stderr
    assert "Error: " in done.stdout and "mistake in mobileclip-keras" not in done.stdout


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, "--xla_gpu_autotune_level=0"),
        ("--xla_dump_to=here", "--xla_dump_to=here --xla_gpu_autotune_level=0"),
        ("--xla_gpu_autotune_level=2", "--xla_gpu_autotune_level=2"),
    ],
)
def test_compiling_quickly_leaves_what_the_user_says(
    before: str | None, after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XLA_FLAGS", before or "")
    if before is None:
        monkeypatch.delenv("XLA_FLAGS")
    compile_quickly()
    assert os.environ["XLA_FLAGS"] == after
