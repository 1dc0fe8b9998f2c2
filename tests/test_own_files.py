"""Replacing an output removes what this package wrote, as it wrote it, and nothing else."""

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import mobileclip_keras as mk
from mobileclip_keras.keras_models.errors import MobileClipError
from mobileclip_keras.keras_models.store.writing import atomic, targets
from mobileclip_keras.keras_models.store.writing.atomic import folder_placed_whole, written_whole
from mobileclip_keras.keras_models.store.writing.output_errors import OutputError
from mobileclip_keras.keras_models.store.writing.own_files import (
    FORMAT,
    PROGRAM,
    foreign_files,
    own_record,
    read_record,
    remove_own,
)
from mobileclip_keras.keras_models.store.writing.rewriting import rewritten, write_texts
from mobileclip_keras.keras_models.store.writing.targets import check_file_target, check_target
from mobileclip_keras.keras_models.tasks.embedding_files import Embeddings

from .small import small_model

pytestmark = pytest.mark.usefixtures("small_towers")

OLD_FOLDER = Path(__file__).parent / "saved_by_0_1_0"
EMBEDDINGS = Embeddings("s0", ("a.jpg",), np.ones((1, 2), np.float32), (), np.empty((0, 2), np.float32))


def write(target: Path, content: str = "new", force: bool = True) -> None:
    """What `convert` does, with little in the files."""
    with written_whole(target, force) as folder:
        (folder / "train").mkdir()
        for name in ("conversion.json", "config.json", "model.weights.h5", "README.md", "train/model.weights.h5"):
            (folder / name).write_text(f"{content} {name}")


