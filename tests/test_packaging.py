"""What is on disk is what gets installed, and every folder keeps to what it may import."""

import ast
import importlib
import os
import pkgutil
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "mobileclip_keras"
FOLDERS = ("converters", "keras_models", "verify", "weight_maps")

# What no file of a folder imports, wherever in the file: the way of a checkpoint reads in one direction.
FRAMEWORKS = {"jax", "open_clip", "tensorflow", "timm", "torch", "torchvision"}
NEVER = {
    "keras_models": FRAMEWORKS | {f"{PACKAGE}.weight_maps", f"{PACKAGE}.verify"},
    "weight_maps": FRAMEWORKS | {"h5py", "keras", f"{PACKAGE}.converters", f"{PACKAGE}.verify"},
    "converters": FRAMEWORKS - {"torch"},
    "verify": {f"{PACKAGE}.weight_maps"},
}
# What a file imports only inside the function that needs it, so that the rest works without it.
LAZY = FRAMEWORKS | {"huggingface_hub", "matplotlib", "pyarrow", "scipy", "usearch"}
LAZY_IN = {"keras_models": LAZY | {f"{PACKAGE}.converters"}}
# These consist of PyTorch's own classes and functions, and are themselves imported lazily, or by programs alone.
IN_TORCH = {ROOT / "verify" / "torch_models", ROOT / "verify" / "shapes" / "training"}


def files_on_disk() -> set[str]:
    """Every file that should be installed, by its path inside the package."""
    wanted = {path.name for path in (ROOT / PACKAGE).iterdir() if path.is_file()}
    for folder in FOLDERS:
        found = (path for path in (ROOT / folder).rglob("*") if path.is_file())
        wanted |= {path.relative_to(ROOT).as_posix() for path in found if "__pycache__" not in path.parts}
    return wanted


