"""The readers of data sets: layouts, and everything that a file can be instead of right."""

import io
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants

from mobileclip_keras.keras_models.store.hub_errors import HubError
from mobileclip_keras.verify.evaluation.data import shards
from mobileclip_keras.verify.evaluation.data.dataset import DataError, Sample
from mobileclip_keras.verify.evaluation.data.open_data import open_dataset
from mobileclip_keras.verify.evaluation.data.words import check_template, prompt
from tests.datasets import CLASSES, TEMPLATES, change_bytes, members, picture, rows, write_tar, write_webdataset
from tests.hub import Hub


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_webdataset(tmp_path / "data", rows(12))


def read(folder: Path, split: str = "test") -> list[Sample]:
    return list(open_dataset(str(folder), split).read())


def refusal(folder: Path) -> str:
    with pytest.raises(DataError) as error:
        read(folder)
    return str(error.value).replace(f"{folder}/", "")


def test_a_webdataset_is_read_in_order(dataset: Path) -> None:
    found = open_dataset(str(dataset))
    assert (found.kind, found.classes, found.templates) == ("classification", CLASSES, TEMPLATES)
    samples = list(found.read())
    assert [(each.image, each.target) for each in samples] == rows(12)
    assert samples[6].name == "test/1.tar, row 2 (s0000006)"


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "png", "webp", "PNG"])
def test_kinds_of_images(tmp_path: Path, suffix: str) -> None:
    image = picture(0, suffix.lower())
    assert read(write_webdataset(tmp_path / "data", [(image, 1)], suffix=suffix))[0].image == image


def test_captions_and_several_labels(tmp_path: Path) -> None:
    texts = rows(5, "retrieval")
    found = open_dataset(str(write_webdataset(tmp_path / "texts", texts, "retrieval")))
    assert found.kind == "retrieval" and [each.target for each in found.read()] == [target for _, target in texts]
    several = rows(5, "multilabel")
    for sample, (_, target) in zip(
        read(write_webdataset(tmp_path / "several", several, "multilabel")), several, strict=True
    ):
        np.testing.assert_array_equal(sample.target, target)


def test_class_folders(tmp_path: Path) -> None:
    for name, numbers in {"b": (3,), "a_c": (1, 2)}.items():
        (tmp_path / "test" / name / "below").mkdir(parents=True)
        for number in numbers:
            (tmp_path / "test" / name / "below" / f"{number}.png").write_bytes(picture(number))
        (tmp_path / "test" / name / "notes.md").write_text("no image")
    found = open_dataset(str(tmp_path))
    assert (found.classes, found.images, found.templates) == (("a_c", "b"), 3, ())
    assert [(each.image, each.target) for each in found.read()] == [
        (picture(n), t) for n, t in ((1, 0), (2, 0), (3, 1))
    ]
    (tmp_path / "classnames.txt").write_text("one\ntwo\n")
    assert open_dataset(str(tmp_path)).classes == ("one", "two")
    assert open_dataset(str(tmp_path / "test"), "val").images == 3
    (tmp_path / "classnames.txt").write_text("one\n")
    with pytest.raises(DataError, match=r"classnames\.txt names 1 classes, and .* has 2 folders"):
        open_dataset(str(tmp_path))


def test_what_is_no_data_set(dataset: Path, tmp_path: Path) -> None:
    for data, split, message in (
        (dataset, "train", r"has no split 'train'\. It has: test\."),
        (dataset, "../test", "no name of a split"),
        (dataset / "classnames.txt", "test", "is a file"),
        (tmp_path / "nowhere", "test", "There is no folder"),
        ("", "test", "--data is empty"),
    ):
        with pytest.raises(DataError, match=message):
            open_dataset(str(data), split)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"neither test/nshards\.txt of CLIP_benchmark's layout nor folders"):
        open_dataset(str(tmp_path / "empty"))


