"""Runs the fast part of the suite with one set of versions after another: `make matrix`.

    python tests/matrix.py                      every row
    python tests/matrix.py lowest-jax 3.13-jax  these rows
    python tests/matrix.py --list               the names
    python tests/matrix.py --write              puts what was run into the table of docs/versions.md

Each row gets a copy of the checkout and an environment of its own in a temporary folder, which is deleted afterwards.
An environment takes 0.8 GB (JAX), 2 GB (TensorFlow), or 1 to 6 GB (PyTorch). The program itself needs Python 3.11 and
nothing else.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TABLE_FILE = ROOT / "docs" / "versions.md"
TABLE_START, TABLE_END = "<!-- rows of tests/matrix.py -->", "<!-- end of rows -->"
LONGEST = 3600
"""Seconds that one command may take."""

PYTEST = ("-m", "backend and not real and not nightly and not torch")
"""The fast part, as in pyproject.toml. An environment has one backend and little else."""

VERIFY_PYTEST = (
    *("-m", "not real and not nightly"),
    *("-k", "not every_variable_of"),  # which need TensorFlow
    "tests/test_mutations.py",
    "tests/test_torch_reference.py",
)
"""The same for the rows that compare with PyTorch."""

PROGRAMS = (("convert", "--help"), ("mobileclip-keras", "--help"), ("mobileclip-keras", "classify", "--help"))
"""Must end without an error, as typer and click do not fit together in every version."""

TOOLS = ("pytest", "hypothesis")
"""Of the dev extra, what running the tests needs."""

SHOWN = ("keras", "tensorflow", "jax", "torch", "timm", "open-clip-torch", "numpy", "tokenizers", "huggingface-hub")
"""The versions that the table shows."""


@dataclass(frozen=True)
class Row:
    name: str
    python: str
    backend: str
    versions: str
    """ "lowest", "newest" or "nightly"."""
    extras: tuple[str, ...] = ()
    pytest: tuple[str, ...] = PYTEST


ROWS = [
    *(Row(f"lowest-{backend}", "3.11", backend, "lowest") for backend in ("jax", "tensorflow", "torch")),
    Row("lowest-verify", "3.11", "torch", "lowest", ("verify",), VERIFY_PYTEST),
    *(Row(f"newest-{backend}", "3.11", backend, "newest") for backend in ("jax", "tensorflow", "torch")),
    Row("newest-verify", "3.11", "torch", "newest", ("verify",), VERIFY_PYTEST),
    *(
        Row(f"{python}-{backend}", python, backend, "newest")
        for python in ("3.12", "3.13")
        for backend in ("jax", "tensorflow")
    ),
    *(Row(f"nightly-{backend}", "3.11", backend, "nightly") for backend in ("jax", "tensorflow", "torch")),
]


@dataclass
class Result:
    row: Row
    outcome: str
    """ "passed", "failed", "does not install" or "not on this machine"."""
    detail: str = ""
    failures: list[str] = field(default_factory=list)
    python: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    seconds: int = 0
    day: str = field(default_factory=lambda: date.today().isoformat())

    def to_json(self) -> dict[str, Any]:
        row = {"row": self.row.name, "backend": self.row.backend, "set": self.row.versions}
        return row | {key: value for key, value in vars(self).items() if key != "row"}

    def cells(self) -> list[str]:
        shown = ", ".join(f"{name} {self.versions[name]}" for name in SHOWN if name in self.versions)
        outcome = f"{self.outcome}: {self.detail}" if self.detail else self.outcome
        return [self.row.name, self.python or self.row.python, shown, outcome.replace("|", "/"), self.day]


class CommandError(Exception):
    """A command that failed. Its text is what it printed."""


def run(command: Iterable[Any], **options: Any) -> str:
    words = [str(word) for word in command]
    merged = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "timeout": LONGEST}
    try:
        done = subprocess.run(words, **merged, **options)
    except subprocess.TimeoutExpired:
        raise CommandError(f"It took more than {LONGEST} seconds.") from None
    if done.returncode:
        raise CommandError(done.stdout)
    return done.stdout


def find_python(version: str) -> Path | None:
    """An interpreter of this version: on the path, or installed by pyenv."""
    on_path = shutil.which(f"python{version}")
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for candidate in [*([Path(on_path)] if on_path else []), *sorted(pyenv.glob(f"{version}.*/bin/python"))]:
        # A launcher of pyenv may be there for a version that is not.
        done = subprocess.run([candidate, "-c", "import venv"], capture_output=True)
        if done.returncode == 0:
            return candidate
    return None


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def lower_bounds(requirements: Iterable[str]) -> list[str]:
    """Constraints that install exactly the lower bound of each requirement, as in "numpy==2.0"."""
    bounds = []
    for requirement in requirements:
        match = re.match(r"([\w.-]+)(?:\[[^]]*\])?\s*>=\s*([\w.]+)", requirement)
        if match is None:
            raise ValueError(f"{requirement!r} in pyproject.toml has no lower bound.")
        bounds.append(f"{match[1]}=={match[2]}")
    return bounds


def requirements_of(row: Row) -> tuple[list[str], list[str]]:
    """What pyproject.toml asks for in the core and in the row's extras, and the tools that run the tests."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"]]
    for extra in (row.backend, *row.extras):
        asked += extras[extra]
    tools = [line for line in extras["dev"] if re.match(r"[\w.-]+", line)[0] in TOOLS]  # type: ignore[index]
    return asked, tools


