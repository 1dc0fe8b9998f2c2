"""What --src may mean: here, a repository on the Hub."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from mobileclip_keras.converters.checkpoints.source import resolved
from mobileclip_keras.keras_models.store.hub_errors import HubError, NoSuchFileError
from tests.hub import Hub, use_hub

REPO = "user/model"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub with a repository that holds weights under the last of the usual names."""
    with Hub(tmp_path / "hub") as hub:
        use_hub(monkeypatch, hub, tmp_path / "home")
        repository = hub.create(REPO)
        entry = repository.regular_entry(b"weights")
        repository.commit("main", "weights", "user", {"pytorch_model.bin": entry})
        yield hub


def asked(hub: Hub) -> list[str]:
    """The files asked for, in order, each once."""
    return list(dict.fromkeys(request.path.rsplit("/", 1)[1] for request in hub.requests))


def test_the_usual_names_are_tried_in_order(hub: Hub) -> None:
    with resolved(f"hf://{REPO}", None) as path:
        assert path.read_bytes() == b"weights"
    assert asked(hub) == [
        "open_clip_model.safetensors",
        "model.safetensors",
        "open_clip_pytorch_model.bin",
        "pytorch_model.bin",
    ]


def test_a_repository_without_weights(hub: Hub) -> None:
    hub.create("user/empty")
    with pytest.raises(NoSuchFileError, match=r"Cannot get open_clip_model.safetensors of user/empty"):
        resolved("user/empty", None).__enter__()
    assert len(asked(hub)) == 4


def test_what_is_wrong_with_the_hub_is_said_at_once(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each further name would cost another round of the client's retries."""
    for repo in ("user/missing", REPO):
        with pytest.raises(HubError, match=r"there is no such repository|HTTP 503"):
            resolved(repo, None).__enter__()
        assert asked(hub) == ["open_clip_model.safetensors"]
        hub.requests.clear()
        hub.fault("HEAD", "/resolve/", status=503, times=math.inf)


def test_what_the_cache_holds_is_found_offline(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with resolved(REPO, None) as path:
        pass
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hub.requests.clear()
    with resolved(REPO, None) as again:
        assert again == path and hub.requests == []
