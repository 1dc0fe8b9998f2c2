"""A small Hugging Face Hub on loopback, so that tests can let the real client upload and download real bytes.

    with Hub(tmp_path / "hub") as hub:
        token = hub.add_user("user")
        HfApi(endpoint=hub.endpoint, token=token).create_repo("user/name")

It needs no network and trusts nothing to a mock of the client. In a process that has imported huggingface_hub
already, `use_hub` points that client here; a fresh process takes `hub.environment(...)`.
"""

from pathlib import Path

import pytest

from .api import User
from .faults import Fault
from .server import Hub, Seen

__all__ = ["Fault", "Hub", "Seen", "User", "use_hub"]


def use_hub(monkeypatch: pytest.MonkeyPatch, hub: Hub, home: Path, token: str | None = None) -> None:
    """Points this process's client at the test Hub for one test; its retries do not wait."""
    import huggingface_hub.utils
    from huggingface_hub import constants

    huggingface_hub.utils.disable_progress_bars()
    huggingface_hub.close_session()  # a new one reads NO_PROXY again
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in hub.environment(home, token).items():
        monkeypatch.setenv(name, value)
    settings = {
        "ENDPOINT": hub.endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_TOKEN_PATH": str(home / "token"),
        "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"),
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_DISABLE_TELEMETRY": True,
        "HF_HUB_OFFLINE": False,
    }
    for name, setting in settings.items():
        monkeypatch.setattr(constants, name, setting)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
