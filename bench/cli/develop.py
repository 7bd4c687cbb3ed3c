"""Commands for who changes code: check, gate, golden, peers, memory."""

import dataclasses
import importlib.util
import json
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.cli.options import Device, Json, parse_device, parse_settings
from bench.records.errors import UserError, one_line
from bench.report.console import say, terminal_width

PUBLISHED_MEMORY = Path("results/memory")

gate_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
EXPECTED = Path("results/gate/expected.json")
Counted = Annotated[str, typer.Option("--suite", help="what is counted: a suite's name, or a Python file with SPECS")]
Expected = Annotated[Path, typer.Option(help="the accepted counts")]


def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="a Python file with a Cell, Core, Solver or Task")],
    only: Annotated[list[str] | None, typer.Option(metavar="NAME", help="check only this one; may be repeated")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="a setting, for what takes it; may be repeated")
    ] = None,
    as_json: Json = False,
) -> None:
    """Test what a file defines: shapes, causality, gradients, memory, determinism, fixed points, chance and optimum.

    Takes seconds on one core. Exit status 0: nothing failed; 1: a check failed, or one of several things cannot be made; 2: a wrong
    call, or a file that cannot be imported.
    """
    given = parse_settings(settings or [])
    import torch

    from bench.conformance.load import check_definition, find, load, settings_for
    from bench.conformance.result import render

    torch.set_num_threads(1)
    found = find(load(file), only or [])
    reports, refused = [], []
    for one, own in zip(found, settings_for(found, given), strict=True):
        try:
            reports.append(check_definition(one, own, file))
            text = render(reports[-1], terminal_width() or 132)
        except UserError as error:
            if len(found) == 1:
                raise
            refused.append(text := str(error))
        if not as_json:
            print(text, flush=True)
    failed = bool(refused) or any(report.failed for report in reports)
    if as_json:
        data = {"file": str(file), "failed": failed, "refused": refused, "checked": list(map(dataclasses.asdict, reports))}
        print(json.dumps(data, indent=1))
    raise typer.Exit(1 if failed else 0)


@gate_app.callback(invoke_without_command=True)
def gate(
    context: typer.Context,
    against: Annotated[str | None, typer.Option(metavar="REVISION", help="compare times with that revision's, too")] = None,
    head: Annotated[
        str | None, typer.Option(metavar="REVISION", help="judge that revision's times (no counts), instead of the working tree")
    ] = None,
    exact: Annotated[bool, typer.Option("--exact", help="compare counts only (the default without --against)")] = False,
    suite: Counted = "gate",
    expected: Expected = EXPECTED,
    benchmarks: Annotated[Path, typer.Option(help="folder or file of pytest-benchmark's benchmarks")] = Path("tests/benchmarks"),
    only: Annotated[str | None, typer.Option(metavar="EXPRESSION", help="benchmarks: as pytest's -k")] = None,
    budget: Annotated[float, typer.Option(min=1, metavar="SECONDS", help="time for the benchmarks")] = 420.0,
    markdown: Annotated[Path | None, typer.Option(metavar="FILE", help="add the tables to this file (a job's summary)")] = None,
    as_json: Json = False,
) -> None:
    """Compare counts with the accepted ones and, with --against, times with another revision's.

    Exit status 0: nothing is worse; 1: a count differs (even for the better), a benchmark got slower or fails; 2: a wrong call;
    3: none of these, but some times do not decide (too few rounds, or noise).
    """
    if context.invoked_subcommand is not None:
        return
    if exact and against is not None:
        raise UserError("--exact compares counts only, --against compares times: give one of them")
    for option, value in (("--head", head), ("--only", only)):
        if value is not None and against is None:
            raise UserError(f"{option} belongs to --against")
    from bench.perf_gate import show
    from bench.perf_gate.accepted import differences, read_accepted
    from bench.perf_gate.timing import name_of, repository_of

    if markdown is not None:  # before minutes are spent
        try:
            markdown.open("a").close()
        except OSError as error:
            raise UserError(f"gate: cannot write {markdown}: {error.strerror}") from error
    if against is not None and importlib.util.find_spec("pytest_benchmark") is None:
        raise UserError("gate: pytest-benchmark is not installed (pip install 'deq-bench[dev]', or `make perf-check`)")
    sides = None if against is None else (name_of(repository_of(Path.cwd()), against), name_of(repository_of(Path.cwd()), head))
    different, counts = None, 0
    if head is None:  # the counts are those of the working tree
        known, version = read_accepted(expected), torch_version()
        if version not in known:
            raise UserError(f"{expected} has no counts for torch {version}: python -m bench gate accept --why '…'")
        found = counted(suite)
        different, counts = differences(known[version], found), len(found)
    timed = None if against is None or sides is None else _timed(against, head, sides, benchmarks, only, budget, quiet=as_json)
    verdicts = set() if timed is None else {effect.verdict for effect in timed.effects().values()}
    failed = bool(different) or "regression" in verdicts or (timed is not None and bool(timed.lost))
    if markdown is not None:
        with markdown.open("a", encoding="utf-8") as file:
            file.write(show.markdown(different, counts, timed))
    print(json.dumps(show.as_data(different, counts, timed, failed), indent=1) if as_json else show.text(different, counts, timed))
    raise typer.Exit(1 if failed else 3 if "inconclusive" in verdicts else 0)


