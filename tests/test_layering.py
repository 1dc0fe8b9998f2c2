"""The package reads in one direction: no file imports a later layer, and no files import each other in a circle."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOP = ("keras_models", "weight_maps", "verify", "converters")

# From the bottom. A file may import from its own layer and from those above it in this list.
LAYERS = (
    "keras_models.errors",
    "keras_models.shown",
    "keras_models.types",
    "keras_models.formulation",
    "keras_models.backend_choice",
    "keras_models.architectures",
    "keras_models.config_keys",
    "keras_models.registry",
    "keras_models.kernels",
    "keras_models.layers",
    "keras_models.blocks",
    "keras_models.towers",
    "keras_models.store",
    "keras_models.inputs",
    "keras_models.training",
    "keras_models.models",
    "keras_models.tasks",
    "weight_maps",
    "verify",
    "converters.checkpoints",
    "converters.hub",
    "converters.conversion",
    "converters.tuning",
    "converters.deploy",
    "converters.cli",
)
# The one arrow that points upward: a variant's name stands for a copy that the converters make.
DOOR = ("keras_models.store.resolve", "converters.conversion.cache")

Graph = dict[str, set[str]]


def modules() -> dict[str, Path]:
    """Every file of the package by its dotted name, without packages' own `__init__`."""
    files = (path for top in TOP for path in (ROOT / top).rglob("*.py") if path.name != "__init__.py" or has_code(path))
    return {dotted(path.relative_to(ROOT)): path for path in files}


def has_code(path: Path) -> bool:
    return any(not isinstance(node, ast.Expr) for node in ast.parse(path.read_text()).body)


def dotted(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def imported(name: str, path: Path, source: str, known: dict[str, Path]) -> Iterator[str]:
    """What a file imports of this package, also inside functions, but not for type checkers alone."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    todo: list[ast.AST] = [ast.parse(source)]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            todo += node.orelse
            continue
        todo += ast.iter_child_nodes(node)
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*package[: len(package) - node.level + 1], *(node.module or "").split(".")]
            base = [part for part in base if part]
            for alias in node.names:
                longer = ".".join([*base, alias.name])
                yield longer if longer in known else ".".join(base)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            yield from (
                each.removeprefix("mobileclip_keras.") for each in names if each.startswith("mobileclip_keras.")
            )


def draw(added: dict[str, str] | None = None) -> Graph:
    """The files that each file imports; `added` is code to add to files."""
    known = modules()
    sources = {name: path.read_text() + (added or {}).get(name, "") for name, path in known.items()}
    return {name: set(imported(name, path, sources[name], known)) - {name} for name, path in known.items()}


def layer(name: str) -> int:
    found = [index for index, each in enumerate(LAYERS) if name == each or name.startswith(each + ".")]
    assert len(found) == 1, f"{name} stands in no layer: add its folder to LAYERS."
    return found[0]


def upward(graph: Graph) -> set[tuple[str, str]]:
    return {(name, other) for name, others in graph.items() for other in others if layer(other) > layer(name)}


def circles(graph: Graph) -> list[str]:
    """The files that are left once every file is taken away that imports none of those left."""
    left = {name: others & graph.keys() for name, others in graph.items()}
    while done := {name for name, others in left.items() if not others}:
        left = {name: others - done for name, others in left.items() if name not in done}
    return sorted(left)


def test_nothing_imports_a_later_layer_but_through_the_one_door() -> None:
    graph = draw()
    assert len(graph) > 60, "the files are not where this test looks for them"
    assert upward(graph) == {DOOR}


def test_no_files_import_each_other_in_a_circle() -> None:
    graph = draw()
    graph[DOOR[0]].discard(DOOR[1])
    assert circles(graph) == []


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("keras_models.store.load", "\nfrom ..models.model import MobileClipModel\n"),
        ("keras_models.layers.dense", "\ndef late():\n    from ...weight_maps import table\n"),
        ("converters.conversion.convert", "\nimport mobileclip_keras.converters.cli.app\n"),
    ],
)
def test_an_upward_import_is_seen(name: str, code: str) -> None:
    assert {source for source, _ in upward(draw({name: code})) - {DOOR}} == {name}


def test_a_circle_is_seen() -> None:
    graph = draw({"keras_models.models.features": "\ndef late():\n    from .model import MobileClipModel\n"})
    graph[DOOR[0]].discard(DOOR[1])
    assert {"keras_models.models.features", "keras_models.models.model"} <= set(circles(graph))


def test_imports_for_type_checkers_do_not_count() -> None:
    code = "\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..tasks import zero_shot\n"
    assert draw({"keras_models.store.load": code}) == draw()
