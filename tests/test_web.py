"""A page in a real browser: PyTorch's features, the right label, the keyboard, broken files, and no other host."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pytest
from typer.testing import CliRunner

import mobileclip_keras as mk
from mobileclip_keras.converters.cli import app as cli
from mobileclip_keras.converters.deploy import jobs
from mobileclip_keras.converters.deploy.export import Exported, export
from mobileclip_keras.converters.deploy.proofs import reference
from mobileclip_keras.converters.deploy.proofs.verify_bundle import verify_bundle
from mobileclip_keras.converters.deploy.request import DeployError
from mobileclip_keras.converters.deploy.web.browser import opened_page, why_no_browser
from mobileclip_keras.converters.deploy.web.page_files import PHOTO_LABELS
from mobileclip_keras.converters.deploy.web.proving import check_page, record_requests
from mobileclip_keras.converters.deploy.web.runtime_files import runtime_files
from mobileclip_keras.converters.deploy.web.serving import served
from mobileclip_keras.keras_models.inputs.preprocessing import ImagePreprocessor
from mobileclip_keras.verify.data.inputs import PHOTOS

from .bundle_support import run_readme
from .converted import write_converted
from .small import small_variant
from .small_verified import MCI, build, rows_of
from .small_verified import reference as small_reference
from .software_webgpu import FLAGS as SOFTWARE_WEBGPU

if TYPE_CHECKING:
    from playwright.sync_api import Page

VARIANT = "mobileclip_s0"
SIZE = 64
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


pytestmark = [
    pytest.mark.usefixtures("small_towers"),
    pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="every route goes through TensorFlow"),
    pytest.mark.skipif(why_no_browser() is not None, reason=f"{why_no_browser()}"),
]


def here(job: str, spec: dict[str, Any], backend: str) -> dict[str, Any]:
    """A job in this process, where the small towers are known."""
    return jobs.JOBS[job](json.loads(json.dumps(spec)))


@pytest.fixture(scope="module")
def model() -> mk.MobileClipModel:
    """What the page computes."""
    made = build(MCI, rows_of(MCI))
    made.variant = VARIANT
    return made


@pytest.fixture(scope="module")
def folder(small_towers: None, model: mk.MobileClipModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A converted folder that is verified, its variant small."""
    try:
        runtime_files(None)
    except DeployError as error:
        pytest.skip(str(error))
    with small_variant(VARIANT), pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "reference_of_folder", lambda folder: small_reference(MCI))
        yield write_converted(model, tmp_path_factory.mktemp("made") / "small-keras", VARIANT, ImagePreprocessor(SIZE))


@pytest.fixture(scope="module")
def exported(folder: Path) -> Exported:
    """A page of small towers. Not to be changed."""
    return export(str(folder), "web", out=folder.with_name("page"), run_job=here)


@pytest.fixture
def changed(exported: Exported, tmp_path: Path) -> Path:
    """A copy of the page, to be changed; files are links, so a change replaces one."""
    return Path(shutil.copytree(exported.folder, tmp_path / "page", copy_function=lambda a, b: Path(b).symlink_to(a)))


@contextmanager
def shown(folder: Path, query: str = "", **context: Any) -> "Iterator[Page]":
    """The page of a folder in a browser, its bars filled."""
    with served(folder) as address, opened_page(**context) as page:
        page.set_default_timeout(60_000)
        page.asked = record_requests(page)  # type: ignore[attr-defined]
        page.home = address  # type: ignore[attr-defined]
        page.goto(address + query)
        page.wait_for_selector("#app:not([hidden]), #problem:not([hidden])")
        yield page


def until(page: "Page", condition: str) -> None:
    """Waits for a condition. Playwright's own way to wait is no way under the page's content security policy."""
    for _ in range(600):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"in vain: {condition}")


def bars(page: "Page") -> dict[str, float]:
    """Labels with their percentages, once the page computed them all."""
    until(
        page,
        "[...document.querySelectorAll('#bars li')].every((line) => "
        "Boolean(line.querySelector('input').value) === Boolean(line.querySelector('output').textContent))",
    )
    script = "(lines) => lines.map((line) => [line.querySelector('input').value, line.querySelector('output').value])"
    return {label: float(share.removesuffix(" %")) for label, share in page.eval_on_selector_all("#bars li", script)}


