"""The host's processor: its name, and the half precisions that it computes in."""

import platform
from functools import cache
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
_INSTRUCTIONS = {"bfloat16": {"avx512_bf16", "amx_bf16"}, "float16": {"avx512_fp16", "amx_fp16"}}
"""Instructions of x86 processors that multiply numbers of a dtype. Without them, libraries convert to float32 and
back."""


@cache
def processor_name() -> str:
    """What the system calls the processor: "Intel(R) Xeon(R) Processor"."""
    return _field("model name") or platform.processor() or platform.machine()


@cache
def processor_precisions() -> tuple[str, ...]:
    """The half precisions that the processor multiplies in, of "bfloat16" and "float16"."""
    flags = set(_field("flags").split())
    return tuple(dtype for dtype, instructions in _INSTRUCTIONS.items() if instructions & flags)


def _field(name: str) -> str:
    """The first value of a name in /proc/cpuinfo; "" where there is no such file or name."""
    try:
        lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((value.strip() for key, _, value in (line.partition(":") for line in lines) if key.strip() == name), "")