def copy_checkout(folder: Path) -> None:
    """The files that git knows or would add, links as links."""
    listed = run(["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"], cwd=ROOT)
    for name in filter(None, listed.split("\0")):
        source, target = ROOT / name, folder / name
        if source.is_symlink() or source.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)


def install(row: Row, python: Path, checkout: Path, environment: Path) -> None:
    asked, tools = requirements_of(row)
    run([python, "-m", "venv", environment])
    pip = [environment / "bin" / "python", "-m", "pip", "--disable-pip-version-check"]
    get = [*pip, "install", "--progress-bar", "off"]
    constrained: list[Any] = []
    if row.versions == "lowest":
        constraints = checkout.parent / "lowest.txt"
        constraints.write_text("\n".join(lower_bounds([*asked, *tools])) + "\n")
        constrained = ["-c", constraints]
    extras = ",".join((row.backend, *row.extras))
    run([*get, *constrained, f"{checkout}[{extras}]", *tools])
    if row.versions == "nightly":  # It installs under Keras' import name, beside a release that others ask for.
        run([*pip, "uninstall", "--quiet", "--yes", "keras"])
        run([*get, "--pre", "keras-nightly"])


def installed_versions(environment: Path) -> dict[str, str]:
    listed = json.loads(run([environment / "bin" / "python", "-m", "pip", "list", "--format", "json"]))
    versions = {normalised(each["name"]): each["version"] for each in listed}
    if "keras-nightly" in versions:
        versions["keras"] = versions["keras-nightly"]
    return versions


def run_tests(row: Row, checkout: Path, environment: Path) -> tuple[str, str, list[str]]:
    """(outcome, detail, names of what failed)."""
    variables = {
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".pytest_cache" / "jax"),  # rows with the same JAX compile once
        **os.environ,
        "KERAS_BACKEND": row.backend,
        "CUDA_VISIBLE_DEVICES": "",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    failures = []
    for program, *arguments in PROGRAMS:
        try:
            run([environment / "bin" / program, *arguments], env=variables, cwd=checkout.parent)
        except CommandError as error:
            failures.append(f"{program} {' '.join(arguments)}: {last_line(str(error))}")
    command = [environment / "bin" / "python", "-m", "pytest", "-q", "-ra", "-p", "no:cacheprovider", *row.pytest]
    try:
        printed = run(command, env=variables, cwd=checkout)
    except CommandError as error:
        printed = str(error)
        named = re.findall(r"^(?:FAILED|ERROR) (.*)$", printed, re.MULTILINE)
        failures += named or [last_line(printed)]
    summary = re.sub(r" in [\d.]+s.*", "", last_line(printed)).strip("= ")
    if failures and "failed" not in summary and "error" not in summary:
        summary += f", {failures[0]}"
    return ("failed" if failures else "passed"), summary, failures


