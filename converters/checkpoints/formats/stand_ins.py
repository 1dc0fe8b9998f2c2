"""Loading files that hold objects of training code beside the tensors, without making these objects."""

import pickle
import re
from collections.abc import Callable
from threading import Lock
from typing import IO, Any

# What training code leaves in its files: arguments, paths, numbers of NumPy, settings. None of it is needed.
LIBRARIES = (
    "argparse",
    "pathlib",
    "numpy",
    "_codecs",
    "collections",
    "datetime",
    "typing",
    "uuid",
    "omegaconf",
    "yacs",
)
MOST = 60

_lock = Lock()


class StandIn:
    """Takes the place of an object in a file. It is given the object's content and does nothing with it."""

    def __init__(self, *arguments: Any, **options: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


def load_with_stand_ins(torch: Any, load: Callable[[], Any], file: IO[bytes]) -> tuple[Any, list[str]]:
    """What `load` gives, with stand-ins for objects of LIBRARIES, and the names of their classes.

    PyTorch's loader that runs no code refuses classes it does not know. It is told that each of them is `StandIn`, so
    that still nothing of theirs runs.

    Args:
        torch: the module.
        load: calls torch.load with weights_only=True.
        file: what it reads, which is rewound before each try.
    """
    known: list[tuple[type, str]] = []
    while True:
        file.seek(0)
        try:
            if not known:
                return load(), []
            with _lock, torch.serialization.safe_globals(known):
                return load(), [name for _, name in known]
        except pickle.UnpicklingError as error:
            name = name_of_global(error)
            if name is None or name.split(".")[0] not in LIBRARIES or len(known) >= MOST:
                raise
            if any(name == other for _, other in known):
                raise
            known.append((StandIn, name))


def name_of_global(error: Exception) -> str | None:
    """The class or function that PyTorch's loader refused."""
    named = re.search(r"GLOBAL ([\w.]+)", str(error))
    return named[1] if named else None
