"""Things that go wrong on the way to the test Hub, on purpose."""

import threading
from dataclasses import dataclass


@dataclass
class Fault:
    """One misfortune, met by the next `times` requests of that method whose path contains `path`.

    With `status` the request is answered by that HTTP error. With `cut_after` the connection is closed once
    that many bytes of the body, of the request for PUT and POST and of the answer for GET, have gone through.
    """

    method: str
    path: str
    times: float = 1  # math.inf: always
    status: int | None = None
    message: str = "Internal Error"
    cut_after: int | None = None


class Faults:
    def __init__(self) -> None:
        self._pending: list[Fault] = []
        self._lock = threading.Lock()

    def add(self, fault: Fault) -> None:
        if (fault.status is None) == (fault.cut_after is None):
            raise ValueError("a fault has either status= or cut_after=")
        self._pending.append(fault)

    def clear(self) -> None:
        self._pending.clear()

    def take(self, method: str, path: str) -> Fault | None:
        """The fault that this request meets, counted as met."""
        with self._lock:
            for fault in self._pending:
                if fault.method == method and fault.path in path and fault.times > 0:
                    fault.times -= 1
                    return fault
        return None