def last_line(text: str) -> str:
    """That has words: programs draw boxes around what they say."""
    return next((line.strip("│ ") for line in reversed(text.splitlines()) if re.search(r"\w", line)), "")


def conflict(printed: str) -> str:
    """What pip says about versions that do not go together."""
    _, found, rest = printed.partition("The conflict is caused by:")
    if found:
        return "; ".join(line.strip() for line in rest.strip().split("\n\n")[0].splitlines())
    errors = [line for line in printed.splitlines() if line.startswith("ERROR")]
    return (errors or [last_line(printed)])[0]


def run_row(row: Row) -> Result:
    python = find_python(row.python)
    if python is None:
        return Result(row, "not on this machine")
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="matrix-") as folder:
        checkout, environment = Path(folder, "checkout"), Path(folder, "environment")
        copy_checkout(checkout)
        try:
            install(row, python, checkout, environment)
        except CommandError as error:
            return Result(row, "does not install", conflict(str(error)))
        outcome, detail, failures = run_tests(row, checkout, environment)
        version = run([environment / "bin" / "python", "-c", "import platform; print(platform.python_version())"])
        result = Result(row, outcome, detail, failures, version.strip(), installed_versions(environment))
    result.seconds = round(time.monotonic() - started)
    return result


HEADER = ["row", "Python", "versions", "fast part", "run on"]


def table(rows: Iterable[list[str]]) -> str:
    lines = [HEADER, ["---"] * len(HEADER), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def write_table(results: list[Result]) -> None:
    """Puts the rows that were run in the table's place of those of the same name, and leaves the others."""
    before, rest = TABLE_FILE.read_text().split(TABLE_START)
    old, after = rest.split(TABLE_END)
    known = {row.name: index for index, row in enumerate(ROWS)}
    cells = {line[2:].split(" |")[0]: line.strip("| ").split(" | ") for line in old.strip().splitlines()[2:]}
    cells |= {result.row.name: result.cells() for result in results}
    ordered = sorted((name for name in cells if name in known), key=known.__getitem__)
    TABLE_FILE.write_text(f"{before}{TABLE_START}\n\n{table(cells[name] for name in ordered)}\n{TABLE_END}{after}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help="names of rows; all where none is given")
    parser.add_argument("--list", action="store_true", help="print the names")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything found to this file")
    parser.add_argument("--write", action="store_true", help=f"put the rows into {TABLE_FILE.relative_to(ROOT)}")
    arguments = parser.parse_args()
    rows = {row.name: row for row in ROWS}
    if arguments.list:
        print("\n".join(rows))
        return 0
    if unknown := [name for name in arguments.rows if name not in rows]:
        parser.error(f"no such row: {', '.join(unknown)}. There are {', '.join(rows)}.")
    results = []
    for name in arguments.rows or rows:
        result = run_row(rows[name])
        results.append(result)
        print(f"{name}: {result.outcome} {result.detail} ({result.seconds} s)", file=sys.stderr, flush=True)
        for failure in result.failures:
            print(f"    {failure}", file=sys.stderr, flush=True)
        # After each row, as all of them take hours.
        if arguments.json:
            arguments.json.write_text(json.dumps([each.to_json() for each in results], indent=2) + "\n")
        if arguments.write:
            write_table(results)
    print(table(result.cells() for result in results), end="")
    # A Python that is not there is no failure, and no proof either.
    return int(any(result.outcome not in ("passed", "not on this machine") for result in results))


if __name__ == "__main__":
    sys.exit(main())
