"""Two jobs at once, each in a process of its own: whichever fails, both end, and nothing is left behind."""

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from mobileclip_keras.converters.deploy import processes
from mobileclip_keras.converters.deploy.processes import beside, in_own_process
from mobileclip_keras.converters.deploy.request import DeployError

ROOT = Path(__file__).parents[1]
WORKER = """
import json, os, sys, threading, time

def end_with_parent():
    sys.stdin.buffer.read()
    os._exit(1)

job, result = sys.argv[-2:]
spec = json.loads(sys.stdin.buffer.readline())
threading.Thread(target=end_with_parent, daemon=True).start()
open(spec["pid"], "w").write(str(os.getpid()))
time.sleep(spec["seconds"])
if spec.get("killed"):
    os.kill(os.getpid(), 9)
open(result + ".new", "w").write(json.dumps(spec["answer"]))
os.replace(result + ".new", result)
"""
"""In place of the real one: it says what it is told to, after a while."""
LONG, SHORT = 120, 0.2


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder where temporary files go, and in which every process is the one above."""
    program = tmp_path / "worker.py"
    program.write_text(WORKER)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} {program} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(processes.sys, "executable", str(python))
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    return tmp_path


def spec(place: Path, name: str, seconds: float, **more: Any) -> dict[str, Any]:
    return {"pid": str(place / name), "seconds": seconds, "answer": {"facts": {"of": name}}, **more}


def check_ended(place: Path, *names: str) -> None:
    """Asserts that processes are gone, and their files, too."""
    for name in names:
        with pytest.raises(ProcessLookupError):
            os.kill(int((place / name).read_text()), 0)
    assert not list((place / "temporary").iterdir())


def started(place: Path, name: str) -> None:
    """Waits until a process runs."""
    end = time.monotonic() + 60
    while not ((place / name).exists() and (place / name).read_text()):
        assert time.monotonic() < end
        time.sleep(0.02)


def test_both_run_at_once(place: Path) -> None:
    with beside(in_own_process, "reference", spec(place, "torch", 1), "torch") as (run, wait):
        started(place, "torch")
        start = time.monotonic()
        assert run("convert", spec(place, "converter", SHORT), "tensorflow") == {"of": "converter"}
        assert wait() == {"of": "torch"} and time.monotonic() - start < 30
    check_ended(place, "torch", "converter")


def test_pytorch_may_be_first(place: Path) -> None:
    with beside(in_own_process, "reference", spec(place, "torch", 0), "torch") as (run, wait):
        assert run("convert", spec(place, "converter", 3 * processes.LOOK + SHORT), "tensorflow") == {"of": "converter"}
        assert wait() == {"of": "torch"}
    check_ended(place, "torch", "converter")


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        ({"answer": {"error": "No PyTorch."}}, r"^No PyTorch\.$"),
        ({"killed": True}, "^The process that computes with PyTorch was killed, most likely"),
    ],
)
def test_where_pytorch_fails_nobody_waits_for_the_conversion(place: Path, failure: Any, said: str) -> None:
    with (
        pytest.raises(DeployError, match=said),
        beside(in_own_process, "reference", spec(place, "torch", 1, **failure), "torch") as (run, _),
    ):
        run("convert", spec(place, "converter", LONG), "tensorflow")
    check_ended(place, "torch", "converter")


def test_where_the_conversion_fails_pytorch_ends(place: Path) -> None:
    failure = {"answer": {"error": "No such operation."}}
    with (
        pytest.raises(DeployError, match=r"^No such operation\.$"),
        beside(in_own_process, "reference", spec(place, "torch", LONG), "torch") as (run, _),
    ):
        started(place, "torch")
        run("convert", spec(place, "converter", SHORT, **failure), "tensorflow")
    check_ended(place, "torch", "converter")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_when_the_command_ends_both_do(place: Path, how: signal.Signals) -> None:
    program = textwrap.dedent(f"""
        import signal
        from mobileclip_keras.converters.deploy.processes import beside, in_own_process, sys as theirs
        signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs ignore
        theirs.executable = {str(place / "python")!r}
        first, second = {spec(place, "torch", LONG)!r}, {spec(place, "converter", LONG)!r}
        with beside(in_own_process, "reference", first, "torch") as (run, wait):
            run("convert", second, "tensorflow")
    """)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(place / "temporary")}
    python = Path(sys.exec_prefix, "bin", "python")
    process = subprocess.Popen([str(python), "-c", program], env=environment, stderr=subprocess.DEVNULL)
    try:
        for name in ("torch", "converter"):
            started(place, name)
        process.send_signal(how)
        process.wait(60)
    finally:
        process.kill()
    end = time.monotonic() + 60
    while any(Path(f"/proc/{(place / name).read_text()}").exists() for name in ("torch", "converter")):
        assert time.monotonic() < end
        time.sleep(0.02)
    if how == signal.SIGINT:
        check_ended(place, "torch", "converter")


def test_one_of_the_callers_own_runs_when_it_is_waited_for() -> None:
    said = []

    def run_job(job: str, spec: dict[str, Any], backend: str) -> dict[str, Any]:
        said.append((job, backend))
        return spec

    with beside(run_job, "reference", {"a": 1}, "torch") as (run, wait):
        assert run("convert", {"b": 2}, "tensorflow") == {"b": 2} and wait() == {"a": 1}
    assert said == [("convert", "tensorflow"), ("reference", "torch")]
