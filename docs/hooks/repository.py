"""Joins the site to the repository around it; mkdocs.yml names this file under `hooks`.

Pages link to source files as they do in the repository. The site holds no source files, so there such a link
becomes its text. A link to a file that does not exist stays, and the strict build refuses it.
"""

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
DOCS = "docs/"

# Files outside docs/ that the site holds: place in the site, place in the repository.
ADDED = {
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
    "releasing.md": "RELEASING.md",
    "changelog.md": "CHANGELOG.md",
    "benchmarks/inference.png": "benchmarks/results/inference.png",
}
IN_SITE = {source: place for place, source in ADDED.items()}

_LINK = re.compile(r"(!?)\[([^\[\]]*)\]\(([^()\s]+)\)")


def on_files(files: Files, config: Any) -> Files:
    for place, source in ADDED.items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    place = page.file.src_uri
    folder = os.path.dirname(ADDED.get(place, DOCS + place))

    def resolve(match: re.Match) -> str:
        image, text, target = match.groups()
        path, _, anchor = target.partition("#")
        if not path or "://" in path:
            return match[0]
        source = os.path.normpath(os.path.join(folder, path))
        if source in IN_SITE or source.startswith(DOCS):
            new = os.path.relpath(IN_SITE.get(source, source.removeprefix(DOCS)), os.path.dirname(place) or ".")
            return f"{image}[{text}]({new}{'#' + anchor if anchor else ''})"
        return text if (ROOT / source).exists() else match[0]

    return _LINK.sub(resolve, markdown)