@gate_app.command()
def accept(
    reason: Annotated[str, typer.Option("--why", help="what changed the counts; goes into the change log")],
    suite: Counted = "gate",
    expected: Expected = EXPECTED,
    changes: Annotated[Path, typer.Option(help="the change log")] = Path("CHANGELOG.md"),
) -> None:
    """Accept the counts as they are now, and write the reason to the change log."""
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


def counted(suite: str) -> dict[str, Any]:
    """The counts of a suite, and of the solvers too for the gate's own suite."""
    import torch

    from bench.execution.plan import Plan
    from bench.execution.suite_loading import load_suite
    from bench.perf_gate.counts import count

    torch.set_num_threads(1)
    return count(Plan(load_suite(suite, {})[1]), solvers=suite == "gate")


def torch_version() -> str:
    """The key of the accepted counts: torch's version without its build."""
    import torch

    return torch.__version__.partition("+")[0]


def _timed(
    against: str, head: str | None, names: tuple[str, str], benchmarks: Path, only: str | None, budget: float, quiet: bool
) -> Any:
    """The benchmarks' times in both revisions, shown by their `names`; None for `head` is the working tree."""
    from bench.instruments.machine_lock import MachineLock
    from bench.perf_gate.timing import Benchmarks, checkout, compare, repository_of

    def report(found: Any) -> None:
        undecided = sum(effect.verdict == "inconclusive" for effect in found.effects().values())
        if not quiet:
            typer.echo(f"round {len(found.rounds)}: {undecided} of {len(found.names)} open ({found.seconds:.0f} s)", err=True)

    top = repository_of(Path.cwd())
    with (
        tempfile.TemporaryDirectory(prefix="deq-bench-gate-") as folder,
        checkout(top, against) as base,
        checkout(top, head) as tip,
        MachineLock().exclusive(),
    ):
        ours = Benchmarks(benchmarks if head is None else tip / benchmarks, Path(folder), only)
        sides = {"base": base, "head": tip}
        found = compare(lambda side: ours.run(sides[side]), budget_s=budget, report=report)
    if not found.names:
        raise UserError("gate: base and head have no benchmark in common")
    found.base, found.head = names
    return found


def golden(accept: Annotated[bool, typer.Option(help="write the curves as the accepted ones")] = False) -> None:
    """Compare ten float64 training steps of every model, task and adjoint with the accepted curves."""
    from bench.perf_gate import golden as curves

    found = curves.curves(curves.cases())
    accepted = curves.read()
    lines = curves.differences(found, accepted)
    for line in lines:
        say(line)
    if accept:
        if curves.changed_silently(found, accepted):
            raise UserError("golden: not accepted: one run id would stand for two sets of numbers")
        curves.accept(found)
        print(f"{len(found)} curves written to {curves.FILE}")
    elif lines:
        raise typer.Exit(1)
    else:
        print(f"{len(found)} curves agree")


