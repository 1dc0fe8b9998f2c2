"""What every command shares: its output, its errors, and the options that several commands have."""

import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from ...keras_models.backend_choice import missing_backend
from ...keras_models.errors import MobileClipError
from ...keras_models.shown import shown
from ...keras_models.store.writing.output_errors import os_reason


class _Door(Console):
    """The way to the terminal. Whatever a text holds, only styles of our own reach it, and lines of our own.

    Nothing is taken for rich's markup. Characters that cannot be seen are written out, but for the ends of lines: names
    that may hold one go through `shown` where a line is made of them.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Before rich lays it out, and drops some of what cannot be seen."""
        return super().render_str(shown(text, keep="\n"), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Also what does not come as a string, such as the steps of progress bars."""
        for segment in super().render(renderable, options):
            plain = segment.control or segment.text == (text := shown(segment.text, keep="\n"))
            yield segment if plain else Segment(text, segment.style)


console = _Door()
"""Standard output."""
errors = _Door(stderr=True)
"""Standard error."""

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else, on standard output.")]
Force = Annotated[bool, typer.Option("--force", help="Replace what is there.")]


_given: ContextVar[tuple[Any, ...]] = ContextVar("given", default=())


@contextmanager
def plain_errors(*given: Any) -> Iterator[None]:
    """Turns errors into one message on standard error and an exit status of 1, never a traceback.

    Args:
        given: names and paths, or lists of them, that the command was given. None of them ends a line of what is said.
    """
    token = _given.set(given)
    try:
        yield
    except MobileClipError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        _fail("Interrupted; nothing was left behind.", status=130)
    except MemoryError:
        _fail("There is not enough memory.")
    except BrokenPipeError:  # the reader of our output has closed it, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(1) from None
    except OSError as error:
        _fail(f"{error.filename or 'The system'}: {os_reason(error) or error}")
    except typer.Exit:
        raise
    except ModuleNotFoundError as error:
        missing = missing_backend(error)
        if missing is None:
            _unexpected(error)
        _fail(str(missing))
    except Exception as error:  # an error that nobody foresaw must still read as a message
        _unexpected(error)
    finally:
        _given.reset(token)


def _fail(message: str, status: int = 1) -> NoReturn:
    errors.print("Error: ", style="bold red", end="")
    errors.print(_on_its_lines(message), soft_wrap=True)
    raise typer.Exit(status)


def _unexpected(error: Exception) -> NoReturn:
    if os.environ.get("MOBILECLIP_KERAS_TRACEBACK"):
        raise error
    _fail(
        f"Unexpected {type(error).__name__}: {error}\n"
        "This is a mistake in mobileclip-keras. MOBILECLIP_KERAS_TRACEBACK=1 shows where."
    )


def say(sentence: str) -> None:
    """Prints a sentence as it is: long names in it are not broken."""
    console.print(_on_its_lines(sentence), soft_wrap=True)


def _on_its_lines(message: str) -> str:
    """A message in which no name that was given to the command ends a line."""
    for value in _given.get():
        for each in value if isinstance(value, list | tuple) else [value]:
            for part in Path(str(each)).parts if "\n" in str(each) else ():
                message = message.replace(part, shown(part)).replace(Path(part).stem, shown(Path(part).stem))
    return message


def print_json(content: dict[str, Any]) -> None:
    """Prints one JSON object."""
    sys.stdout.write(json.dumps(content, indent=2) + "\n")