def files_built(lib: Path) -> set[str]:
    """What setuptools copies into a wheel by pyproject.toml, by its path inside the package."""
    setup = [sys.executable, "-c", "import setuptools; setuptools.setup()"]
    command = [*setup, "build_py", "--build-lib", str(lib)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return {path.relative_to(lib / PACKAGE).as_posix() for path in lib.rglob("*") if path.is_file()}


def test_everything_on_disk_is_installed(tmp_path: Path) -> None:
    built, on_disk = files_built(tmp_path), files_on_disk()
    missing = sorted(on_disk - built)
    assert not missing, f"add to packages or package-data in pyproject.toml: {missing}"
    assert not built - on_disk


def test_the_lists_of_pyproject_name_nothing_that_is_not_there() -> None:
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    for package in setup["packages"]:
        folder = ROOT / (package.removeprefix(f"{PACKAGE}.").replace(".", "/"))
        assert folder.is_dir(), f"packages lists {package}, and there is no folder {folder.name}"
        for pattern in setup["package-data"].get(package, []):
            assert any(folder.glob(pattern)), f"no file of {package} matches {pattern}"
    assert set(setup["package-data"]) <= set(setup["packages"])


def test_links_lead_from_the_package_to_the_folders() -> None:
    links = {path.name: os.readlink(path) for path in (ROOT / PACKAGE).iterdir() if path.is_symlink()}
    assert links == {folder: f"../{folder}" for folder in FOLDERS}


def imports(path: Path) -> list[tuple[str, bool]]:
    """(absolute name, whether at the top level of the file) of every import statement of `path`."""
    package = [PACKAGE, *path.relative_to(ROOT).parent.parts]
    tree = ast.parse(path.read_text())
    inside = {
        id(node)
        for scope in ast.walk(tree)
        if isinstance(scope, ast.FunctionDef | ast.AsyncFunctionDef) or is_type_checking(scope)
        for node in ast.walk(scope)
    }
    found: list[tuple[str, bool]] = []
    for node in ast.walk(tree):
        top = id(node) not in inside
        if isinstance(node, ast.Import):
            found += [(alias.name, top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found += [(f"{module}.{alias.name}", top) for alias in node.names]
    return found


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def names_one_of(module: str, names: set[str] | tuple[str, ...]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in names)


KERNELS = ROOT / "keras_models" / "kernels"  # where what differs between the frameworks stands
DEPLOY = ROOT / "converters" / "deploy"  # whose files TensorFlow writes


@pytest.mark.parametrize("folder", FOLDERS)
def test_imports_keep_to_the_design(folder: str) -> None:
    wrong = []
    for path in sorted((ROOT / folder).rglob("*.py")):
        never = (
            set() if KERNELS in path.parents else NEVER[folder] - ({"tensorflow"} if DEPLOY in path.parents else set())
        )
        lazy = set() if {*IN_TORCH, KERNELS} & {*path.parents} else LAZY_IN.get(folder, LAZY)
        for module, top in imports(path):
            if names_one_of(module, FOLDERS):
                wrong.append(f"{path.relative_to(ROOT)}: {module} instead of {PACKAGE}.{module}")
            elif names_one_of(module, never):
                wrong.append(f"{path.relative_to(ROOT)}: {module} is not for {folder}/")
            elif top and names_one_of(module, lazy):
                wrong.append(f"{path.relative_to(ROOT)}: import {module} inside the function that needs it")
    assert not wrong, "\n".join(wrong)


def test_one_module_for_one_file() -> None:
    """Links, folders and an editable install lead to the same modules, not to second copies of them."""
    package = importlib.import_module(PACKAGE)
    for found in pkgutil.walk_packages(package.__path__, f"{PACKAGE}."):
        if not found.name.endswith(".__main__"):
            importlib.import_module(found.name)
    names: dict[str, list[str]] = {}
    for name, module in list(sys.modules.items()):
        path = os.path.realpath(getattr(module, "__file__", None) or os.devnull)
        if any(Path(path).is_relative_to(ROOT / folder) for folder in (PACKAGE, *FOLDERS)):
            names.setdefault(path, []).append(name)
    assert len(names) >= len(list((ROOT / "keras_models").rglob("*.py")))
    assert all(len(of_one_file) == 1 for of_one_file in names.values()), names


def test_constraints_pin_every_requirement_within_its_bounds() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pins = dict(line.split("==") for line in lines)
    pins = {normalised(name): pinned for name, pinned in pins.items()}
    for requirement in chain(project["dependencies"], *project["optional-dependencies"].values()):
        name, _, least = requirement.partition(">=")
        if not name.startswith(project["name"]):
            assert numbers(pins[distribution(name)]) >= numbers(least), requirement


def test_every_import_is_a_declared_requirement() -> None:
    """What only comes along with another package may be gone tomorrow."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = chain(project["dependencies"], *project["optional-dependencies"].values())
    declared = {distribution(requirement.partition(">=")[0]) for requirement in wanted}
    distributions = packages_distributions()
    for path in (path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")):
        for name in {module.partition(".")[0] for module, _ in imports(path)}:
            if name not in sys.stdlib_module_names | {PACKAGE}:
                of = {normalised(each) for each in distributions.get(name, [])}
                assert of & declared, f"{path.relative_to(ROOT)} imports {name}, which pyproject.toml lacks"


def distribution(name: str) -> str:
    """Of a requirement without its extras: "ray" of "ray[data]"."""
    return normalised(name.partition("[")[0])


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


def test_nothing_forces_a_framework_on_anyone() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {normalised(re.split(r"[<>=~!\[ ]", requirement)[0]) for requirement in project["dependencies"]}
    assert names.isdisjoint(normalised(name) for name in FRAMEWORKS | {"open-clip-torch", "matplotlib"})


@pytest.mark.backend
def test_keras_runs_on_the_backend_asked_for_in_float64() -> None:
    import keras

    assert keras.backend.backend() == os.environ["KERAS_BACKEND"]
    assert keras.backend.standardize_dtype(keras.ops.ones(3, dtype="float64").dtype) == "float64"


@pytest.mark.parametrize("folder", [*FOLDERS, "benchmarks", "examples", "tests"])
def test_private_parts_of_keras_are_left_alone(folder: str) -> None:
    """A refactor in Keras breaks whoever reaches into its private parts."""
    private = re.compile(r"keras\.src|\b(_flatten_layers|_(non_)?trainable_variables|_default_save_signature)\b")
    spared = {Path(__file__), KERNELS / "keras_internals.py", ROOT / "tests" / "test_tensorflow.py"}
    files = [path for path in sorted((ROOT / folder).rglob("*.py")) if path not in spared]
    assert files
    found = [path.relative_to(ROOT).as_posix() for path in files if private.search(path.read_text())]
    assert not found
