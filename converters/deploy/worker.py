"""The process that a job runs in; `processes.py` starts it."""

import gc
import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

UNUSED = ("jax", "matplotlib", "orbax", "sklearn", "transformers")
"""What Keras and open_clip import where it is installed, and no job uses: 2 of the 4 s that Keras takes to start."""
NEW_OBJECTS = 20_000
"""How many are made before Python looks for garbage among them. By its own 700 it spends a tenth of a job with that."""


def main() -> None:
    """Runs the job that the arguments name, with what the first line of standard input says."""
    prepare()
    job, result = sys.argv[1], Path(sys.argv[2])
    spec = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    answer = _answer(job, spec)
    beside = result.with_suffix(".new")
    beside.write_text(json.dumps(answer), encoding="utf-8")
    beside.replace(result)


def prepare() -> None:
    """Spares this process what no job uses."""
    for name in UNUSED:
        sys.modules[name] = None  # type: ignore[assignment]  # whoever imports it is told that it is not there
    gc.set_threshold(NEW_OBJECTS, *gc.get_threshold()[1:])


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


def _answer(job: str, spec: dict[str, Any]) -> dict[str, Any]:
    from ...keras_models.errors import MobileClipError
    from ...keras_models.store.writing.output_errors import os_number
    from .jobs import JOBS

    try:
        return {"facts": JOBS[job](spec)}
    except MobileClipError as error:
        return {"error": str(error)}
    except MemoryError:
        return {"error": "There is not enough memory."}
    except Exception as error:
        number = os_number(error)
        if number is not None:
            return {"system": number}
        if os.environ.get("MOBILECLIP_KERAS_TRACEBACK"):
            raise
        failed = "PyTorch cannot compute the features" if job == "reference" else "The towers cannot be converted"
        return {"error": f"{failed}: {type(error).__name__}: {str(error)[:1000]}"}


if __name__ == "__main__":
    main()
