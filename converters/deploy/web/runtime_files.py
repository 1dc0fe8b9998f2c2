"""The files of onnxruntime-web that a page needs. They come from npm, in one version, and are kept in the cache."""

import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from importlib.util import find_spec
from pathlib import Path

from filelock import FileLock

from ...conversion.cache import cache_folder
from ..request import DeployError

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
FOLDER = "runtime"
"""Of the page."""
FILES = {
    "ort.wasm.bundle.min.mjs": "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
    "ort.webgpu.bundle.min.mjs": "0730816731ce2cdfb06f273da065d4a1c7091eb9d1756a83b2916c8a89d015e2",
    "ort-wasm-simd-threaded.asyncify.wasm": "39f9f0894d478800487ed9f7dbe92618498db320cf55c8e3d89adff8dce658da",
}
"""The program and the compiled code, without and with WebGPU, and the SHA-256 of each."""
LICENCES = ("LICENSE", "ThirdPartyNotices.txt")
"""In the Python package of the same project; npm's has none."""
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
    kept = cache_folder() / "web_runtime" / f"{PACKAGE}-{VERSION}"
    if not _faults(kept):
        return kept
    if shutil.which("npm") is None:
        raise DeployError(
            f"The page needs {PACKAGE} {VERSION}, which npm fetches, and npm is not installed here: install Node.js, "
            f"or give --runtime a folder with {', '.join(FILES)}."
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
    new.mkdir()
    with tarfile.open(packages[0]) as archive:
        for name in FILES:
            content = archive.extractfile(f"package/dist/{name}")
            if content is not None:
                (new / name).write_bytes(content.read())
    return new


def _checked(given: Path) -> Path:
    """The folder itself, or where npm's package keeps the files in it."""
    places = [given, given / "dist", given / "package" / "dist", given / "node_modules" / PACKAGE / "dist"]
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
    """Copies the files, and their licence, into a page."""
    target = page / FOLDER
    target.mkdir()
    for name in FILES:
        shutil.copyfile(source / name, target / name)
    spec = find_spec("onnxruntime")
    assert spec is not None and spec.origin is not None
    for name in LICENCES:
        shutil.copyfile(Path(spec.origin).parent / name, target / name)
