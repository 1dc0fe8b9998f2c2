"""What is to be exported, checked before any work."""

from dataclasses import dataclass
from pathlib import Path

from ...keras_models.errors import MobileClipError
from .quantize.recipes import BY_LAYER, MEASURED, RECIPES
from .runtimes.registry import RUNTIMES, Runtime

TOWERS = ("image", "text")
LARGEST_BATCH = 1024
LARGEST_SIDE = 16_384


class DeployError(MobileClipError):
    """A bundle cannot be written, or is not what it should be; the message says why. Nothing was left behind."""


@dataclass(frozen=True)
class Request:
    """What `export` is asked for.

    Attributes:
        runtime: a key of RUNTIMES.
        towers: of TOWERS, in that order.
        batches: rows that are computed at once; empty for any number.
        recipe: one of RECIPES, which say how weights are kept.
        preprocess: whether the image tower takes uint8 pixels, which it resizes, crops and normalises itself.
        pixels: (height, width) of those; None for any.
        embed_outside: whether the look-up of token ids is a file of its own.
        budget: the smallest cosine, and the smallest share of best matches that stay, which the files must reach;
            None where any will do, or, for the recipe "auto", recipes.DEFAULT_BUDGET.
    """

    runtime: str
    towers: tuple[str, ...]
    batches: tuple[int, ...]
    recipe: str = "float32"
    preprocess: bool = False
    pixels: tuple[int, int] | None = None
    embed_outside: bool = False
    budget: float | None = None

    @property
    def how(self) -> Runtime:
        """The runtime."""
        return RUNTIMES[self.runtime]


def make_request(
    to: str,
    held: tuple[str, ...],
    *,
    towers: str | None = None,
    batch: str | None = None,
    quantize: str | None = None,
    preprocess: bool = False,
    pixels: str | None = None,
    embed_outside: bool = False,
    budget: float | None = None,
    calibrate: tuple[Path, ...] = (),
) -> Request:
    """What the options of a command ask for.

    Args:
        to: name of a runtime.
        held: the towers that the folder holds.
        towers: names between commas; None for all that are held.
        batch: whole numbers between commas, or "any"; None for what suits the runtime.
        quantize: a recipe; None for float32.
        preprocess: as for Request.
        pixels: "480x640", height first.
        embed_outside: as for Request.
        budget: as for Request.
        calibrate: pictures and texts that the recipe is measured on; `calibration` reads them.

    Raises:
        DeployError: for what cannot be had, in one sentence.
    """
    if to not in RUNTIMES:
        raise DeployError(f"There is no runtime {to!r}. Give --to {_either(tuple(RUNTIMES))}.")
    runtime = RUNTIMES[to]
    recipe = quantize or "float32"
    if recipe not in RECIPES:
        raise DeployError(f"There is no recipe {recipe!r}. Give --quantize {_either(RECIPES)}.")
    if recipe not in runtime.recipes:
        able = [name for name, each in RUNTIMES.items() if recipe in each.recipes]
        raise DeployError(f"{runtime.title} has no recipe {recipe!r} here. Give --to {_either(tuple(able))}.")
    _check_measured(recipe, budget, calibrate)
    chosen = _towers(towers, held)
    if preprocess and "image" not in chosen:
        raise DeployError("--preprocess is about images, and the image tower is not among --towers.")
    if embed_outside and "text" not in chosen:
        raise DeployError("--embed-outside is about texts, and the text tower is not among --towers.")
    if to == "web":
        _check_page(chosen, preprocess, embed_outside, batch)
    size = _pixels(pixels)
    if size and not preprocess:
        raise DeployError("--pixels says the size that --preprocess takes. Give both, or neither.")
    if preprocess and runtime.fixed_shapes and size is None:
        raise DeployError(f"{runtime.title} takes images of one size. Say which: --pixels 480x640, height first.")
    batches = _batches(batch, runtime)
    if preprocess and size is None and batches != (1,):
        if batch not in (None, "1"):
            raise DeployError("Images of any size go through the graph one by one: --batch 1, or --pixels 480x640.")
        batches = (1,)
    return Request(to, chosen, batches, recipe, preprocess, size, embed_outside, budget)


def _check_measured(recipe: str, budget: float | None, calibrate: tuple[Path, ...]) -> None:
    """Raises DeployError where what a recipe is measured by is wrong, or there is nothing to measure."""
    if budget is not None and not 0 < budget <= 1:
        raise DeployError(f"--budget takes a number above 0 and at most 1, such as 0.995, not {budget:g}.")
    if budget is not None and recipe not in MEASURED:
        raise DeployError(f"--budget is about rounded weights: give it with --quantize {_either(MEASURED)}.")
    if calibrate and recipe not in BY_LAYER:
        raise DeployError(f"--calibrate is about recipes that are measured: --quantize {_either(BY_LAYER)}.")


def _towers(asked: str | None, held: tuple[str, ...]) -> tuple[str, ...]:
    names = held if asked is None else tuple(name.strip() for name in asked.split(","))
    unknown = [name for name in names if name not in TOWERS]
    if unknown or not names:
        raise DeployError(f"--towers takes image, text or image,text, not {asked!r}.")
    missing = [name for name in names if name not in held]
    if missing:
        raise DeployError(f"The folder holds no {missing[0]} tower, only the {held[0]} tower.")
    return tuple(name for name in TOWERS if name in names)


def _batches(asked: str | None, runtime: Runtime) -> tuple[int, ...]:
    if asked is None:
        return (1,) if runtime.fixed_shapes else ()
    if asked == "any":
        if runtime.fixed_shapes:
            raise DeployError(f"{runtime.title} takes batches of fixed sizes, such as --batch 1,8.")
        return ()
    numbers = [part.strip() for part in asked.split(",")]
    if not all(part.isascii() and part.isdigit() and 1 <= int(part) <= LARGEST_BATCH for part in numbers):
        raise DeployError(f"--batch takes whole numbers from 1 to {LARGEST_BATCH} between commas, not {asked!r}.")
    batches = tuple(sorted({int(part) for part in numbers}))
    if len(batches) > 1 and not runtime.fixed_shapes:
        raise DeployError(f"One file of {runtime.title} takes one batch, or --batch any.")
    return batches


def _check_page(towers: tuple[str, ...], preprocess: bool, embed_outside: bool, batch: str | None) -> None:
    """Raises DeployError for what a page does in its own way."""
    if towers != TOWERS:
        raise DeployError("A page compares pictures with texts: --to web takes both towers.")
    if preprocess or embed_outside:
        option = "--preprocess" if preprocess else "--embed-outside"
        raise DeployError(f"The page prepares pictures and texts itself: leave {option} out with --to web.")
    if batch not in (None, "1"):
        raise DeployError("The page computes pictures and texts one by one: leave --batch out with --to web.")


def _pixels(asked: str | None) -> tuple[int, int] | None:
    if asked is None:
        return None
    sides = asked.lower().replace("×", "x").split("x")
    if len(sides) != 2 or not all(s.isascii() and s.isdigit() and 1 <= int(s) <= LARGEST_SIDE for s in sides):
        raise DeployError(
            f"--pixels takes height x width, such as 480x640, at most {LARGEST_SIDE} each, not {asked!r}."
        )
    return int(sides[0]), int(sides[1])


def _either(names: tuple[str, ...]) -> str:
    return ", ".join(names[:-1]) + f" or {names[-1]}" if len(names) > 1 else names[0]


def default_out(name: str, runtime: str) -> Path:
    """The bundle's folder where the user names none."""
    return Path(f"{name}-{runtime}")
