"""What the pages of docs/ name in the code is there, under the name and in the file that they give."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(path for path in (ROOT / "docs").rglob("*.md"))
# "`A` and `B` in [folder/file.py](../folder/file.py)". A page may break its lines anywhere.
NAMED = re.compile(r"((?:`\w+`(?:,\s|\sand\s|\sin\s))+)\[[^\]]+\]\((\.\./[\w./]+)\)")


@cache
def defined_in(path: Path) -> set[str]:
    """Names defined at the top of a Python file, or of any file of a folder."""
    if path.is_dir():
        return set().union(*(defined_in(file) for file in path.glob("*.py")))
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


def named_on(page: Path) -> list[tuple[str, Path]]:
    """(symbol, file or folder) of everything in the code that a page names."""
    found = NAMED.findall(page.read_text(encoding="utf-8"))
    return [(name, page.parent / place) for names, place in found for name in re.findall(r"`(\w+)`", names)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_symbol_is_where_the_page_says(page: Path) -> None:
    wrong = [f"{place.resolve().relative_to(ROOT)}: {name}" for name, place in named_on(page) if not place.exists()]
    assert not wrong, f"no such file: {wrong}"
    wrong = [
        f"{place.resolve().relative_to(ROOT)}: {name}"
        for name, place in named_on(page)
        if name not in defined_in(place.resolve())
    ]
    assert not wrong, f"no such name: {wrong}"


def test_every_trap_names_the_code_that_heeds_it() -> None:
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| .+ \| (.+) \|$", text, re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, 14))
    for number, heeded in rows:
        assert NAMED.search(heeded), f"trap {number} names no code"
