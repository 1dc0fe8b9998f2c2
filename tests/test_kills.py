"""A process that is killed while it writes: what was there before or what is new is there, whole, and nothing else.

killed_writers.py kills writers before each of their steps: all that Python reports to an audit hook, which is every
call that changes the disk. benchmarks/kills.py kills real writers at random moments.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from mobileclip_keras.keras_models.store.writing import atomic, staging
from mobileclip_keras.keras_models.store.writing.atomic import written_whole
from mobileclip_keras.keras_models.store.writing.exchange import exchange
from mobileclip_keras.keras_models.store.writing.output_errors import OutputError
from mobileclip_keras.keras_models.store.writing.own_files import foreign_files
from mobileclip_keras.keras_models.store.writing.staging import PREFIX, recover, staged

from .killed_writers import KINDS, NAMES, WITHOUT_EXCHANGE, folder_state, write_folder

ROOT = Path(__file__).parents[1]

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without fork"),
    pytest.mark.filterwarnings("ignore:.*fork:RuntimeWarning", "ignore:.*fork:DeprecationWarning"),
]


@pytest.mark.parametrize("kind", [*KINDS, *WITHOUT_EXCHANGE])
def test_killed_before_every_step(tmp_path: Path, kind: str) -> None:
    program = [sys.executable, "-W", "error", ROOT / "tests" / "killed_writers.py", kind, tmp_path]
    done = subprocess.run(program, env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def stopped(tmp_path: Path) -> Iterator[Path]:
    """The private place of a process that is in the middle of writing, and lives."""
    write_folder(tmp_path / "target", "old")
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with staged(tmp_path / "target") as place:
            place.new.mkdir()
            (place.new / "half").write_text("x")
            os.write(writer, b"x")
            time.sleep(60)
        os._exit(0)
    os.read(reader, 1)
    (place,) = (path for path in tmp_path.iterdir() if path.name.startswith(PREFIX) and path.is_dir())
    yield place
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    for end in (reader, writer):
        os.close(end)
    recover(tmp_path)
    assert os.listdir(tmp_path) == ["target"]


def test_the_place_of_a_process_that_lives_is_left_alone(tmp_path: Path, stopped: Path) -> None:
    recover(tmp_path)
    write_folder(tmp_path / "target", "new")
    assert (stopped / "new" / "half").read_text() == "x" and stopped.with_name(f"{stopped.name}.lock").exists()
    assert folder_state(tmp_path / "target") == "new"


def abandoned(folder: Path, **owner: str) -> Path:
    """A place as a process that is gone has left it."""
    place = folder / f"{PREFIX}0123456789ab"
    (place / "new").mkdir(parents=True)
    (place / "new" / "half").write_text("x")
    (place / "owner.json").write_text(json.dumps({"target": "target", **owner}))
    (folder / f"{place.name}.lock").touch()
    return place


def test_what_another_machine_left_is_cleared_up_after_a_day(tmp_path: Path) -> None:
    """Its lock may be invisible here, so that it seems free while the process lives."""
    place = abandoned(tmp_path, host="another", boot="another")
    recover(tmp_path)
    assert (place / "new" / "half").exists()
    for path in (*place.rglob("*"), place):
        os.utime(path, (time.time() - staging.A_DAY - 10,) * 2)
    recover(tmp_path)
    assert os.listdir(tmp_path) == []


def test_what_a_container_of_this_machine_left_is_cleared_up(tmp_path: Path) -> None:
    """Each container has a name of its own, and the kernel is the same."""
    boot = staging._this_machine()["boot"]
    if not boot:
        pytest.skip("a system that does not tell when it was started")
    abandoned(tmp_path, host="0f3c5d", boot=boot)
    recover(tmp_path)
    assert os.listdir(tmp_path) == []


def test_what_a_library_left_in_a_place_is_cleared_up(tmp_path: Path) -> None:
    """safetensors writes a file of another name first."""
    place = abandoned(tmp_path, **staging._this_machine())
    (place / ".tmpAbC").write_text("half")
    (place / "cache").mkdir()
    (place / "cache" / "x").write_text("half")
    recover(tmp_path)
    assert os.listdir(tmp_path) == []


def test_what_cannot_be_removed_waits_for_another_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With all that tells what it is."""
    write_folder(tmp_path / "target", "old")
    place = abandoned(tmp_path, **staging._this_machine())
    shutil.rmtree(place / "new")
    (tmp_path / "target").rename(place / "new")
    (place / "placing").touch()

    def fail(_: Path) -> list[str]:
        raise PermissionError

    with monkeypatch.context() as patch:
        patch.setattr(staging, "remove_own", fail)
        recover(tmp_path)
    assert set(os.listdir(place)) == {"owner.json", "placing", "new"} and foreign_files(place / "new") == []
    recover(tmp_path)
    assert os.listdir(tmp_path) == []


