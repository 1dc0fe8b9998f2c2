"""The files of LiteRT.js that a page needs. They come from npm, in one version, and are kept in the cache."""

import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from filelock import FileLock

from ...conversion.cache import cache_folder
from ...hub.terms import APACHE_2, asset
from ..request import DeployError

PACKAGE, VERSION = "@litertjs/core", "2.5.3"
FOLDER = "runtime"
"""Of the page."""
PROGRAM = "dist/index.js"
FILES = {
    PROGRAM: "e7daccc3a31eef890848a737ccb863ded5f046a6b40c3fdc0556495adeb5d9b3",
    "wasm/litert_wasm_internal.js": "68efb69f770e3f76aff36a377de629ca496c131b86ac0f0f4b592a1543a898eb",
    "wasm/litert_wasm_internal.wasm": "7280cf4471774867e385e6c3cd53e2b45e2975b80fea338fff4ef359b0865614",
    "wasm/litert_wasm_threaded_internal.js": "92fe7a720c6deedaa1194c011c79a005ea4f6fc98f533b661cf7900760ab4849",
    "wasm/litert_wasm_threaded_internal.wasm": "b5e54eca10f043497edf9a02186332707cae260c550d7ea22b2cae55669596cf",
    "wasm/litert_wasm_compat_internal.js": "4d8f894b7883654fd6e8439730aa41e79ceaab7d19184fc4f1f0b0f1a2a2c8a5",
    "wasm/litert_wasm_compat_internal.wasm": "5255c8ad06eabdbd2522cdebf6b22fc10faf74625c23a49b9e072570cd1fa41c",
}
"""By their paths in the package: the program, and the compiled code for one thread, for several, and for browsers
without relaxed SIMD. The SHA-256 of each."""
IMPORTED = "@litertjs/wasm-utils"
"""What the program imports by a name that means nothing in a worker."""
LOADER = "../../model/wasm_loader.js"
"""The page's own file, which takes its place."""
NOTICE = f"// Changed by mobileclip-keras: it imports {LOADER} in the place of {IMPORTED}.\n"
LICENCE = "LICENSE"
"""Apache-2.0. npm's package names it in its package.json, and does not hold it."""
LONGEST_WAIT = 600
"""Seconds that npm gets."""


def runtime_files(given: Path | None) -> Path:
    """A folder that holds FILES as they were published.

    Args:
        given: a folder of the user's with those files; None for the cache, which npm fills the first time.

    Raises:
        DeployError: where they cannot be had, or are others.
    """
    if given is not None:
        return _checked(given)
    kept = cache_folder() / "web_runtime" / f"{PACKAGE.removeprefix('@').replace('/', '-')}-{VERSION}"
    if not _faults(kept):
        return kept
    if shutil.which("npm") is None:
        raise DeployError(
            f"The page needs {PACKAGE} {VERSION}, which npm fetches, and npm is not installed here: install Node.js, "
            f"or give --runtime a folder that holds {PACKAGE} {VERSION}."
        )
    kept.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(kept.with_name(f"{kept.name}.lock")):
        if _faults(kept):  # else another process was faster
            _fill(kept)
    return kept


def _fill(kept: Path) -> None:
    with tempfile.TemporaryDirectory(dir=kept.parent) as beside:
        new = _fetch(Path(beside))
        if faults := _faults(new):
            raise DeployError(f"npm's {PACKAGE} {VERSION} is not as it was published: {'; '.join(faults)}.")
        shutil.rmtree(kept, ignore_errors=True)
        new.rename(kept)


def _fetch(place: Path) -> Path:
    """The files, out of the package that npm brings."""
    command = ["npm", "pack", "--silent", "--ignore-scripts", f"{PACKAGE}@{VERSION}"]
    try:
        done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=LONGEST_WAIT)
    except subprocess.TimeoutExpired as error:
        raise DeployError(f"npm did not bring {PACKAGE} {VERSION} within {LONGEST_WAIT // 60} minutes.") from error
    packages = list(place.glob("*.tgz"))
    if done.returncode or not packages:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1][:300]
        raise DeployError(
            f"npm could not bring {PACKAGE} {VERSION}; it said: {said}. With --runtime FOLDER, no npm is needed."
        )
    new = place / "files"
    with tarfile.open(packages[0]) as archive:
        for name in FILES:
            content = archive.extractfile(f"package/{name}")
            if content is not None:
                (new / name).parent.mkdir(parents=True, exist_ok=True)
                (new / name).write_bytes(content.read())
    return new


def _checked(given: Path) -> Path:
    """The folder itself, or where npm puts the package in it."""
    places = [given, given / "package", given / "node_modules" / PACKAGE]
    place = next((each for each in places if all((each / name).is_file() for name in FILES)), None)
    if place is None:
        raise DeployError(f"--runtime {given} lacks files of {PACKAGE} {VERSION}: {', '.join(FILES)}.")
    if faults := _faults(place):
        raise DeployError(f"--runtime {given} is not {PACKAGE} {VERSION}: {'; '.join(faults)}.")
    return place


def _faults(folder: Path) -> list[str]:
    found = []
    for name, expected in FILES.items():
        if not (folder / name).is_file():
            found.append(f"{name} is missing")
        elif hashlib.sha256((folder / name).read_bytes()).hexdigest() != expected:
            found.append(f"{name} has other content")
    return found


def copy_runtime(source: Path, page: Path) -> None:
    """Copies the files, and their licence, into a page. The program then imports the page's loader.

    Browsers resolve names of packages by an import map, which workers do not have.
    """
    target = page / FOLDER
    for name in FILES:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target / name)
    program = (source / PROGRAM).read_text(encoding="utf-8")
    (target / PROGRAM).write_text(NOTICE + program.replace(f'"{IMPORTED}"', f'"{LOADER}"'), encoding="utf-8")
    (target / LICENCE).write_text(asset(APACHE_2), encoding="utf-8")
