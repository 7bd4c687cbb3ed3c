"""How the command line begins and ends, wherever it is started: streams closed, full or of any encoding, a notebook's settings."""

import os
import sys
import warnings
from contextlib import suppress
from typing import NoReturn, TextIO

from bench.records.errors import LeftOut, one_line


def begin() -> None:
    """Make the process fit for work: standard streams open and able to write any text, figures without a screen."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # closed by whoever started this: the next file that is opened would be written to as standard output
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.stdout, sys.stderr = _any_text(sys.stdout, 1), _any_text(sys.stderr, 2)
    os.environ["MPLBACKEND"] = "agg"  # figures go to files; a notebook's backend need not be installed here
    warnings.simplefilter("default", LeftOut)
    warnings.showwarning = _show_warning


def _any_text(stream: TextIO | None, number: int) -> TextIO:
    """The stream, with an escape for what its encoding lacks; a stream to nowhere where it was closed."""
    if stream is None:
        return open(number, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")
    return stream


def _show_warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    complain(f"warning: {message}" if issubclass(category, LeftOut) else f"{category.__name__}: {message}")


def complain(text: str) -> None:
    """A line on standard error, if it can be written."""
    with suppress(OSError):
        print(one_line(text), file=sys.stderr, flush=True)


def end(status: int) -> NoReturn:
    """Exit; where standard output does not take what was written, say so and fail."""
    try:
        sys.stdout.flush()
    except OSError as error:
        fail(error)
    raise SystemExit(status)


def fail(error: OSError) -> NoReturn:
    """Exit because of what the system refused, in one line; that a reader of standard output has gone is nothing to tell."""
    try:
        sys.stdout.flush()
    except OSError:  # what it has not taken is dropped, so that the interpreter ends in peace
        nowhere = os.open(os.devnull, os.O_WRONLY)
        with suppress(OSError, ValueError):
            os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    if isinstance(error, BrokenPipeError):
        raise SystemExit(1) from None  # as typer ends then
    complain(f"error: {error.filename or 'cannot write, to standard output perhaps'}: {error.strerror or error}")
    raise SystemExit(2) from None
