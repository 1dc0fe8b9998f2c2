"""Running jobs in processes of their own, with the backend that each needs, whatever the user's is."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from .request import DeployError

Facts = dict[str, Any]
RunJob = Callable[[str, Facts, str], Facts]
"""Runs a job of `jobs.JOBS` with a backend."""

ENVIRONMENT = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "", "OMP_WAIT_POLICY": "PASSIVE"}
"""Files are made on the processor, where every machine gives the same."""
SHOWN = 2000
"""Characters of what a process said before it died."""
DOES = {"convert": "converts", "round": "rounds weights", "reference": "computes with PyTorch"}
"""What a job's process does, in words."""
LOOK = 0.2
"""Seconds between looks at another process."""


class OwnProcess:
    """A job that runs in a process until this context ends.

    The process ends with this one, too: it watches its standard input, which closes when this process is gone.
    """

    def __init__(self, job: str, spec: Facts, backend: str) -> None:
        """Starts it.

        Args:
            job: its name.
            spec: what it takes, as JSON has it.
            backend: of Keras.
        """
        self._job = job
        self._beside = tempfile.TemporaryDirectory()
        self._result, self._said = (Path(self._beside.name, name) for name in ("result.json", "said"))
        home = str(Path(__file__).parents[3])  # where the package lies, installed or not
        paths = [home, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, **ENVIRONMENT, "KERAS_BACKEND": backend, "PYTHONPATH": os.pathsep.join(paths)}
        command = [sys.executable, "-m", "mobileclip_keras.converters.deploy.worker", job, str(self._result)]
        try:
            with open(self._said, "wb") as words:
                self._process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=words, stderr=words, env=environment
                )
        except BaseException:
            self._beside.cleanup()
            raise
        try:
            assert self._process.stdin is not None
            with suppress(BrokenPipeError):  # it is gone already, and its status says more
                self._process.stdin.write(json.dumps(spec).encode() + b"\n")
                self._process.stdin.flush()
        except BaseException:
            self._end()
            raise

    def __enter__(self) -> "OwnProcess":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stdin is not None:
            with suppress(OSError):  # what was not sent is not wanted any more
                self._process.stdin.close()
        self._beside.cleanup()

    def facts(self, watched: "OwnProcess | None" = None) -> Facts:
        """Waits for what the job gives.

        Args:
            watched: another; where that fails first, nobody waits any longer.

        Raises:
            DeployError: with the job's own words, or with how the process ended.
            OSError: what the system said to it.
        """
        while watched is not None:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(LOOK)
                break
            if watched._process.poll() is not None:
                watched.facts()
                watched = None
        self._process.wait()
        if not self._result.exists():
            said = self._said.read_bytes()[-SHOWN:].decode("utf-8", "replace")
            raise DeployError(_ended(self._job, self._process.returncode, said))
        answer = json.loads(self._result.read_text(encoding="utf-8"))
        if "system" in answer:
            raise OSError(answer["system"], os.strerror(answer["system"]))
        if "error" in answer:
            raise DeployError(answer["error"])
        return answer["facts"]


def in_own_process(job: str, spec: Facts, backend: str, watched: OwnProcess | None = None) -> Facts:
    """Runs a job of `jobs.JOBS`, and waits for what it gives.

    Args:
        job, spec, backend: as for `OwnProcess`.
        watched: as for `OwnProcess.facts`, which says what is raised.
    """
    with OwnProcess(job, spec, backend) as process:
        return process.facts(watched)


@contextmanager
def beside(run_job: RunJob, job: str, spec: Facts, backend: str) -> Iterator[tuple[RunJob, Callable[[], Facts]]]:
    """Within this context, a job runs in a process while others do, and nothing of it is left behind.

    Args:
        run_job: what runs jobs; another than `in_own_process` runs this one when it is waited for.
        job, spec, backend: as for `OwnProcess`.

    Yields:
        What runs other jobs, and ends them with this one's error where this one fails first; and what waits for this
        one.
    """
    if run_job is not in_own_process:
        yield run_job, lambda: run_job(job, spec, backend)
        return
    with OwnProcess(job, spec, backend) as process:
        yield partial(in_own_process, watched=process), process.facts


def _ended(job: str, code: int, said: str) -> str:
    process = f"The process that {DOES.get(job, 'converts')}"
    if code == -9:
        return f"{process} was killed, most likely because there is not enough memory."
    return f"{process} ended with status {code}. It said last: {said.strip() or 'nothing'}"
