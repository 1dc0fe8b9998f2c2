"""Running a job in a process of its own, with the backend that it needs, whatever the user's is."""

import json
import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from .request import DeployError

ENVIRONMENT = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "", "OMP_WAIT_POLICY": "PASSIVE"}
"""Files are made on the processor, where every machine gives the same."""
SHOWN = 2000
"""Characters of what a process said before it died."""


def in_own_process(job: str, spec: dict[str, Any], backend: str) -> dict[str, Any]:
    """Runs a job of `jobs.JOBS`.

    The process ends with this one: it watches its standard input, which closes when this process is gone.

    Args:
        job: its name.
        spec: what it takes, as JSON has it.
        backend: of Keras.

    Raises:
        DeployError: with the job's own words, or with how the process ended.
        OSError: what the system said to it.
    """
    home = str(Path(__file__).parents[3])  # where the package lies, installed or not
    paths = [home, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, **ENVIRONMENT, "KERAS_BACKEND": backend, "PYTHONPATH": os.pathsep.join(paths)}
    with tempfile.TemporaryDirectory() as beside:
        result, said = Path(beside, "result.json"), Path(beside, "said")
        command = [sys.executable, "-m", "mobileclip_keras.converters.deploy.worker", job, str(result)]
        with open(said, "wb") as words:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=words, stderr=words, env=environment)
            try:
                assert process.stdin is not None
                with suppress(BrokenPipeError):  # it is gone already, and its status says more
                    process.stdin.write(json.dumps(spec).encode() + b"\n")
                    process.stdin.flush()
                process.wait()
            finally:
                process.kill()
                process.wait()
        if not result.exists():
            raise DeployError(_ended(process.returncode, said.read_bytes()[-SHOWN:].decode("utf-8", "replace")))
        answer = json.loads(result.read_text(encoding="utf-8"))
    if "system" in answer:
        raise OSError(answer["system"], os.strerror(answer["system"]))
    if "error" in answer:
        raise DeployError(answer["error"])
    return answer["facts"]


def _ended(code: int, said: str) -> str:
    if code == -9:
        return "The process that converts was killed, most likely because there is not enough memory."
    return f"The process that converts ended with status {code}. It said last: {said.strip() or 'nothing'}"
