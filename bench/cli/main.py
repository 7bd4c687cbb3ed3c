"""The command line: all commands, the process's streams, and exit statuses."""

import os
import shutil
import sys
import warnings
from contextlib import suppress
from typing import Any, NoReturn, TextIO

import typer

from bench.cli import develop, gpu, inspect, listing, report, run, share
from bench.records.errors import LeftOut, UserError, one_line
from bench.report.console import for_terminal, invocation

app = typer.Typer(
    name="bench",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Run suites of deep equilibrium models and baselines, and show their results. A suite is configured in its Python file.",
)
for _command in (
    *(run.run, inspect.status, listing.list_, inspect.show, inspect.compare, inspect.explain, inspect.params, inspect.doctor),
    *(report.report, report.page, report.claims, share.merge, share.export),
    *(develop.check, develop.golden, develop.peers, develop.memory, gpu.gpu),
):
    _name = _command.__name__.rstrip("_")
    app.command(_name, short_help=(_command.__doc__ or "").partition("\n\n")[0])(_command)  # whole sentences, not the first words
app.add_typer(develop.gate_app, name="gate", short_help=(develop.gate.__doc__ or "").partition("\n\n")[0])

_UsageError: Any = typer.BadParameter.__base__  # click's, wherever typer keeps it


def main() -> None:
    """Run the command line. A UserError, a wrong option or an error of the system is one line and exit status 2."""
    _prepare_process()
    try:
        status = app(prog_name=invocation(), standalone_mode=False)
    except UserError as error:
        _complain(f"error: {error}")
        _exit(2)
    except _UsageError as error:
        if len(sys.argv) == 1:  # no arguments: the error is the help text
            error.show()
        else:
            _complain(f"error: {one_line(error.format_message())} (see --help)")
        _exit(2)
    except (KeyboardInterrupt, typer.Abort):
        _complain("interrupted")
        raise SystemExit(130) from None
    except OSError as error:
        _exit_with(error)
    _exit(status if isinstance(status, int) else 0)


def _prepare_process() -> None:
    """Open closed standard streams, let them write any text, and draw figures without a screen."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # closed by the caller: the next file to be opened would be written to as standard output
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.stdout, sys.stderr = _writing_any_text(sys.stdout, 1), _writing_any_text(sys.stderr, 2)
    os.environ["MPLBACKEND"] = "agg"  # figures go to files; a notebook's backend may not be installed here
    warnings.simplefilter("default", LeftOut)
    warnings.showwarning = _show_warning


def _writing_any_text(stream: TextIO | None, number: int) -> TextIO:
    """The stream, escaping what its encoding lacks; a stream to the null device where it was closed."""
    if stream is None:
        return open(number, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")
    return stream


def _show_warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    _complain(f"warning: {message}" if issubclass(category, LeftOut) else f"{category.__name__}: {message}")


def _complain(text: str) -> None:
    with suppress(OSError):
        width = shutil.get_terminal_size().columns if sys.stderr.isatty() else None
        print(for_terminal(one_line(text), width), file=sys.stderr, flush=True)


def _exit(status: int) -> NoReturn:
    """Exit with the status, or as for an error of the system where standard output cannot be flushed."""
    try:
        sys.stdout.flush()
    except OSError as error:
        _exit_with(error)
    raise SystemExit(status)


def _exit_with(error: OSError) -> NoReturn:
    """Print the error in one line and exit with status 2; for a closed pipe print nothing and exit with 1, as typer does."""
    try:
        sys.stdout.flush()
    except OSError:  # drop what was not written, else the interpreter reports it on exit
        null = os.open(os.devnull, os.O_WRONLY)
        with suppress(OSError, ValueError):
            os.dup2(null, sys.stdout.fileno())
        os.close(null)
    if isinstance(error, BrokenPipeError):
        raise SystemExit(1) from None
    _complain(f"error: {error.filename or 'cannot write, to standard output perhaps'}: {error.strerror or error}")
    raise SystemExit(2) from None