FILES = {
    "nshards.txt is no number": (
        "test/nshards.txt",
        b"many",
        "test/nshards.txt does not hold the number of shards, but 'many'.",
    ),
    "a shard is missing": (
        "test/nshards.txt",
        b"4",
        "test/3.tar is missing, and test/nshards.txt says that there are 4 shards.",
    ),
    "there are more shards": (
        "test/nshards.txt",
        b"2",
        "test/nshards.txt says that there are 2 shards, and there is test/2.tar, too.",
    ),
    "the kind is unknown": (
        "dataset_type.txt",
        b"video",
        "dataset_type.txt says 'video'; known are classification, multilabel, retrieval.",
    ),
    "a name is missing": ("classnames.txt", b"a\n\nb\n", "classnames.txt, row 2: the name of a class is missing."),
    "names are no text": ("classnames.txt", b"\xff\xfe", "classnames.txt is not a UTF-8 text file."),
    "a template lacks {c}": (
        "zeroshot_classification_templates.txt",
        b"{c}\na photo",
        "zeroshot_classification_templates.txt, row 2: 'a photo' is no template: it needs {c}, and no other braces.",
    ),
    "a template reads attributes": (
        "zeroshot_classification_templates.txt",
        b"{c.__class__}",
        "zeroshot_classification_templates.txt, row 1: '{c.__class__}' is no template: "
        "it needs {c}, and no other braces.",
    ),
    "there are fewer classes": (
        "classnames.txt",
        b"a\nb\n",
        "test/0.tar, row 3 (s0000002): the label is 2, and there are 2 classes, from 0 on.",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_words_that_are_not_as_they_should_be(dataset: Path, name: str) -> None:
    file, content, message = FILES[name]
    (dataset / file).write_bytes(content)
    assert refusal(dataset) == message


ROWS: dict[str, tuple[list[tuple[str, bytes]], str]] = {
    "a label is no number": (
        [("a.png", b""), ("a.cls", b"cat")],
        "test/0.tar, row 1 (a): the label 'cat' is not the number of a class.",
    ),
    "a label is negative": (
        [("a.png", b""), ("a.cls", b"-1")],
        "test/0.tar, row 1 (a): the label '-1' is not the number of a class.",
    ),
    "there is no label": ([("a.png", b""), ("b.cls", b"1")], "test/0.tar, row 1 (a) has no .cls."),
    "there is no image": ([("a.cls", b"1")], "test/0.tar, row 1 (a) has no image (.webp, .png, .jpg, .jpeg)."),
    "a member is there twice": (
        [("a.png", b""), ("a.PNG", b"")],
        "test/0.tar, row 1 (a): it has two members with the suffix .png.",
    ),
    "there is nothing": ([], "test/0.tar holds no images."),
}


@pytest.mark.parametrize("name", ROWS)
def test_rows_that_are_not_as_they_should_be(dataset: Path, name: str) -> None:
    files, message = ROWS[name]
    write_tar(dataset / "test" / "0.tar", files)
    assert refusal(dataset) == message


def with_array(**options: object) -> bytes:
    stream = io.BytesIO()
    np.save(stream, **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no array", "the labels are not a NumPy array"),
        (with_array(arr=np.array([{}]), allow_pickle=True), "the labels are not a NumPy array"),
        (with_array(arr=np.zeros(2)), r"the labels have shape \(2,\), not \(6,\)"),
        (with_array(arr=np.full(6, 2)), "the labels must be 0 or 1"),
    ],
)
def test_labels_that_are_not_as_they_should_be(tmp_path: Path, content: bytes, message: str) -> None:
    folder = write_webdataset(tmp_path / "data", rows(1, "multilabel"), "multilabel")
    write_tar(folder / "test" / "0.tar", [("a.png", b""), ("a.npy", content)])
    with pytest.raises(DataError, match=rf"test/0.tar, row 1 \(a\): {message}"):
        read(folder)


@pytest.mark.parametrize("content", [b"", b"\xff"])
def test_captions_that_are_not_as_they_should_be(tmp_path: Path, content: bytes) -> None:
    folder = write_webdataset(tmp_path / "data", rows(1, "retrieval"), "retrieval")
    write_tar(folder / "test" / "0.tar", [("a.png", b""), ("a.txt", content)])
    assert refusal(folder).startswith("test/0.tar, row 1 (a): ")


# On the Hub


@pytest.fixture
def on_hub(hub: Hub, dataset: Path) -> Hub:
    """The data set as a repository user/wds_small."""
    repository = hub.create("datasets/user/wds_small")
    for number in (0, 1):  # two commits
        files = {p.relative_to(dataset).as_posix(): p.read_bytes() for p in dataset.rglob("*") if p.is_file()}
        files["classnames.txt"] = "\n".join(CLASSES[: 6 - number] * 2).encode()
        added = {name: repository.regular_entry(content) for name, content in files.items()}
        repository.commit("main", f"{number}", "user", added)
    return hub


def test_a_repository_is_read_shard_by_shard(on_hub: Hub) -> None:
    head = on_hub.repositories["datasets/user/wds_small"].branches["main"]
    found = open_dataset("user/wds_small")
    assert (found.name, found.revision, len(found.classes)) == ("user/wds_small", head, 10)
    assert on_hub.count("GET", ".tar") == 0
    samples = found.read()
    next(samples)
    assert on_hub.count("GET", ".tar") == 1
    assert [(each.image, each.target) for each in found.read()] == rows(12)


@pytest.mark.parametrize(
    "name",
    ["hf://datasets/user/wds_small@{}", "https://huggingface.co/datasets/user/wds_small/tree/{}", "user/wds_small@{}"],
)
def test_a_commit_of_a_repository(on_hub: Hub, name: str) -> None:
    repository = on_hub.repositories["datasets/user/wds_small"]
    older = repository.commits[repository.branches["main"]].parent
    found = open_dataset(name.format(older))
    assert (found.name, found.revision, len(found.classes)) == ("user/wds_small", older, 12)


@pytest.mark.parametrize("kind", ["retrieval", "multilabel"])
def test_other_kinds_come_from_the_hub_as_from_a_folder(hub: Hub, tmp_path: Path, kind: str) -> None:
    folder = write_webdataset(tmp_path / kind, rows(7, kind), kind)
    repository = hub.create(f"datasets/user/{kind}")
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    repository.commit("main", "all", "user", {name: repository.regular_entry(each) for name, each in files.items()})
    found, right = open_dataset(f"user/{kind}"), open_dataset(str(folder))
    assert (found.kind, found.classes, found.templates) == (kind, right.classes, right.templates)
    assert [each.digest() for each in found.read()] == [each.digest() for each in right.read()]


def test_what_the_cache_lacks_is_not_taken_for_missing(on_hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a data set is for retrieval stands in a file that most lack. Offline, it must have been asked before."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(HubError, match="it is not in the local cache"):
        open_dataset("user/wds_small")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert len(list(open_dataset("user/wds_small").read())) == 12
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert len(list(open_dataset("user/wds_small").read())) == 12
    shutil.rmtree(constants.HF_HUB_CACHE)
    with pytest.raises(HubError, match="it is not in the local cache"):
        open_dataset("user/wds_small")


def test_repositories_that_are_not_there(on_hub: Hub) -> None:
    with pytest.raises(HubError, match="there is no such repository"):
        open_dataset("user/nothing")
    with pytest.raises(DataError, match="user/wds_small holds no data set with the split 'train'"):
        open_dataset("user/wds_small", "train")
    on_hub.fault("GET", "1.tar", status=500, times=100)
    with pytest.raises(HubError, match=r"Cannot get test/1\.tar of user/wds_small: the Hub is in trouble"):
        list(open_dataset("user/wds_small").read())


# Archives that are broken, or made to do harm


def member(kind: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with tarfile.open(path, "w") as archive:
            info = tarfile.TarInfo("../../etc/passwd.png")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)

    return write


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_named_and_not_read(dataset: Path, kind: bytes) -> None:
    member(kind)(dataset / "test" / "1.tar")
    assert refusal(dataset) == "test/1.tar, member 1 (../../etc/passwd.png) is no regular file, and is not read."


def test_a_shard_that_was_cut_off_anywhere_is_refused(dataset: Path) -> None:
    path = dataset / "test" / "2.tar"
    whole = path.read_bytes()
    end = len(whole.rstrip(b"\0")) // 512 * 512 + 512  # the archive's own end follows
    for size in (0, 1, 511, 512, 600, 1024, end - 512, end - 1, end):
        path.write_bytes(whole[:size])
        assert refusal(dataset).startswith("test/2.tar"), size
    path.write_bytes(whole[: end + 512])
    assert len(read(dataset)) == 12


def test_a_shard_that_was_cut_off_is_named_with_the_member(dataset: Path) -> None:
    path = dataset / "test" / "0.tar"
    whole = path.read_bytes()
    with tarfile.open(path) as archive:
        third = archive.getmembers()[2]
    for size, message in (
        (third.offset_data + 7, ", member 3 (s0000001.png) is cut off: unexpected end of data."),
        (third.offset + 7, f" is broken or cut off after member 2, at byte {third.offset:,}."),
    ):
        path.write_bytes(whole[:size])
        assert refusal(dataset) == f"test/0.tar{message}"


def test_what_surrounds_words_is_left_out(dataset: Path) -> None:
    (dataset / "classnames.txt").write_bytes("\n".join(CLASSES).replace("\n", " \r\n").encode())
    (dataset / "zeroshot_classification_templates.txt").write_bytes(b"\xef\xbb\xbf" + " \r\n".join(TEMPLATES).encode())
    (dataset / "test" / "nshards.txt").write_bytes(b"3\n\n")
    write_tar(dataset / "test" / "0.tar", [("a.png", picture(1)), ("a.cls", b" 4 \r\n")])
    found = open_dataset(str(dataset))
    assert (found.classes, found.templates) == (CLASSES, TEMPLATES) and next(found.read()).target == 4


def test_blank_captions_are_captions_as_in_clip_benchmark(tmp_path: Path) -> None:
    folder = write_webdataset(tmp_path / "data", rows(1, "retrieval"), "retrieval")
    write_tar(folder / "test" / "0.tar", [("a.png", b""), ("a.txt", b"one\r\n\ntwo\n")])
    assert read(folder)[0].target == ("one", "", "two") == tuple("one\r\n\ntwo\n".splitlines())


def test_a_damaged_header_is_no_end(dataset: Path) -> None:
    path = dataset / "test" / "0.tar"
    with tarfile.open(path) as archive:
        third = archive.getmembers()[4].offset
    change_bytes(path, third + 150, b"\xff\xff")
    assert refusal(dataset) == f"test/0.tar is broken or cut off after member 4, at byte {third:,}."


def test_members_and_headers_that_are_too_large(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "LARGEST_FILE", 2000)
    write_tar(dataset / "test" / "0.tar", [("a.png", bytes(2001))])
    assert refusal(dataset) == "test/0.tar, member 1 (a.png) has 2,001 bytes; 2,000 are allowed."
    write_tar(dataset / "test" / "0.tar", [("a" * 3000 + ".png", b"")])
    assert refusal(dataset) == "test/0.tar cannot be read as a tar file: a header of 3,072 bytes."


def test_names_that_cannot_be_seen_are_written_out(dataset: Path) -> None:
    write_tar(dataset / "test" / "0.tar", [("a\x1b[31m.png", b"")])
    assert refusal(dataset) == "test/0.tar, row 1 (a\\x1b[31m) has no .cls."


def test_memory_does_not_grow_with_a_shard(tmp_path: Path) -> None:
    """tarfile keeps every member that it has seen, unless it is told not to."""
    path = tmp_path / "0.tar"
    write_tar(path, [each for number in range(3) for each in members(number, (b"", 1))])
    kept = []
    opened = tarfile.open

    def watched(**options: object) -> tarfile.TarFile:
        kept.append(opened(**options))
        return kept[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tarfile, "open", watched)
        for _ in shards.read_shard(path, "0.tar"):
            assert len(kept[0].members) <= 1


def test_templates_are_filled_as_clip_benchmark_fills_them() -> None:
    for template in (*TEMPLATES, "{c}", "{{c}} of {c}", "{c} and {c}"):
        check_template(template, "here")
        assert prompt(template, "a {dog}") == template.format(c="a {dog}")
    for wrong in ("", "a dog", "{c", "{}", "{c!r}", "{c:>9}", "{c[0]}", "{d} {c}"):
        with pytest.raises(DataError, match=r"^here: "):
            check_template(wrong, "here")
