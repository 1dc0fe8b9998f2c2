"""What a page needs around it: the runtime's files, the server, and the commands' messages."""

import hashlib
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mobileclip_keras.converters.cli import app as cli
from mobileclip_keras.converters.deploy import export as exporting
from mobileclip_keras.converters.deploy.request import DeployError, make_request
from mobileclip_keras.converters.deploy.web import browser, demo, runtime_files
from mobileclip_keras.converters.deploy.web.page_files import SHAPE_LABELS, describe_page, write_pictures
from mobileclip_keras.converters.deploy.web.serving import make_server, served
from mobileclip_keras.keras_models.registry import get_variant
from mobileclip_keras.verify.shapes.vocabulary import UNKNOWN, Vocabulary

BOTH = ("image", "text")
PAGE = Path(runtime_files.__file__).parent / "page"


@pytest.fixture
def small_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for the runtime's files."""
    folder = tmp_path / "installed" / "node_modules" / "@litertjs" / "core"
    hashes = {}
    for name in runtime_files.FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
        hashes[name] = hashlib.sha256(name.encode()).hexdigest()
    monkeypatch.setattr(runtime_files, "FILES", hashes)
    return folder


def test_a_folder_of_the_users_needs_no_npm(small_runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    for given in (small_runtime, small_runtime.parents[2]):
        assert runtime_files.runtime_files(given) == small_runtime


def test_other_files_are_refused(small_runtime: Path) -> None:
    (small_runtime / "dist" / "index.js").write_text("another version")
    with pytest.raises(DeployError, match=r"dist/index\.js has other content"):
        runtime_files.runtime_files(small_runtime)
    with pytest.raises(DeployError, match="lacks files of @litertjs/core"):
        runtime_files.runtime_files(small_runtime / "nothing")


def test_the_program_imports_the_loader_of_the_page(small_runtime: Path, tmp_path: Path) -> None:
    program = small_runtime / "dist" / "index.js"
    program.write_text('import { createWasmLib } from "@litertjs/wasm-utils";\n')
    runtime_files.copy_runtime(small_runtime, tmp_path / "page")
    notice, imported = (tmp_path / "page" / "runtime" / "dist" / "index.js").read_text().splitlines()
    assert "Changed by mobileclip-keras" in notice
    loader = imported.split('"')[1]
    assert imported == f'import {{ createWasmLib }} from "{loader}";'
    assert (tmp_path / "page" / "runtime" / "dist" / loader).resolve() == tmp_path / "page" / "model" / "wasm_loader.js"
    assert (PAGE / "model" / "wasm_loader.js").is_file()
    for name in runtime_files.FILES:
        assert (tmp_path / "page" / "runtime" / name).is_file()
    assert "Apache License" in (tmp_path / "page" / "runtime" / "LICENSE").read_text()


def test_npm_that_is_missing_or_fails_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_runtime: Path
) -> None:
    monkeypatch.setattr(runtime_files, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DeployError, match=r"install Node\.js, or give --runtime a folder that"):
        runtime_files.runtime_files(None)
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "npm").write_text("#!/bin/sh\necho no such host >&2\nexit 1\n")
    (programs / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/bin:/usr/bin")
    with pytest.raises(DeployError, match="it said: no such host"):
        runtime_files.runtime_files(None)
    assert not list((tmp_path / "cache" / "web_runtime").glob("*[!k]"))  # but for the lock


def test_a_page_takes_both_towers_and_prepares_by_itself() -> None:
    assert make_request("web", BOTH).batches == make_request("web", BOTH, batch="1").batches == (1,)
    for options in ({"towers": "image"}, {"preprocess": True, "pixels": "64x64"}, {"embed_outside": True}):
        with pytest.raises(DeployError, match="--to web"):
            make_request("web", BOTH, **options)  # type: ignore[arg-type]
    for batch in ("8", "1,8", "any"):
        with pytest.raises(DeployError, match="one by one: leave --batch out with --to web"):
            make_request("web", BOTH, batch=batch)


def test_a_page_that_no_browser_proved_is_not_called_proven(tmp_path: Path) -> None:
    for tower in BOTH:
        (tmp_path / f"{tower}.tflite").write_bytes(b"12345")
    about = describe_page(tmp_path, get_variant("s0"), "float32", "no Chromium or Chrome is on the path")
    assert not about["proven_in_a_browser"]
    assert about["why_not"] == "Not proven in a browser here: no Chromium or Chrome is on the path."
    assert about["model_bytes"] == 10


def test_a_page_of_the_tiny_model_begins_with_what_it_knows(tmp_path: Path) -> None:
    for tower in BOTH:
        (tmp_path / f"{tower}.tflite").write_bytes(b"12345")
    shapes = get_variant("shapes")
    write_pictures(tmp_path, shapes)
    first = describe_page(tmp_path, shapes, "float32", None)["page"]
    assert first["mode"] == "draw" and tuple(first["labels"]) == SHAPE_LABELS and first["template"] == "{}"
    assert {example["file"] for example in first["examples"]} == {
        path.relative_to(tmp_path).as_posix() for path in (tmp_path / "pictures").iterdir()
    }
    assert {example["name"] for example in first["examples"]} < set(SHAPE_LABELS)
    assert not (Vocabulary.of_captions().rows(SHAPE_LABELS) == UNKNOWN).any()
    write_pictures(tmp_path / "none", get_variant("s0"))  # whose page shows the golden photographs
    assert describe_page(tmp_path, get_variant("s0"), "float32", None)["page"]["mode"] == "file"


def test_demo_without_a_folder_makes_the_page_of_shapes_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, seen = [], []

    def export(name: str, to: str, *, out: Path, **options: Any) -> None:
        assert (name, to) == ("shapes", "web")
        made.append(out)
        out.mkdir()

    monkeypatch.setenv("MOBILECLIP_KERAS_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(exporting, "export", export)
    monkeypatch.setattr(demo, "check_page", lambda folder: None)
    monkeypatch.setattr(demo, "show", lambda folder, port, opens, tell: seen.append((folder, opens)))
    for _ in range(2):
        done = CliRunner().invoke(cli.app, ["demo", "--no-browser"])
        assert done.exit_code == 0, done.output
    assert len(made) == 1 and seen == [(made[0], False)] * 2 and made[0].parent == tmp_path / "cache"
    monkeypatch.setattr(demo, "FORMAT", demo.FORMAT + 1)  # what is there could not be read
    assert CliRunner().invoke(cli.app, ["demo", "--no-browser"]).exit_code == 0 and len(made) == 2


def test_what_a_browser_lacks_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browser, "_program", lambda: "/usr/bin/true")
    monkeypatch.setattr(browser, "find_spec", lambda name: None)
    assert "Playwright is not installed" in (browser.why_no_browser() or "")


def test_the_server_gives_types_and_the_headers_that_threads_need(tmp_path: Path) -> None:
    for name in ("app.js", "program.mjs", "litert.wasm", "image.tflite"):
        (tmp_path / name).write_bytes(b"content")
    (tmp_path.parent / "secret").write_text("secret")
    types = {"app.js": "text/javascript", "program.mjs": "text/javascript", "litert.wasm": "application/wasm"}
    with served(tmp_path) as address:
        for name, kind in {**types, "image.tflite": "application/octet-stream"}.items():
            with urllib.request.urlopen(address + name) as answer:
                assert answer.headers["Content-Type"] == kind
                assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
                assert answer.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        for name in ("missing", "../secret", "%2e%2e/secret"):
            with pytest.raises(urllib.error.HTTPError):
                urllib.request.urlopen(address + name)


def test_demo_says_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def said(*arguments: Any) -> str:
        done = CliRunner().invoke(cli.app, ["demo", "--no-browser", *map(str, arguments)])
        assert done.exit_code == 1
        return " ".join(done.output.split())

    assert "has no bundle.json" in said(tmp_path)
    monkeypatch.setattr(demo, "check_page", lambda folder: None)
    with make_server(tmp_path) as taken:
        port = taken.server_port
        assert f"Port {port} cannot be used" in said(tmp_path, "--port", port)