def in_python(model: mk.MobileClipModel, file: Path, labels: list[str]) -> dict[str, float]:
    """The same in percent, by the package."""
    classifier = mk.ZeroShotClassifier(model, labels, templates=["a photo of {}"], preprocessor=ImagePreprocessor(SIZE))
    found = classifier.classify([file], top_k=len(labels))[0]
    return {each.label: 100 * each.probability for each in found}


def test_a_page_is_proven_in_a_browser(exported: Exported) -> None:
    assert exported.about["web"]["proven_in_a_browser"]
    judged = {check.way: check.passed for check in exported.checks if check.judged}
    assert judged == {"": True, "browser": True}
    found = json.loads((exported.folder / "verification.json").read_text())["page"]
    assert found["exact"] and found["pixels"] == 0 and found["ids"] == 0 and found["features"] < 1e-6
    assert "Apache License" in (exported.folder / "runtime" / "LICENSE").read_text()
    assert (exported.folder / "runtime" / "dist" / "index.js").read_text().startswith("// Changed by mobileclip-keras")
    assert verify_bundle(exported.folder).passed


@pytest.mark.nightly
def test_a_page_of_half_the_size_is_proven_too(folder: Path, tmp_path: Path) -> None:
    done = export(str(folder), "web", out=tmp_path / "half", run_job=here, quantize="fp16")
    assert {check.way for check in done.checks if check.passed} == {"", "browser"}
    assert json.loads((done.folder / "verification.json").read_text())["page"]["exact"]


def test_the_bars_show_what_python_computes_and_nobody_else_is_asked(
    exported: Exported, model: mk.MobileClipModel
) -> None:
    with shown(exported.folder) as page:
        first = bars(page)
        assert list(first) == list(PHOTO_LABELS)
        page.set_input_files("#file", PHOTOS / "cat.jpg")
        until(page, "document.getElementById('picture').alt.includes('cat')")
        page.wait_for_timeout(500)
        shares = bars(page)
        expected = in_python(model, PHOTOS / "cat.jpg", list(PHOTO_LABELS))
        assert {label: pytest.approx(share, abs=0.51) for label, share in expected.items()} == shares
        best = page.text_content("#bars li.best output")
        assert best is not None and float(best.removesuffix(" %")) == max(shares.values())
        until(page, "document.getElementById('announcement').textContent.startsWith('Best: ')")
        assert "ms" in (page.text_content("#times") or "")
        page.click("#check")
        until(page, "document.getElementById('check-result').textContent.includes('PyTorch')")
        assert "computes what PyTorch computes. Largest" in (page.text_content("#check-result") or "")
        asked, home = page.asked, page.home  # type: ignore[attr-defined]
    assert len(asked) > 20
    assert [each for each in asked if not each.startswith((home, f"blob:{home}"))] == []


def test_all_is_done_by_keyboard(exported: Exported) -> None:
    with shown(exported.folder) as page:
        bars(page)
        page.focus("#bars li:last-child input")
        page.keyboard.press("Enter")
        page.keyboard.type("a café & more")
        assert list(bars(page))[-1] == "a café & more"
        page.keyboard.press("Escape")
        page.keyboard.press("Backspace")
        assert list(bars(page)) == list(PHOTO_LABELS)
        page.keyboard.press("ArrowUp")
        assert page.evaluate("document.activeElement.getAttribute('aria-label')") == f"Label {len(PHOTO_LABELS) - 1}"
        page.focus("input[name=mode]:checked")
        page.keyboard.press("ArrowRight")
        before = page.evaluate("document.getElementById('canvas').toDataURL()")
        page.focus("#canvas")
        for key in ("ArrowUp", "ArrowLeft", "Space"):
            page.keyboard.press(key)
        page.focus("#undo")
        assert page.evaluate("document.getElementById('canvas').toDataURL()") != before
        page.keyboard.press("Enter")
        assert page.evaluate("document.getElementById('canvas').toDataURL()") == before
        names = "[...document.querySelectorAll('button, input, canvas, video')].filter((each) => each.offsetParent)"
        named = "each.getAttribute('aria-label') || each.labels?.[0]?.textContent.trim() || each.textContent.trim()"
        unnamed = (
            f"{names}.filter((each) => !({named} || each.querySelector('img')?.alt)).map((each) => each.outerHTML)"
        )
        assert page.evaluate(unnamed) == []


