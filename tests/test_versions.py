"""The matrix of versions that `make matrix` runs, and the page that reports it."""

import tomllib
from itertools import chain
from pathlib import Path

import pytest

from tests import matrix

PROJECT = tomllib.loads((matrix.ROOT / "pyproject.toml").read_text())["project"]


def test_every_requirement_has_a_lower_bound() -> None:
    extras = {name: lines for name, lines in PROJECT["optional-dependencies"].items() if name != "all"}
    assert matrix.lower_bounds(chain(PROJECT["dependencies"], *extras.values()))
    with pytest.raises(ValueError, match=r"'keras' in pyproject\.toml has no lower bound"):
        matrix.lower_bounds(["keras"])


def test_the_page_has_every_row() -> None:
    text = matrix.TABLE_FILE.read_text()
    assert [row.name for row in matrix.ROWS if f"| {row.name} | {row.python}" not in text] == []


def test_rows_that_were_run_replace_their_own_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "versions.md"
    first, second = matrix.ROWS[:2]
    page.write_text(f"before\n{matrix.TABLE_START}\n{matrix.table([])}{matrix.TABLE_END}\nafter\n")
    monkeypatch.setattr(matrix, "TABLE_FILE", page)
    matrix.write_table([matrix.Result(second, "passed", "9 passed"), matrix.Result(first, "failed", "1 | 2")])
    matrix.write_table([matrix.Result(first, "not on this machine")])
    lines = page.read_text().splitlines()
    rows = [line for line in lines if line.startswith(("| lowest", "| newest"))]
    assert [line.split(" | ")[3] for line in rows] == ["not on this machine", "passed: 9 passed"]
    assert (lines[0], lines[-1]) == ("before", "after")