def contents(folder: Path) -> dict[str, Any]:
    """Everything below a folder: what files hold, where links lead, empty folders."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = path.readlink()
        elif path.is_dir():
            found[name] = "folder"
        else:
            found[name] = path.read_bytes() if stat.S_ISREG(path.stat().st_mode) else "device"
    return found


@pytest.fixture
def converted(tmp_path: Path) -> Path:
    write(tmp_path / "work" / "converted", "old")
    return tmp_path / "work" / "converted"


@pytest.fixture(scope="module")
def model() -> mk.MobileClipModel:
    # Not by the fixture of the file: it is made later than those of a module.
    return small_model(form="inference", variant="mobileclip_s0")


def thesis(folder: Path) -> None:
    (folder / "thesis.docx").write_text("years of work")


def repository(folder: Path) -> None:
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("ref: refs/heads/main")


def fine_tuned(folder: Path) -> None:
    (folder / "finetuned").mkdir()
    (folder / "finetuned" / "model.weights.h5").write_text("days of training")


def empty_folder(folder: Path) -> None:
    (folder / "results").mkdir()


def deep_file(folder: Path) -> None:
    (folder / "train" / "log.csv").write_text("1,2")


def hidden_file(folder: Path) -> None:
    (folder / ".env").write_text("SECRET=1")


def changed_card(folder: Path) -> None:
    (folder / "README.md").write_text("my own words")


def changed_in_the_same_size(folder: Path) -> None:
    """The time put back as well, as some programs do."""
    path, before = folder / "model.weights.h5", (folder / "model.weights.h5").stat()
    path.write_bytes(bytes(reversed(path.read_bytes())))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def link_in_place_of_a_file(folder: Path) -> None:
    path = folder / "model.weights.h5"
    shutil.copy(path, folder.parent / "elsewhere.h5")
    path.unlink()
    path.symlink_to(folder.parent / "elsewhere.h5")


def link_in_place_of_a_folder(folder: Path) -> None:
    (folder / "train").rename(folder.parent / "elsewhere")
    (folder / "train").symlink_to(folder.parent / "elsewhere")


def folder_in_place_of_a_file(folder: Path) -> None:
    (folder / "README.md").unlink()
    (folder / "README.md").mkdir()
    (folder / "README.md" / "mine").write_text("x")


def pipe(folder: Path) -> None:
    os.mkfifo(folder / "pipe")


def name_of_a_place_of_ours(folder: Path) -> None:
    (folder / ".mobileclip-keras-backup").mkdir()
    (folder / ".mobileclip-keras-backup" / "old.h5").write_text("x")


@pytest.mark.parametrize(
    ("add", "named"),
    [
        (thesis, "thesis.docx"),
        (repository, r"\.git/"),
        (fine_tuned, "finetuned/"),
        (empty_folder, "results/"),
        (deep_file, r"train/log\.csv"),
        (hidden_file, r"\.env"),
        (changed_card, r"README\.md \(changed since it was written\)"),
        (changed_in_the_same_size, r"model\.weights\.h5 \(changed since it was written\)"),
        (link_in_place_of_a_file, r"model\.weights\.h5 \(changed since it was written\)"),
        (link_in_place_of_a_folder, "train"),
        (folder_in_place_of_a_file, "README.md/"),
        (pipe, "pipe"),
        (name_of_a_place_of_ours, r"\.mobileclip-keras-backup/"),
    ],
)
def test_what_is_not_ours_is_named_and_nothing_is_replaced(
    converted: Path, add: Callable[[Path], None], named: str
) -> None:
    add(converted)
    before = contents(converted.parent)
    with pytest.raises(OutputError, match=rf"converted holds what this program did not write \(.*{named}"):
        write(converted)
    assert contents(converted.parent) == before


def test_everything_is_named_at_once_and_printable(converted: Path) -> None:
    for name in ("a\x1b[31m", "b\nc", *(f"x{number}" for number in range(20))):
        (converted / name).write_text("")
    with pytest.raises(OutputError) as error:
        check_target(converted, force=True)
    assert r"(a\x1b[31m, b\nc, x0, x1, x10" in str(error.value) and "and 12 more)" in str(error.value)


def test_a_folder_as_it_was_written_is_replaced(converted: Path) -> None:
    write(converted)
    assert (converted / "README.md").read_text() == "new README.md"
    shutil.rmtree(converted / "train")  # what is gone cannot be lost
    (converted / "README.md").unlink()
    write(converted, "newer")
    assert (converted / "train" / "model.weights.h5").read_text() == "newer train/model.weights.h5"
    assert set(contents(converted.parent)) == {"converted", *(f"converted/{name}" for name in contents(converted))}


def test_a_copy_is_as_good_as_what_was_written(converted: Path, tmp_path: Path) -> None:
    """It has other times."""
    shutil.copytree(converted, tmp_path / "copy", copy_function=shutil.copyfile)
    write(tmp_path / "copy")
    assert (tmp_path / "copy" / "README.md").read_text() == "new README.md"


@pytest.mark.parametrize(
    "content",
    [
        {"conversion.json": '{"currency": "EUR to USD"}', "invoices.xlsx": "x"},
        {"conversion.json": "{}"},
        {"conversion.json": '{"weights_sha256": {"inference": "ab"}}', "config.json": '{"model_type": "clip"}'},
        {"conversion.json": "{}", "files.json": '{"files": {"conversion.json": {}}}'},
        {"conversion.json": "{}", "files.json": json.dumps({"program": PROGRAM, "format": FORMAT + 1, "files": {}})},
        {"conversion.json": "{}", "files.json": "[" * 100_000},
        {
            "conversion.json": "{}",
            "files.json": json.dumps(
                {"program": PROGRAM, "format": FORMAT, "files": {"conversion.json": {"size": 2, "sha256": []}}}
            ),
        },
    ],
)
def test_a_folder_of_another_program_is_left_alone(tmp_path: Path, content: dict[str, str]) -> None:
    target = tmp_path / "target"
    target.mkdir()
    for name, text in content.items():
        (target / name).write_text(text)
    with pytest.raises(OutputError, match=r"did not write|was not written by this program"):
        write(target)
    assert contents(target) == {name: text.encode() for name, text in content.items()}


def test_a_folder_of_0_1_0_is_replaced_without_what_it_never_held(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(OLD_FOLDER, tmp_path / "old"))
    assert foreign_files(folder) == ["expected.npz"]
    (folder / "expected.npz").unlink()
    assert foreign_files(folder) == []
    with (folder / "train" / "model.weights.h5").open("ab") as file:
        file.write(b"x")
    assert foreign_files(folder) == ["train/model.weights.h5 (changed since it was written)"]
    shutil.rmtree(folder / "train")
    write(folder)
    assert own_record(folder) is not None


def test_removing_an_old_folder_can_be_broken_off_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(shutil.copytree(OLD_FOLDER, tmp_path / "old"))
    (folder / "expected.npz").unlink()
    unlink, removed = Path.unlink, []

    def once(self: Path, missing_ok: bool = False) -> None:
        if self.exists():
            unlink(self)
            removed.append(self.name)
            raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", once)
        for _ in range(20):
            try:
                if remove_own(folder) == []:
                    break
            except InterruptedError:
                pass
    assert not folder.exists() and len(removed) == 9 and removed[-1] == "config.json"


def test_what_appears_at_the_last_moment_is_kept(converted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exchange = atomic.exchange

    def late(one: Path, other: Path) -> bool:
        if not (converted / "thesis.docx").exists() and not (one / "thesis.docx").exists():
            thesis(converted)
        return exchange(one, other)

    before = contents(converted)
    monkeypatch.setattr(atomic, "exchange", late)
    with pytest.raises(OutputError, match=r"thesis\.docx"):
        write(converted)
    assert contents(converted) == {**before, "thesis.docx": b"years of work"}
    assert os.listdir(converted.parent) == ["converted"]


def test_a_folder_that_cannot_be_replaced_is_refused_before_the_work(
    converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(target: Path, reason: str) -> None:
        with pytest.raises(OutputError, match=reason):
            check_target(target, force=True)

    refused(Path("/"), "a disk of its own")
    refused(tmp_path / ("n" * 300), "file name too long")
    monkeypatch.chdir(converted / "train")
    for target in (Path("."), Path(""), Path(".."), converted):
        refused(target, "is the current folder or holds it")
    (tmp_path / "link").symlink_to(converted)
    refused(tmp_path / "link", "is not a folder")


# --- save_pretrained ---


@pytest.mark.backend
@pytest.mark.parametrize("add", [repository, changed_in_the_same_size])
def test_saving_over_a_model_keeps_what_is_not_its_own(
    model: mk.MobileClipModel, tmp_path: Path, add: Callable[[Path], None]
) -> None:
    model.save_pretrained(tmp_path / "saved")
    model.save_pretrained(tmp_path / "saved", overwrite=True)
    add(tmp_path / "saved")
    before = contents(tmp_path)
    with pytest.raises(MobileClipError, match="saved holds what this program did not write"):
        model.save_pretrained(tmp_path / "saved", overwrite=True)
    assert contents(tmp_path) == before


def test_saving_through_a_link_or_into_the_current_folder_is_refused(
    model: mk.MobileClipModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "here")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("link", "dangling"):
        with pytest.raises(MobileClipError, match=r"is not a folder|exists already"):
            model.save_pretrained(tmp_path / name, overwrite=True)
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(MobileClipError, match="is the current folder"):
        model.save_pretrained(".")
    assert set(contents(tmp_path)) == {"here", "link", "dangling"}


def test_a_model_saved_before_there_were_records_is_replaced(model: mk.MobileClipModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / "files.json").unlink()
    thesis(tmp_path / "saved")
    with pytest.raises(MobileClipError, match=r"\(thesis\.docx\)"):
        model.save_pretrained(tmp_path / "saved", overwrite=True)
    (tmp_path / "saved" / "thesis.docx").unlink()
    model.save_pretrained(tmp_path / "saved", overwrite=True)
    assert read_record(tmp_path / "saved") is not None


def test_a_part_that_is_saved_into_the_folder_belongs_to_it(model: mk.MobileClipModel, tmp_path: Path) -> None:
    for _ in range(2):
        model.save_pretrained(tmp_path / "saved", overwrite=True)
        mk.ImagePreprocessor(32, std=(0.5, 0.5, 0.5)).save_pretrained(tmp_path / "saved")
        mk.Tokenizer(20).save_pretrained(tmp_path / "saved")
        assert mk.Tokenizer.from_pretrained(tmp_path / "saved").context_length == 20
    assert foreign_files(tmp_path / "saved") == []


# --- Files written anew in a folder, as `verify` does ---


def test_files_that_are_written_anew_stay_ours(converted: Path) -> None:
    with rewritten(converted, ("README.md", "verification.json")) as anew:
        assert (anew / "train" / "model.weights.h5").read_text() == "old train/model.weights.h5"
        (anew / "README.md").write_text("verified")
        (anew / "verification.json").write_text("{}")
    assert (converted / "README.md").read_text() == "verified" and foreign_files(converted) == []
    assert not [name for name in contents(converted) if name.startswith(".")]


def test_a_changed_file_is_not_written_anew(converted: Path) -> None:
    changed_card(converted)
    thesis(converted)
    before = contents(converted)
    with (
        pytest.raises(OutputError, match=r"changed since they were written: README\.md"),
        rewritten(converted, ("README.md",)),
    ):
        raise AssertionError("this is refused before any work")
    assert contents(converted) == before
    with rewritten(converted, ("LICENSE",)) as anew:
        (anew / "LICENSE").write_text("terms")
    assert contents(converted).keys() == before.keys() | {"LICENSE"}


def test_verifying_a_folder_leaves_it_ours(converted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mobileclip_keras.converters.conversion import verifying
    from mobileclip_keras.converters.conversion.progress import silent

    record = {"dtype": "float32", "variant": "mobileclip2_s0", "computes_like": "training", "source": {}}
    write_texts(converted, {"conversion.json": json.dumps(record)})
    work: list[str] = []
    for name in ("check_packages", "identify", "choose_variant", "form_folders"):
        monkeypatch.setattr(verifying, name, lambda *_: {})
    monkeypatch.setattr(verifying, "open_checkpoint", lambda *_: SimpleNamespace(shapes={}, named={}, causal=None))
    monkeypatch.setattr(verifying, "verify_against", lambda *_: work.append("compared"))
    monkeypatch.setattr(verifying, "write_verification", lambda folder, _: (folder / "README.md").write_text("equal"))
    verifying.verify_folder(converted, Path("a.pt"), silent)
    assert (converted / "README.md").read_text() == "equal" and foreign_files(converted) == []
    changed_card(converted)
    with pytest.raises(OutputError, match=r"README\.md"):
        verifying.verify_folder(converted, Path("a.pt"), silent)
    assert work == ["compared"] and (converted / "README.md").read_text() == "my own words"


def test_a_link_is_replaced_and_what_it_leads_to_is_not(tmp_path: Path) -> None:
    """A snapshot of the Hub's cache is made of links."""
    (tmp_path / "blob").write_text("downloaded")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.json").symlink_to(tmp_path / "blob")
    write_texts(tmp_path / "folder", {"a.json": "new"})
    assert (tmp_path / "blob").read_text() == "downloaded" and (tmp_path / "folder" / "a.json").read_text() == "new"


