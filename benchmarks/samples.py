"""Samples taken in processes of their own: time, peak memory, medians, and what they were taken on."""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

MIB = 2**20
THREADS = 2
PACKAGES = ("keras", "tensorflow", "jax", "torch", "timm", "open_clip_torch", "h5py", "safetensors", "numpy")

OTHER = "other checkout: "
"""What begins the names of the ways of another checkout."""

Sample = dict[str, float]


def memory(field: str) -> int:
    """Bytes of this process' memory: "VmRSS" now, "VmHWM" at most since the last `forget_peak`."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(field)


def forget_peak() -> None:
    """Makes the peak of this process' memory what is in use now."""
    Path("/proc/self/clear_refs").write_text("5")


@contextmanager
def measured(sample: Sample) -> Iterator[None]:
    """Adds to a sample the seconds that its body takes, and the bytes that it has at most beyond those before."""
    forget_peak()
    before, start = memory("VmRSS"), time.perf_counter()
    yield
    sample["seconds"] = time.perf_counter() - start
    sample["peak"] = memory("VmHWM") - before


def of_checkout(program: str, checkout: Path | None) -> tuple[str, dict[str, str]]:
    """The program of that name in another checkout of this project, and the variable that makes Python import that."""
    if checkout is None:
        return program, {}
    return str(checkout / "benchmarks" / Path(program).name), {"PYTHONPATH": str(checkout)}


def in_process(program: str, *arguments: str, backend: str = "tensorflow", checkout: Path | None = None) -> Sample:
    """What a program, run afresh, prints as JSON on its last line."""
    program, found_in = of_checkout(program, checkout)
    environment = {
        **os.environ,
        "KERAS_BACKEND": backend,
        "CUDA_VISIBLE_DEVICES": "",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "OMP_NUM_THREADS": str(THREADS),
        "TF_NUM_INTRAOP_THREADS": str(THREADS),
        "TF_ENABLE_ONEDNN_OPTS": "1",
        "HF_HUB_OFFLINE": "1",
        **found_in,
    }
    done = subprocess.run(
        [sys.executable, program, *arguments], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def medians(samples: list[Sample]) -> Sample:
    """The median of each quantity."""
    return {key: statistics.median(sample[key] for sample in samples) for key in samples[0]}


def add_ratios_to_other(found: dict[str, Sample]) -> None:
    """To each way that another checkout was measured in, too, how many times as long this one takes."""
    for way, sample in found.items():
        if other := found.get(OTHER + way):
            sample["to_other"] = sample["seconds"] / other["seconds"]


def machine() -> dict[str, Any]:
    """What the samples were taken on."""
    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return {
        "date": date.today().isoformat(),
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": THREADS,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


def keep(path: Path, results: dict[str, Any]) -> None:
    """Adds results to a JSON file, each with the machine it was taken on."""
    kept = json.loads(path.read_text()) if path.exists() else {}
    here = machine()
    kept |= {name: {**result, "machine": here} for name, result in results.items()}
    path.write_text(json.dumps(dict(sorted(kept.items())), indent=1) + "\n")
