"""What every command shares: its output, its errors, and the options that several commands have."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from ...keras_models.backend_choice import missing_backend
from ...keras_models.errors import MobileClipError
from ...keras_models.store.output_errors import os_reason

console = Console()
"""Standard output."""
errors = Console(stderr=True)
"""Standard error."""

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else, on standard output.")]
Force = Annotated[bool, typer.Option("--force", help="Replace what is there.")]


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turns errors into one message on standard error and an exit status of 1, never a traceback."""
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


def _fail(message: str, status: int = 1) -> NoReturn:
    errors.print("Error: ", style="bold red", end="")
    errors.print(message, markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(status)


def _unexpected(error: Exception) -> NoReturn:
    if os.environ.get("MOBILECLIP_KERAS_TRACEBACK"):
        raise error
    _fail(
        f"Unexpected {type(error).__name__}: {error}\n"
        "This is a mistake in mobileclip-keras. MOBILECLIP_KERAS_TRACEBACK=1 shows where."
    )


def say(sentence: str) -> None:
    """Prints a sentence as it is: long names in it are not broken, and nothing in it is taken for rich's markup."""
    console.print(sentence, markup=False, highlight=False, soft_wrap=True)


def print_json(content: dict[str, Any]) -> None:
    """Prints one JSON object."""
    sys.stdout.write(json.dumps(content, indent=2) + "\n")
