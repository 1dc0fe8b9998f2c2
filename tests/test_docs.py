"""The documentation is whole: links lead somewhere, every example has its guide, and every public name its entry."""

import re
from pathlib import Path

import pytest

import mobileclip_keras as mk

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.rglob("*.md")), *sorted(ROOT.glob("*.md"))]
LINK = re.compile(r"\]\(([^()\s]+)\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_within_the_repository_lead_somewhere(page: Path) -> None:
    targets = (target.partition("#")[0] for target in LINK.findall(page.read_text(encoding="utf-8")))
    missing = [name for name in targets if name and "://" not in name and not (page.parent / name).exists()]
    assert not missing


def test_every_example_is_the_program_of_one_guide() -> None:
    included = [
        name
        for guide in (DOCS / "guides").glob("*.md")
        for name in re.findall(r'--8<-- "examples/(\w+)\.py"', guide.read_text(encoding="utf-8"))
    ]
    assert sorted(included) == sorted(path.stem for path in (ROOT / "examples").glob("*.py"))


def test_the_reference_has_every_public_name() -> None:
    text = (DOCS / "api.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^::: mobileclip_keras\.(\w+)$", text, re.MULTILINE)) == set(mk.__all__) - {"__version__"}


def test_every_page_is_in_the_menu() -> None:
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    missing = [path for page in DOCS.rglob("*.md") if f": {(path := page.relative_to(DOCS).as_posix())}\n" not in menu]
    assert not missing


def test_the_readme_is_short() -> None:
    assert (ROOT / "README.md").read_text(encoding="utf-8").count("\n") < 150
