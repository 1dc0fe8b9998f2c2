"""Publishing: what is refused, what arrives, and that what arrived is used as the model card says."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import mobileclip_keras as mk
from mobileclip_keras.converters.checkpoints.source import synthetic_checkpoint
from mobileclip_keras.converters.cli.app import app
from mobileclip_keras.converters.conversion.convert import convert
from mobileclip_keras.converters.hub import publish as publishing
from mobileclip_keras.converters.hub.contents import file_hashes
from mobileclip_keras.converters.hub.model_card import validate_card
from mobileclip_keras.converters.hub.publish import PublishError, publish
from mobileclip_keras.keras_models.store.hub_errors import HubError
from tests.converted import VARIANT, record_sample
from tests.hub import Hub, use_hub

pytestmark = [
    pytest.mark.usefixtures("small_towers"),
    pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning"),
]

ROOT = Path(__file__).parents[1]
REPO = "user/mobileclip2-s0-keras"
TAG = "v1.2.3"
FILES = {
    "LICENSE",
    "README.md",
    "config.json",
    "conversion.json",
    "metadata.json",
    "model.weights.h5",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "train/config.json",
    "train/metadata.json",
    "train/model.weights.h5",
    "verification.json",
    "verification.png",
}


@pytest.fixture
def folder(publishable: Path) -> Path:
    return publishable


@pytest.fixture(autouse=True)
def version_of_the_tag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mobileclip_keras.converters.hub.publish.version", lambda _: "1.2.3")


@pytest.fixture
def is_run() -> None:
    """Folders are run before they are published, as they are outside of tests."""


@pytest.fixture(autouse=True)
def quick(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders are not run, which takes long, but in tests that ask for it. test_publish_gate.py has more of those."""
    if "is_run" not in request.fixturenames:
        monkeypatch.setattr(publishing, "find_differences", lambda *_: [])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def edit(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


# What is uploaded


@pytest.mark.usefixtures("is_run")
def test_a_verified_folder_is_published_whole_and_tagged(hub: Hub, folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")
    (folder / "train" / "code.py").write_text("print()")
    before = contents(folder)
    done = publish(folder, f"hf://{REPO}")
    repository = hub.repositories[REPO]
    assert done.url == f"{hub.endpoint}/{REPO}" and done.tag == TAG and done.left_out == ("notes.txt", "train/code.py")
    assert {file.path for file in done.files} == FILES and all(file.sent for file in done.files)
    assert repository.tags == {TAG: done.commit} and repository.branches["main"] == done.commit
    assert len(repository.commits) == 2, "one commit after the Hub's first"
    stored = {path: hub.blobs.path(entry.sha256).read_bytes() for path, entry in repository.resolve(TAG).tree.items()}
    assert stored.keys() == FILES | {".gitattributes"}
    assert all(stored[path] == before[path] for path in FILES - {"README.md"})
    assert {path for path, entry in repository.resolve(TAG).tree.items() if entry.lfs} == {
        "model.weights.h5",
        "train/model.weights.h5",
        "verification.png",
    }
    card = stored["README.md"].decode()
    assert validate_card(card)["base_model"] == "apple/MobileCLIP2-S0"
    assert f'from_pretrained("{REPO}")' in card and f'load_model("hf://{REPO}")' in card
    assert f"user/{VARIANT}-keras" not in card
    assert {file.path: file.size for file in done.files} == {path: len(stored[path]) for path in FILES}
    assert contents(folder) == before, "nothing changes in the folder"


def test_publishing_again_sends_nothing(hub: Hub, folder: Path) -> None:
    first = publish(folder, REPO)
    puts, commits = hub.count("PUT"), hub.count("POST", "/commit/")
    again = publish(folder, REPO)
    assert again.commit == first.commit and not any(file.sent for file in again.files)
    assert (hub.count("PUT"), hub.count("POST", "/commit/")) == (puts, commits)
    edit(folder / "metadata.json", date_saved="later")
    verified = json.loads((folder / "verification.json").read_text())
    edit(folder / "verification.json", files_sha256=verified["files_sha256"] | file_hashes(folder))
    with pytest.raises(HubError, match=f"has a tag {TAG}, on other content"):
        publish(folder, REPO)
    newer = publish(folder, REPO, tag="v2")
    assert [file.path for file in newer.files if file.sent] == ["metadata.json", "verification.json"]
    assert hub.repositories[REPO].tags == {TAG: first.commit, "v2": newer.commit}


def test_a_dry_run_changes_nothing(hub: Hub, folder: Path) -> None:
    planned = publish(folder, REPO, dry_run=True)
    assert hub.repositories == {} and planned.commit is None
    assert {file.path for file in planned.files if file.sent} == FILES
    assert publish(folder, REPO).files == planned.files
    assert not any(file.sent for file in publish(folder, REPO, dry_run=True).files)


def test_private_and_on_a_branch(hub: Hub, folder: Path) -> None:
    done = publish(folder, REPO, private=True, revision="next")
    assert hub.repositories[REPO].private and hub.repositories[REPO].branches["next"] == done.commit
    loaded = mk.MobileClipModel.from_pretrained(REPO, revision="next")
    assert loaded.form == "inference" and loaded.variant == VARIANT
    with pytest.raises(HubError, match=r"no token|no such repository"):
        mk.MobileClipModel.from_pretrained(REPO, token=hub.add_user("stranger"), revision=TAG)


# What is refused


def refused(folder: Path) -> str:
    with pytest.raises(PublishError) as error:
        publish(folder, REPO)
    assert str(error.value).startswith(f"{folder} cannot be published:\n- ")
    return str(error.value).split(":\n- ", 1)[1]


def test_what_is_wrong_is_listed_and_nothing_is_sent(hub: Hub, folder: Path) -> None:
    """test_publish_gate.py has what there is to be wrong. A dry run says the same."""
    spoil(folder / "model.weights.h5")
    edit(folder / "verification.json", passed=False)
    again = "verify the folder again"
    assert refused(folder).split("\n- ") == [
        f"verification.json says that the verification did not pass, where every check did: {again}",
        "model.weights.h5 has changed since it was verified",
    ]
    with pytest.raises(PublishError, match="did not pass, where every check did"):
        publish(folder, REPO, dry_run=True)
    assert hub.requests == []


def test_a_folder_that_was_not_verified(hub: Hub, folder: Path) -> None:
    hashes = json.loads((folder / "verification.json").read_text())["files_sha256"]
    record = {"passed": False, "why": "not verified: converted with --no-verify", "files_sha256": hashes}
    for passed in (False, True):
        (folder / "verification.json").write_text(json.dumps(record | {"passed": passed}))
        assert refused(folder) == "it was not verified: converted with --no-verify"
    (folder / "verification.json").unlink()
    with pytest.raises(mk.MobileClipError, match=r"has no verification\.json"):
        publish(folder, REPO)
    assert hub.requests == []


@pytest.mark.usefixtures("is_run")
def test_a_folder_that_computes_something_else_is_not_sent(hub: Hub, folder: Path) -> None:
    edit(folder / "verification.json", sample={"images": [], "texts": [], "logits": []})
    assert "not about the inputs of this version" in refused(folder)
    assert hub.requests == []


# What changes on the way


def spoil(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b" ")


def spoil_after_the_check(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    looked = publishing._look_at

    def look(folder: Path) -> Any:
        found = looked(folder)
        spoil(path)
        return found

    monkeypatch.setattr(publishing, "_look_at", look)


@pytest.mark.parametrize("path", ["config.json", "LICENSE", "tokenizer.json", "verification.json"])
def test_a_file_that_changes_after_the_check(
    hub: Hub, folder: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil_after_the_check(monkeypatch, folder / path)
    with pytest.raises(PublishError, match=rf"was changed while it was looked at: {path}\. Publish it again\."):
        publish(folder, REPO)
    assert hub.requests == []


@pytest.mark.parametrize("dry_run", [True, False])
def test_weights_that_change_after_the_check(
    hub: Hub, folder: Path, dry_run: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil_after_the_check(monkeypatch, folder / "model.weights.h5")
    with pytest.raises(HubError, match=r"while it was published, and was not published: model\.weights\.h5"):
        publish(folder, REPO, dry_run=dry_run)
    assert hub.count("PUT") == 0 and hub.count("POST", "/commit/") == 0


@pytest.mark.parametrize("when", ["while it is hashed", "while it is sent"])
def test_weights_that_change_during_the_upload(
    hub: Hub, folder: Path, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if they are as they were before the commit."""
    import huggingface_hub

    weights = folder / "train" / "model.weights.h5"
    before = weights.read_bytes()
    make, send = huggingface_hub.CommitOperationAdd, huggingface_hub.HfApi.preupload_lfs_files

    def made(path: str, file: Path) -> Any:
        spoil(weights)
        operation = make(path, file)
        assert operation.upload_info.sha256  # newer clients compute it when it is asked for
        weights.write_bytes(before)
        return operation

    def sent(*arguments: Any, **options: Any) -> None:
        send(*arguments, **options)
        spoil(weights)

    if when == "while it is sent":
        monkeypatch.setattr(huggingface_hub.HfApi, "preupload_lfs_files", sent)
    else:
        monkeypatch.setattr(huggingface_hub, "CommitOperationAdd", made)
    with pytest.raises(HubError, match=r"and was not published: train/model\.weights\.h5"):
        publish(folder, REPO)
    assert hub.count("POST", "/commit/") == 0 and hub.repositories[REPO].tags == {}


# What cannot be published


def test_folders_that_are_not_for_zero_shot_classification(hub: Hub, folder: Path, tmp_path: Path) -> None:
    (folder / "train" / "model.weights.h5").unlink()
    assert refused(folder) == "it has no train/model.weights.h5"
    images = tmp_path / "images"
    mk.MobileClipModel.from_pretrained(folder, towers="image").save_pretrained(images)
    assert refused(images) == "it holds the image tower alone, and what is published is to classify by texts"
    (tmp_path / "empty").mkdir()
    for nothing in (tmp_path / "empty", tmp_path / "nowhere"):
        with pytest.raises(mk.MobileClipError, match="holds no converted model"):
            publish(nothing, REPO)
    with pytest.raises(HubError, match="name the repository as user/name"):
        publish(folder, "name")
    assert hub.requests == []


# What goes wrong on the way


def test_the_hub_refuses(hub: Hub, folder: Path) -> None:
    with pytest.raises(HubError, match="the token is not valid"):
        publish(folder, REPO, token="nobody")
    with pytest.raises(HubError, match="does not allow it"):
        publish(folder, "someone/model")
    hub.create(REPO)  # answered by 409: it is there, which is as good
    assert publish(folder, REPO).commit is not None


def test_an_upload_cut_in_the_middle_is_finished_by_the_next(hub: Hub, folder: Path) -> None:
    hub.fault("PUT", "/lfs/", cut_after=10_000, times=math.inf)
    with pytest.raises(HubError, match="broke off"):
        publish(folder, REPO)
    repository = hub.repositories[REPO]
    assert set(repository.resolve("main").tree) == {".gitattributes"} and repository.tags == {}
    hub.faults.clear()
    assert publish(folder, REPO).commit == repository.tags[TAG]


def test_a_hub_without_room(hub: Hub, folder: Path) -> None:
    hub.blobs.quota = 50_000
    with pytest.raises(HubError, match="has no room for the files"):
        publish(folder, REPO)
    assert hub.repositories[REPO].tags == {}
    hub.blobs.quota = None
    assert publish(folder, REPO).commit == hub.repositories[REPO].tags[TAG]


# The command


def test_the_command(hub: Hub, folder: Path) -> None:
    arguments = ["publish", str(folder), "--repo", REPO]
    planned = CliRunner().invoke(app, [*arguments, "--dry-run", "--json"])
    assert planned.exit_code == 0, planned.output
    found = json.loads(planned.stdout)
    assert {file["path"] for file in found["files"]} == FILES and hub.repositories == {}
    assert found["would_create"] is True and found["commit"] is None
    done = CliRunner().invoke(app, [*arguments, "--private"])
    assert done.exit_code == 0, done.output
    assert hub.repositories[REPO].private
    assert re.search(r"train/model\.weights\.h5 .* \d+ MB .* sent", done.stdout)
    assert f"14 files ({sum(f['size'] for f in found['files']) / 1e6:.0f} MB) sent, {TAG}:" in done.stdout
    again = CliRunner().invoke(app, arguments)
    assert "0 files (0 B) sent" in again.stdout and again.stdout.count("there already") == 14
    (folder / "LICENSE").unlink()
    failed = CliRunner().invoke(app, [*arguments, "--json"])
    assert failed.exit_code == 1 and failed.stdout == ""
    assert "cannot be published:\n- it has no LICENSE" in failed.stderr and "Traceback" not in failed.stderr


def test_the_command_without_a_token(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["publish", str(folder), "--repo", REPO]
    monkeypatch.delenv("HF_TOKEN")
    planned = CliRunner().invoke(app, [*arguments, "--dry-run"])
    assert planned.exit_code == 0, planned.output
    assert f"{REPO} is not there, or not for everyone to see; it would be created." in planned.stdout
    assert {request.method for request in hub.requests} == {"GET"} and hub.repositories == {}
    refused = CliRunner().invoke(app, arguments)
    assert refused.exit_code == 1 and "no token with write access" in refused.stderr
    monkeypatch.setenv("HF_TOKEN", next(iter(hub.users)))
    CliRunner().invoke(app, arguments)
    assert "created" not in CliRunner().invoke(app, [*arguments, "--dry-run"]).stdout


# From the command to the reader of the card


@pytest.mark.nightly
@pytest.mark.usefixtures("is_run")
def test_the_code_on_the_card_runs_as_pasted(tmp_path: Path) -> None:
    made = tmp_path / "converted"
    checkpoint = synthetic_checkpoint("2-s0", tmp_path)
    convert(checkpoint, made, variant="2-s0", form="inference", verify=False)
    checkpoint.unlink()
    record_sample(made)
    with Hub(tmp_path / "hub") as hub, pytest.MonkeyPatch.context() as monkeypatch:
        use_hub(monkeypatch, hub, tmp_path / "home", hub.add_user("user"))
        publish(made, REPO, tag=TAG)
        shutil.rmtree(made)
        card = hub.repositories[REPO].resolve("main").tree["README.md"]
        blocks = re.findall(r"```python\n(.*?)```", hub.blobs.path(card.sha256).read_text(), re.DOTALL)
        assert len(blocks) == 2
        ours, plain = blocks
        without = "import sys\nsys.modules.update(dict.fromkeys(('torch', 'timm', 'open_clip')))\n"
        same = "assert keras.ops.all(model.encode_text(tokenize(labels)) == text_features)\n"
        environment = {name: os.environ[name] for name in ("PATH", "KERAS_BACKEND", "CUDA_VISIBLE_DEVICES")}
        ran = subprocess.run(
            [sys.executable, "-c", without + ours + plain + same],
            env=environment | {"PYTHONPATH": str(ROOT)} | hub.environment(tmp_path / "reader"),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert ran.returncode == 0, ran.stderr
    probabilities = re.findall(r"(\d+\.\d)%  (a .*)", ran.stdout)
    assert [label for _, label in probabilities] == ["a red square", "a blue square", "a photo of a dog"]
    assert sum(float(number) for number, _ in probabilities) == pytest.approx(100, abs=0.2)
