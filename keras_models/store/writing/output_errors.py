"""What the operating system says against an output, as an error that a person can act on."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...errors import MobileClipError


class OutputError(MobileClipError):
    """An output cannot be written; the message says why, and nothing was left behind."""


NOTHING_LEFT = "Nothing was left behind."
"""What the message of an OutputError ends with, unless more is known."""


@contextmanager
def output_errors(target: Path) -> Iterator[None]:
    """Turns what the operating system reports into an OutputError."""
    try:
        yield
    except Exception as error:  # libraries wrap what the system says in errors of their own
        reason = os_reason(error)
        if reason is None:
            raise
        raise OutputError(f"{target} could not be written: {reason}. {NOTHING_LEFT}") from error


def os_reason(error: BaseException) -> str | None:
    """What the operating system says is wrong, also where a library wraps it in its own words; else None."""
    number = os_number(error)
    return None if number is None else os.strerror(number).lower()


def os_number(error: BaseException) -> int | None:
    """The operating system's number of what is wrong, as `os_reason` finds it; else None."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, MobileClipError):
        number = getattr(seen, "errno", None)
        text = str(seen)
        for known in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS):
            if number == known or f"errno = {known}" in text or os.strerror(known) in text:
                return known
        if isinstance(seen, OSError) and number is not None:
            return int(number)
        seen = seen.__cause__ or seen.__context__
    return None
