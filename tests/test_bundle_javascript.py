"""The page of a bundle's README runs as pasted, and JavaScript's tokenizer gives the ids that the bundle says."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import keras
import pytest

from mobileclip_keras.converters.deploy.contents.readme_javascript import PACKAGES
from mobileclip_keras.converters.deploy.web.browser import opened_page, why_no_browser
from mobileclip_keras.converters.deploy.web.serving import served

from .bundle_support import export_small, program_of, run_readme

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.usefixtures("small_bundles"),
    pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="every route goes through TensorFlow"),
    pytest.mark.skipif(why_no_browser() is not None, reason=f"{why_no_browser()}"),
]

COUNT = """async () => {
  const { Tokenizer } = await import("@huggingface/tokenizers");
  const read = async (name) => (await fetch("tokenizer/" + name)).text();
  const json = async (name) => JSON.parse(await read(name));
  const tokenizer = new Tokenizer(await json("tokenizer.json"), await json("tokenizer_config.json"));
  const rows = (await read("corpus.jsonl")).trim().split("\\n").map((line) => JSON.parse(line));
  return rows.filter(({ text, ids }) => {
    const found = tokenizer.encode(text).ids.slice(0, 77);
    if (found.length === 77) found[76] = 49407;
    return String(found) !== String(ids);
  }).length;
}"""


def said_by(folder: Path) -> tuple[str, int]:
    """What the page says in the end, and how many texts of the corpus get other ids."""
    with served(folder) as address, opened_page() as page:
        page.goto(f"{address}try.html")
        for _ in range(300):
            said: Any = page.text_content("#said")
            if said != "Computing":
                return said, page.evaluate(COUNT)
            page.wait_for_timeout(200)
    raise AssertionError("it computes for a minute")


@pytest.mark.parametrize("runtime", ["litert", "onnx"])
def test_the_page_in_the_readme_runs(runtime: str, small_folder: Path, tmp_path: Path) -> None:
    folder = export_small(small_folder, runtime, tmp_path / "bundle").folder
    npm = shutil.which("npm") or pytest.skip("npm is not installed")
    command = [npm, "install", "--ignore-scripts", "--silent", *PACKAGES[runtime]]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    if done.returncode:
        pytest.skip(f"npm cannot install: {done.stderr[-200:]}")
    (folder / "try.html").write_text(program_of(folder, "html"))
    said, different = said_by(folder)
    lines = said.splitlines()
    assert [line.split()[0] for line in lines[:2]] == ["golden/cat.jpg", "golden/rocket.jpg"]
    found = [float(number) for line in lines[:2] for number in line.split()[1:]]
    in_python = [float(number) for number in run_readme(folder).replace("[", " ").replace("]", " ").split()]
    assert found == pytest.approx(in_python, abs=0.05)  # a browser resizes otherwise
    assert float(lines[2].split()[-1]) < 1e-6
    assert different <= 2