def test_a_broken_picture_gives_a_sentence_that_goes_away(exported: Exported, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes((PHOTOS / "cat.jpg").read_bytes()[:100])
    with shown(exported.folder) as page:
        bars(page)
        page.set_input_files("#file", tmp_path / "broken.jpg")
        page.wait_for_selector("#problem:not([hidden])")
        assert page.text_content("#problem") == "broken.jpg is not a picture that this browser can read."
        page.set_input_files("#file", PHOTOS / "cat.jpg")
        page.wait_for_selector("#problem", state="hidden")


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[: len(content) // 2])


def scribble(path: Path) -> None:
    """The length stays."""
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:64] + b"\xff" * 4096 + content[64 + 4096 :])


@pytest.mark.parametrize(
    ("name", "change", "sentence"),
    [
        ("text.tflite", cut, "text.tflite cannot be opened: it is missing or damaged, or memory is short."),
        pytest.param(
            "text.tflite",
            lambda path: scribble(path),
            "text.tflite cannot be opened: it is missing or damaged, or memory is short.",
            marks=pytest.mark.nightly,
        ),
        pytest.param(
            "image.tflite",
            Path.unlink,
            "image.tflite is missing: the server answers 404.",
            marks=pytest.mark.nightly,
        ),
        ("bundle.json", cut, "bundle.json is damaged: it holds no JSON."),
        pytest.param(
            "runtime/dist/index.js",
            Path.unlink,
            "runtime/dist/index.js is missing or damaged: export the page again.",
            marks=pytest.mark.nightly,
        ),
        *(
            pytest.param(
                "runtime/wasm",
                change,
                "A file of runtime/wasm/ cannot be opened: it is missing or damaged, or memory is short.",
                marks=pytest.mark.nightly,
            )
            for change in (shutil.rmtree, lambda folder: [cut(path) for path in folder.glob("*.wasm")])
        ),
    ],
)
def test_a_broken_bundle_gives_a_sentence(
    changed: Path, name: str, change: Callable[[Path], None], sentence: str
) -> None:
    change(changed / name)
    with shown(changed) as page:
        assert page.text_content("#problem") == sentence


def turn_features(folder: Path) -> None:
    """The golden features become others."""
    golden = folder / "golden" / "image_features.bin"
    features = np.frombuffer(golden.read_bytes(), "<f8").reshape(8, -1)[:, ::-1]
    golden.unlink()
    golden.write_bytes(features.tobytes())


def test_a_changed_page_is_not_proven(changed: Path) -> None:
    turn_features(changed)
    with pytest.raises(DeployError, match="does not compute what PyTorch computes"):
        check_page(changed)


@pytest.mark.nightly
def test_the_page_computes_on_webgpu_where_it_is_told_to(exported: Exported) -> None:
    with shown(exported.folder, "?device=webgpu", flags=SOFTWARE_WEBGPU) as page:
        assert " on WebGPU, texts in WebAssembly" in (page.text_content("#device") or "")
        page.click("#check")
        until(page, "document.getElementById('check-result').textContent.includes('PyTorch')")
        assert "computes what PyTorch computes. Largest" in (page.text_content("#check-result") or "")


@pytest.mark.nightly
def test_a_browser_without_webgpu_says_so(exported: Exported) -> None:
    with shown(exported.folder, "?device=webgpu") as page:
        assert page.text_content("#problem") == (
            "This browser offers no WebGPU: leave ?device=webgpu out of the address."
        )


@pytest.mark.nightly
@pytest.mark.parametrize("trusted", [True, False])
def test_webgpu_that_computes_something_else_is_not_used(changed: Path, trusted: bool) -> None:
    """The program that plays a graphics processor passes here for one."""
    if not trusted:
        turn_features(changed)
    with served(changed, {"/empty.html": b"<!doctype html>"}) as address, opened_page(SOFTWARE_WEBGPU) as page:
        page.goto(f"{address}empty.html")
        device = page.evaluate(LOAD_BY_ITSELF)["device"]
    assert device == ("WebGPU, texts in WebAssembly" if trusted else "WebAssembly")