# --- Single files ---


@pytest.mark.parametrize("kind", ["folder", "link", "dangling", "pipe"])
def test_force_replaces_a_file_and_nothing_else(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "out.npz"
    if kind == "folder":
        target.mkdir()
        (target / "mine").write_text("x")
    elif kind == "pipe":
        os.mkfifo(target)
    else:
        (tmp_path / "there").write_text("mine")
        target.symlink_to(tmp_path / ("there" if kind == "link" else "nowhere"))
    before = contents(tmp_path)
    with pytest.raises(OutputError, match=r"out\.npz exists already"):
        EMBEDDINGS.save(target)
    with pytest.raises(OutputError, match=r"out\.npz is a folder, a link or a device"):
        EMBEDDINGS.save(target, force=True)
    assert contents(tmp_path) == before


def test_a_file_that_appears_meanwhile_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "out.npz"
    monkeypatch.setattr(Embeddings, "_write_npz", lambda self, file: target.write_text("mine"))
    with pytest.raises(OutputError, match="exists already"):
        EMBEDDINGS.save(target)
    monkeypatch.setattr(atomic, "check_file_there", lambda *_, **__: None)  # it appears later still
    target.unlink()
    with pytest.raises(OutputError, match="file exists"):
        EMBEDDINGS.save(target)
    assert contents(tmp_path) == {"out.npz": b"mine"}


def test_names_that_the_system_refuses(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="file name too long"):
        check_file_target(tmp_path / ("n" * 300 + ".npz"), (".npz", ".parquet"), force=True)
    EMBEDDINGS.save(tmp_path / ("n" * 251 + ".npz"))
    write(tmp_path / ("m" * 255))
    assert len(os.listdir(tmp_path)) == 2


def test_the_record_names_every_file(model: mk.MobileClipModel, tmp_path: Path) -> None:
    with folder_placed_whole(tmp_path / "a", lambda *_: None) as folder:
        (folder / "train").mkdir()
        (folder / "train" / "x").write_bytes(b"123")
    record = json.loads((tmp_path / "a" / "files.json").read_text())
    files = record["files"]
    assert record["program"] == "mobileclip-keras" and files.keys() == {"train/x"}
    assert files["train/x"]["size"] == 3 and files["train/x"]["sha256"] == [hashlib.sha256(b"123").hexdigest()]


def test_a_folder_that_is_replaced_while_it_is_looked_at_is_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record may be of the old folder, and the files of the new one."""
    looks: list[Path] = []

    def look(place: Path, **_: bool) -> list[str]:
        looks.append(place)
        if len(looks) > 1:
            return []
        (tmp_path / "other").mkdir()
        (tmp_path / "other").replace(place)
        return ["config.json (changed since it was written)"]

    (tmp_path / "target").mkdir()
    monkeypatch.setattr(targets, "foreign_files", look)
    assert targets.foreign_in(tmp_path / "target") is None and len(looks) == 2
    monkeypatch.setattr(targets, "foreign_files", lambda *_, **__: ["thesis.pdf"])
    assert "thesis.pdf" in (targets.foreign_in(tmp_path / "target") or "")
