"""`python -m bench gate`: fails when a change made something worse, and reports what it cannot decide."""

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.records.errors import UserError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
EXPECTED = Path("results/gate/expected.json")
Suite = Annotated[str, typer.Option(help="what is counted: a suite's name, or a Python file with SPECS")]
Expected = Annotated[Path, typer.Option(help="the accepted counts")]


def counted(suite: str) -> dict[str, Any]:
    """The counts of a suite; of the gate's own suite, the solvers' too."""
    import torch

    from bench.execution.plan import Plan
    from bench.execution.suite_loading import load_suite
    from bench.perf_gate.counts import count

    torch.set_num_threads(1)
    _, entries = load_suite(suite, {})
    return count(Plan(entries), solvers=suite == "gate")


def torch_version() -> str:
    """What the accepted counts are keyed by: torch's version without its build."""
    import torch

    return torch.__version__.partition("+")[0]


@app.callback(invoke_without_command=True)
def gate(
    context: typer.Context,
    against: Annotated[str | None, typer.Option(metavar="REVISION", help="compare times with that revision's, too")] = None,
    head: Annotated[
        str | None, typer.Option(metavar="REVISION", help="judge that revision's times (no counts), instead of the working tree")
    ] = None,
    exact: Annotated[bool, typer.Option("--exact", help="the exact tier alone (it is what runs without --against)")] = False,
    suite: Suite = "gate",
    expected: Expected = EXPECTED,
    benchmarks: Annotated[Path, typer.Option(help="folder or file of pytest-benchmark's benchmarks")] = Path("tests/benchmarks"),
    only: Annotated[str | None, typer.Option(metavar="EXPRESSION", help="benchmarks: as pytest's -k")] = None,
    budget: Annotated[float, typer.Option(min=1, metavar="SECONDS", help="time for the timing tier")] = 420.0,
    markdown: Annotated[Path | None, typer.Option(metavar="FILE", help="add the tables to this file (a job's summary)")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON, for scripts")] = False,
) -> None:
    """Compare counts with the accepted ones and, with --against, times with another revision's.

    Exit status 0: nothing is worse, or it cannot be told; 1: a count differs (for the better, too), a benchmark got slower or
    fails; 2: a wrong call.
    """
    if context.invoked_subcommand is not None:
        return
    if exact and against is not None:
        raise UserError("--exact and --against: the exact tier alone has nothing to be timed against")
    if head is not None and against is None:
        raise UserError("--head belongs to --against")
    from bench.perf_gate import show
    from bench.perf_gate.accepted import differences, read_accepted

    if markdown is not None:  # before minutes are spent on what cannot be written
        try:
            markdown.open("a").close()
        except OSError as error:
            raise UserError(f"gate: cannot write {markdown}: {error.strerror}") from error
    different, counts = None, 0
    if head is None:  # what is counted is the code that is here
        known, version = read_accepted(expected), torch_version()
        if version not in known:
            raise UserError(f"{expected} has no counts for torch {version}: python -m bench gate accept --why '…'")
        found = counted(suite)
        different, counts = differences(known[version], found), len(found)
    timed = None if against is None else _timed(against, head, benchmarks, only, budget, quiet=as_json)
    slower = timed is not None and any(effect.verdict == "regression" for effect in timed.effects().values())
    failed = bool(different) or slower or (timed is not None and bool(timed.lost))
    if markdown is not None:
        with markdown.open("a", encoding="utf-8") as file:
            file.write(show.markdown(different, counts, timed))
    print(json.dumps(show.as_data(different, counts, timed, failed), indent=1) if as_json else show.text(different, counts, timed))
    raise typer.Exit(1 if failed else 0)


def _timed(against: str, head: str | None, benchmarks: Path, only: str | None, budget: float, quiet: bool) -> Any:
    from bench.instruments.machine_lock import MachineLock
    from bench.perf_gate.timing import Benchmarks, checkout, compare, name_of, repository_of

    top = repository_of(Path.cwd())
    names = name_of(top, against), name_of(top, head)
    with (
        tempfile.TemporaryDirectory(prefix="deq-bench-gate-") as folder,
        checkout(top, against) as base,
        checkout(top, head) as tip,
    ):
        ours = Benchmarks(benchmarks if head is None else tip / benchmarks, Path(folder), only)
        sides = {"base": base, "head": tip}

        def report(found: Any) -> None:
            open_ = sum(effect.verdict == "inconclusive" for effect in found.effects().values())
            if not quiet:
                typer.echo(f"round {len(found.rounds)}: {open_} of {len(found.names)} open ({found.seconds:.0f} s)", err=True)

        with MachineLock().exclusive():
            found = compare(lambda side: ours.run(sides[side]), budget_s=budget, report=report)
        if not found.names:
            raise UserError("gate: base and head have no benchmark in common")
        found.base, found.head = names
        return found


@app.command()
def accept(
    reason: Annotated[str, typer.Option("--why", help="what changed the counts; goes into the change log")],
    suite: Suite = "gate",
    expected: Expected = EXPECTED,
    changes: Annotated[Path, typer.Option(help="the change log")] = Path("CHANGELOG.md"),
) -> None:
    """Take the counts as they are now for the accepted ones, and say why in the change log."""
    from bench.perf_gate import show
    from bench.perf_gate.accepted import accept, one_line_reason

    reason = one_line_reason(reason)  # before anything is counted
    different = accept(expected, torch_version(), counted(suite), reason, changes)
    if not different:
        print("nothing differs from what was accepted; nothing was written")
        return
    if any(one.accepted is not None for one in different):
        print(show.text(different, len(different), None).rpartition("\n\n")[0])
    print(f"{len(different)} counts written to {expected}, the reason to {changes}")