LOAD_BY_ITSELF = """() => {
  for (const [name, value] of [["architecture", "real"], ["isFallbackAdapter", false]])
    Object.defineProperty(GPUAdapterInfo.prototype, name, { get: () => value });
  return import("/model/engine.js").then(({ Engine }) => new Engine().load(null, () => {}));
}"""


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("cores", "relaxed", "program"),
    [(1, True, "litert_wasm_internal"), (4, True, "litert_wasm_threaded_internal"), (4, False, "litert_wasm_compat")],
)
def test_every_program_of_the_runtime_computes_the_same(
    exported: Exported, cores: int, relaxed: bool, program: str
) -> None:
    with served(exported.folder, {"/empty.html": b"<!doctype html>"}) as address, opened_page() as page:
        asked = record_requests(page)
        page.goto(f"{address}empty.html")
        found = page.evaluate(CHECK_HERE, {"cores": cores, "relaxed": relaxed})
    assert any(f"/{program}" in each for each in asked)
    assert found["threads"] == (2 if "threaded" in program else 1)
    assert found["features"] < 1e-6 and found["sameMatches"]


CHECK_HERE = """async ({ cores, relaxed }) => {
  Object.defineProperty(navigator, "hardwareConcurrency", { value: cores });
  const instantiate = WebAssembly.instantiate;
  if (!relaxed)  // what asks for a feature is a few bytes long
    WebAssembly.instantiate = (code, ...given) =>
      code.length < 100 ? Promise.reject(new Error("unknown")) : instantiate(code, ...given);
  const { Engine } = await import("/model/engine.js");
  const engine = new Engine();
  const { threads } = await engine.load("wasm", () => {});
  return { ...(await engine.check()), threads };
}"""


def test_a_narrow_screen_needs_no_sideways_scrolling_and_words_stand_out(exported: Exported) -> None:
    phone = {"width": 320, "height": 640}
    with shown(exported.folder, viewport=phone, has_touch=True, is_mobile=True) as page:
        for mode in ("file", "draw", "camera", "search"):
            page.check(f"input[name=mode][value={mode}]", force=True)
            assert page.evaluate(OVERFLOW) <= 0, mode
        for colours in ("light", "dark"):
            page.emulate_media(color_scheme=colours)  # type: ignore[arg-type]
            contrasts = page.evaluate(CONTRASTS)
            assert min(contrasts.values()) >= 4.5, (colours, contrasts)


CONTRASTS = """() => {
  const style = getComputedStyle(document.documentElement);
  const light = (name) => {
    const hex = style.getPropertyValue(name).trim().slice(1);
    const parts = [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16) / 255);
    const [r, g, b] = parts.map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const pairs = [["--text", "--back"], ["--text", "--card"], ["--quiet", "--back"], ["--quiet", "--card"],
    ["--on-main", "--main"], ["--text", "--bar"], ["--text", "--best"], ["--problem", "--card"]];
  return Object.fromEntries(pairs.map(([a, b]) => {
    const [x, y] = [light(a), light(b)].sort((p, q) => q - p);
    return [a + b, (x + 0.05) / (y + 0.05)];
  }));
}"""


def test_a_folder_is_searched(exported: Exported, model: mk.MobileClipModel, tmp_path: Path) -> None:
    photos = sorted(PHOTOS.glob("*.jpg"))
    (tmp_path / "broken.png").write_bytes(b"nothing")
    with shown(exported.folder) as page:
        page.check("input[name=mode][value=search]", force=True)
        page.set_input_files("#several", [*photos, tmp_path / "broken.png"])
        until(page, "document.getElementById('search-status').textContent.includes('cannot')")
        assert (page.text_content("#search-status") or "").startswith("8 of 9 pictures read")
        page.fill("#query", "a rocket")
        until(page, "document.querySelector('#results span')?.textContent.includes('(')")
        names = page.eval_on_selector_all("#results span", "(all) => all.map((each) => each.textContent.split(' ')[0])")
    images = model.encode_image(ImagePreprocessor(SIZE)([*photos]))
    text = model.encode_text(mk.Tokenizer()(["a photo of a rocket"]))
    scores = keras.ops.convert_to_numpy(images @ keras.ops.transpose(text))[:, 0]
    assert names == [photos[i].name for i in np.argsort(-scores)]


@pytest.mark.nightly
def test_the_program_in_the_readme_runs_as_pasted(exported: Exported) -> None:
    assert run_readme(exported.folder).startswith("[[")


def test_verify_without_a_browser_says_so(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("MOBILECLIP_KERAS_BROWSER", raising=False)
    done = CliRunner().invoke(cli.app, ["verify", str(exported.folder)])
    assert done.exit_code == 0
    assert "Not proven in a browser here: no Chromium or Chrome is on the path." in " ".join(done.output.split())
