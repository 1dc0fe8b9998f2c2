"""Writers that are killed before each of their steps, for test_kills.py: `python tests/killed_writers.py KIND FOLDER`.

A program of its own, as it forks a hundred times: a process with a framework in it takes ten times as long to fork.
"""

import os
import shutil
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mobileclip_keras.keras_models.store.resolve import resolve_name
from mobileclip_keras.keras_models.store.writing import atomic
from mobileclip_keras.keras_models.store.writing.atomic import written_whole
from mobileclip_keras.keras_models.store.writing.own_files import foreign_files
from mobileclip_keras.keras_models.store.writing.rewriting import rewritten
from mobileclip_keras.keras_models.store.writing.staging import recover
from mobileclip_keras.keras_models.tasks.embedding_files import Embeddings

NAMES = ("conversion.json", "config.json", "model.weights.h5", "train/model.weights.h5")
Write = Callable[[Path, str], None]
State = Callable[[Path], str | None]


def write_folder(target: Path, content: str) -> None:
    with written_whole(target, force=True) as folder:
        (folder / "train").mkdir()
        for name in NAMES:
            (folder / name).write_text(content)


def folder_state(target: Path) -> str | None:
    """What a whole folder holds; None where there is none."""
    if not target.exists():
        return None
    (content,) = {(target / name).read_text() for name in NAMES}
    assert foreign_files(target) == []
    return content


def write_file(target: Path, content: str) -> None:
    Embeddings(content, ("a.jpg",), np.ones((1, 2), np.float32), (), np.empty((0, 2), np.float32)).save(
        target.with_suffix(".npz"), force=True
    )


def file_state(target: Path) -> str | None:
    file = target.with_suffix(".npz")
    return Embeddings.load(file).model if file.exists() else None


def verify(target: Path, content: str) -> None:
    """Writes some files of a folder anew, as a verification does."""
    if not target.exists():
        write_folder(target, "weights")
    with rewritten(target, ("README.md", "LICENSE")) as anew:
        (anew / "README.md").write_text(content)
        (anew / "LICENSE").write_text("terms")


def verified_state(target: Path) -> str | None:
    assert folder_state(target) == "weights", "nothing but the card is written"
    return (target / "README.md").read_text()


def killed_at(step: int, write: Callable[[], None]) -> bool:
    """Runs a writer in a process of its own, which is killed before its nth step. False where it has fewer steps."""
    child = os.fork()
    if child == 0:
        left = step

        def count(event: str, _: Any) -> None:
            nonlocal left
            if event != "os.kill" and event.startswith(("open", "os.", "shutil.", "fcntl.", "ctypes.")):
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.addaudithook(count)
            write()
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) in (0, -signal.SIGKILL), "the writer failed"
    return os.WIFSIGNALED(status)


def kill_a_writer(folder: Path, write: Write, state: State, before: str | None, is_there_always: bool = True) -> None:
    """Kills a writer before each of its steps, and looks at what is there then and after the next run's clearing up."""
    target = folder / "target"
    if before is not None:
        write(target, before)
    place = target.with_suffix(".npz") if write is write_file else target
    seen, step = set(), 0
    while killed_at(step, lambda: write(target, "new")):
        recover(target)
        if is_there_always:
            assert state(target) in (before, "new")
        recover(folder)  # as the next run does, before it looks at the target
        found = state(target)
        assert found in (before, "new")
        assert os.listdir(folder) == ([] if found is None else [place.name])
        seen.add(found)
        if found == "new" and before is not None:
            write(target, before)
        elif found == "new":
            shutil.rmtree(place) if place.is_dir() else place.unlink()
        step += 1
    assert seen == {before, "new"} and step > 20
    assert state(target) == "new" and os.listdir(folder) == [place.name]


def kill_who_clears_up(folder: Path) -> None:
    """Kills a writer at some of its steps, and who clears up after it before each of theirs."""
    target = folder / "target"
    write_folder(target, "old")
    moment = 25
    while killed_at(moment, lambda: write_folder(target, "new")):
        step = 0
        while killed_at(step, lambda: recover(folder)):
            step += 1
        assert folder_state(target) in ("old", "new") and os.listdir(folder) == ["target"]
        write_folder(target, "old")
        moment += 9
    assert moment > 60


def move_a_folder_away(folder: Path) -> None:
    """Kills a writer at the one moment at which nothing has the name, and looks for the name."""
    write_folder(folder / "target", "old")
    step = 0
    while (folder / "target").exists():
        assert killed_at(step, lambda: write_folder(folder / "target", "new"))
        step += 1
    assert resolve_name(folder / "target") == folder / "target"
    assert folder_state(folder / "target") == "old" and os.listdir(folder) == ["target"]


KINDS: dict[str, Callable[[Path], None]] = {
    "a folder that is replaced": partial(kill_a_writer, write=write_folder, state=folder_state, before="old"),
    "a first folder": partial(kill_a_writer, write=write_folder, state=folder_state, before=None),
    "a file that is replaced": partial(kill_a_writer, write=write_file, state=file_state, before="old"),
    "a first file": partial(kill_a_writer, write=write_file, state=file_state, before=None),
    "files written anew in a folder": partial(kill_a_writer, write=verify, state=verified_state, before="old"),
    "who clears up": kill_who_clears_up,
}
WITHOUT_EXCHANGE: dict[str, Callable[[Path], None]] = {
    "by two renames": partial(
        kill_a_writer, write=write_folder, state=folder_state, before="old", is_there_always=False
    ),
    "who clears up after two renames": kill_who_clears_up,
    "a reader between two renames": move_a_folder_away,
}
"""As on a disk that cannot exchange two folders."""


if __name__ == "__main__":
    kind, place = sys.argv[1], Path(sys.argv[2])
    if kind in WITHOUT_EXCHANGE:
        atomic.exchange = lambda one, other: False
    (KINDS | WITHOUT_EXCHANGE)[kind](place)