def peers(
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="where the record and its tables go")] = Path("results/peers"),
    threads: Annotated[int, typer.Option(min=1, help="threads of torch")] = 2,
    rounds: Annotated[int | None, typer.Option(min=1, help="rounds of the timing (default: by problem)")] = None,
    device: Device = "cpu",
    problem: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="of the solvers' problems this one; may be repeated")
    ] = None,
) -> None:
    """Compare a training step's time, solver steps and memory with other DEQ libraries, and the overhead over plain torch.

    Needs the extra `peers`; about twelve minutes, with no other timing on the machine. Exit status 1: a part failed."""
    from bench.peers import record, show
    from bench.report.report import plain

    found = record.make(out, threads, rounds, parse_device(device), problem or ())
    for name, table in show.tables(found).items():
        print(plain(table, f"{out / name}.md"))
    if found["contended"]:
        say(f"the times are unreliable: {one_line(found['contended'])}")
    for name, reason in found.get("failures", {}).items():
        say(f"{name} failed: {one_line(reason)}")
    if "failures" in found:
        raise typer.Exit(1)


def memory(
    suite: Annotated[str, typer.Option(help="paper: every memory figure of its tables 2 and 3")] = "paper",
    also: Annotated[
        list[str] | None,
        typer.Option(metavar="MODEL", help="one more row: 'NAME setting=value …', NAME a model's or package.module:Class"),
    ] = None,
    constant_in: Annotated[
        str | None,
        typer.Option(metavar="SETTING", help="trace the models named by --also alone: exit with status 1 if memory grows with it"),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="where the record, tables and figure go")] = PUBLISHED_MEMORY,
    jobs: Annotated[int | None, typer.Option(min=1, help="processes (default: one a core)")] = None,
    device: Annotated[str, typer.Option(help="cuda: measure the rows on the GPU, too; no costs, no laws")] = "cpu",
    only: Annotated[str | None, typer.Option(metavar="GLOB", help="these rows alone, by their labels; no costs, no laws")] = None,
    as_json: Json = False,
) -> None:
    """Trace the bytes of a training step of every row on fake tensors, by phase and purpose, and compare with the paper.

    About six minutes on two cores, no GPU and next to no memory."""
    from bench.instruments.environment import usable_cores
    from bench.memory import record, scaling, tables
    from bench.records.spec import ComponentConfig
    from bench.report.report import plain
    from bench.training.language_model import count_parameters

    if suite != "paper":
        raise UserError(f"memory: suite {suite!r}: the paper's memory figures are those of suite paper")
    device = parse_device(device)
    own = {text: parse_model(text) for text in also or ()}
    if constant_in is not None and (not own or only is not None or device != "cpu"):
        raise UserError("memory: --constant-in is for models named by --also, without --only and --device cuda, which find no laws")
    if (part := "--only" if only is not None else constant_in and "--constant-in") and out == PUBLISHED_MEMORY:
        raise UserError(f"memory: {part} makes a partial record: name another folder with --out")
    for model in own.values():  # find a wrong setting now, not after minutes
        settings = model.settings if constant_in is None else {**model.settings, constant_in: 2}
        count_parameters(ComponentConfig(name=model.name, settings=settings), 100)
    found = record.make(own, constant_in, jobs or usable_cores() or 1, device, only, out)
    record.write(found, out)
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        for table in tables.paper_tables(found):
            print(plain(table, f"{out / table.kind}.md"))
    depths = [row for row in found["laws"] if row["axis"] == "depth" and row["label"] in own]
    failed = [row["label"] for row in depths if scaling.judged(row) == "FAIL"]
    for label in failed:
        print(f"{one_line(label)}: memory is not constant in {constant_in}", file=sys.stderr)
    if failed:
        raise typer.Exit(1)


def parse_model(text: str) -> Any:
    """`NAME setting=value …` as a ComponentConfig."""
    from bench.records.spec import ComponentConfig

    option = f"memory: --also {text!r}"
    name, *pairs = text.split() or [""]
    settings = parse_settings(pairs, option)
    if not isinstance(settings.get("width"), int):
        raise UserError(f"{option}: give a model and a width, such as width=480")
    try:
        return ComponentConfig(name=name, settings=settings)
    except ValueError as error:
        raise UserError(f"{option}: {one_line(str(error))}") from error
