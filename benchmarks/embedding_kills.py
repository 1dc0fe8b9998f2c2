"""What is lost when `embed` is killed: `python embedding_kills.py --kills 100`.

Runs over a collection of files and a shard, some of them broken, get SIGKILL at random moments and are begun again.
After each kill every row is looked at; in the end nothing may be missing, twice, wrong, or left beside the store.
"""

import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from arguments import JSON
from rich.console import Console
from samples import keep

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.killed_embedding import main as kill


def main(
    kills: Annotated[int, typer.Option(min=1, help="How many.")] = 100,
    seed: Annotated[int, typer.Option(help="Of the moments.")] = 0,
    store: Annotated[str, typer.Option(help="The stores' name; with the ending .lance, they are of Lance.")] = "store",
    results: Annotated[Path | None, JSON] = None,
) -> None:
    """Kills runs of `embed`."""
    with tempfile.TemporaryDirectory() as scratch:
        counts = kill(Path(scratch), kills, seed, store)
    Console().print(counts)
    if results is not None:
        keep(results, {f"embed into {store}": counts})
    sys.exit(any(count for name, count in counts.items() if name not in ("kills", "stores", "runs")))


if __name__ == "__main__":
    typer.run(main)