def test_hidden_folders_of_others_are_never_touched(tmp_path: Path) -> None:
    for name in (f"{PREFIX}backup", f"{PREFIX}0123456789ab", ".target.abcdefgh", f"{PREFIX}0123456789abc"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "new").write_text("mine")
    (tmp_path / f"{PREFIX}backup.lock").touch()
    place = tmp_path / f"{PREFIX}aaaaaaaaaaaa"  # the name and the lock, and yet not made here
    place.mkdir()
    (place / "new").write_text("mine")
    (tmp_path / f"{place.name}.lock").touch()
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    recover(tmp_path)
    write_folder(tmp_path / "target", "new")
    for path, content in before.items():
        assert path.exists() and (path.is_file() and path.read_bytes()) == content, path


@pytest.mark.parametrize("name", ["../x", "/etc/x", "", "..", ".", 3, None, "a/b"])
def test_nothing_is_put_back_outside_its_folder(tmp_path: Path, name: Any) -> None:
    """Such places come with what strangers send."""
    folder = tmp_path / "unpacked"
    place = abandoned(folder, **staging._this_machine())
    (place / "new").rename(place / "old")
    (place / "owner.json").write_text(json.dumps({"target": name, **staging._this_machine()}))
    recover(folder)
    assert os.listdir(tmp_path) == ["unpacked"] and (place / "old" / "half").exists()


def test_a_lock_that_is_no_file_is_nobodys(tmp_path: Path) -> None:
    place = abandoned(tmp_path, **staging._this_machine())
    (tmp_path / f"{place.name}.lock").unlink()
    os.mkfifo(tmp_path / f"{place.name}.lock")
    recover(tmp_path)
    assert (place / "new" / "half").exists()


def test_a_place_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    place = abandoned(tmp_path / "elsewhere", **staging._this_machine())
    place.with_name(f"{place.name}.lock").rename(tmp_path / f"{place.name}.lock")
    (tmp_path / place.name).symlink_to(place)
    recover(tmp_path)
    assert (place / "new" / "half").exists()


def test_files_that_came_in_at_the_moment_of_a_kill_are_named(tmp_path: Path) -> None:
    target = tmp_path / "target"
    for path in (target, tmp_path / "other"):
        write_folder(path, "old")
    (target / "thesis.docx").write_text("years of work")
    place = abandoned(tmp_path, **staging._this_machine())
    (place / "placing").touch()
    shutil.rmtree(place / "new")
    target.rename(place / "new")
    (tmp_path / "other").rename(target)
    with pytest.warns(UserWarning, match=r"holds files of yours \(thesis\.docx\)"):
        recover(tmp_path)
    assert (place / "new" / "thesis.docx").read_text() == "years of work"


def test_a_disk_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is cleared up there, and everything else goes on."""
    place = abandoned(tmp_path, **staging._this_machine())

    def no_locks(*_: object, **__: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(FileLock, "acquire", no_locks)
    write_folder(tmp_path / "target", "new")
    assert folder_state(tmp_path / "target") == "new"
    assert set(os.listdir(tmp_path)) == {"target", place.name, f"{place.name}.lock"}


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, OSError])
def test_a_folder_being_replaced_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    write_folder(tmp_path / "target", "old")
    rename, calls = Path.rename, []

    def interrupted(self: Path, to: Path) -> Path:
        calls.append(to)
        if len(calls) == 2:
            raise error()
        return rename(self, to)

    monkeypatch.setattr(atomic, "exchange", lambda one, other: False)
    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(error):
        write_folder(tmp_path / "target", "new")
    assert os.listdir(tmp_path) == ["target"] and folder_state(tmp_path / "target") == "old"


def test_a_target_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    target = tmp_path / "target"
    with pytest.raises(OutputError, match="target exists already"), written_whole(target, force=False) as folder:
        (folder / "new").write_text("")
        target.mkdir()
        (target / "mine").write_text("")
    assert os.listdir(tmp_path) == ["target"] and os.listdir(target) == ["mine"]


@pytest.mark.parametrize("force", [True, False])
def test_writers_at_once(tmp_path: Path, force: bool) -> None:
    def write(content: int) -> bool:
        try:
            with written_whole(tmp_path / "target", force) as folder:
                for name in NAMES:
                    (folder / name).parent.mkdir(exist_ok=True)
                    (folder / name).write_text(str(content))
                start.wait()
        except OutputError:
            return False
        return True

    start = threading.Barrier(4)
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(write, range(4)))
    assert done == [True] * 4 if force else sum(done) == 1
    assert os.listdir(tmp_path) == ["target"]
    assert folder_state(tmp_path / "target") in [str(content) for content in range(4) if done[content]]


@pytest.mark.nightly
def test_real_writers_are_killed_at_random_moments() -> None:
    program = [sys.executable, ROOT / "benchmarks" / "kills.py", "--moments", "10"]
    done = subprocess.run(program, env=os.environ | {"KERAS_BACKEND": "torch", "PYTHONPATH": str(ROOT)}, check=False)
    assert done.returncode == 0


def test_exchanging(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.write_text("file")
    if not exchange(one, other):
        pytest.skip("a system or a disk that cannot exchange")
    assert one.read_text() == "file" and other.is_dir()
    with pytest.raises(FileNotFoundError):
        exchange(one, tmp_path / "missing")
    assert one.read_text() == "file"
