"""`python -m bench`: selects what to run and show; never configures it (that is the suite's Python file)."""

import json
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer
from rich.table import Table

from bench.cli.check import app as check
from bench.cli.claims import app as claims
from bench.cli.data import parse_data
from bench.cli.gate import app as gate
from bench.cli.memory import app as memory
from bench.cli.page import app as pages
from bench.cli.peers import app as peers
from bench.cli.startup import begin, complain, end, fail
from bench.records.errors import UserError, one_line, unknown
from bench.report.console import PlainConsole

app = typer.Typer(
    name="bench", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, help=__doc__
)
app.add_typer(check)
app.add_typer(claims, name="claims")
app.add_typer(gate, name="gate")
app.add_typer(memory, name="memory")
app.add_typer(pages)
app.add_typer(peers, name="peers")
Results = Annotated[Path, typer.Option("--results", help="folder of records, tables and figures")]
Data = Annotated[list[str] | None, typer.Option(help="a corpus: NAME=PATH to a UTF-8 file or folder; may be repeated")]
Only = Annotated[str | None, typer.Option(help="rows: a glob over label, group or group/label")]
Seeds = Annotated[str | None, typer.Option(help="seeds instead of the suite's: 0-2 or 0,3,5")]
Device = Annotated[str, typer.Option(help="cpu, cuda or auto")]
Jobs = Annotated[int | None, typer.Option(min=1, help="runs side by side (default: by cores; timings always run alone)")]
Processes = Annotated[int, typer.Option(min=1, help="processes that share each batch of a run (torchrun)")]
Json = Annotated[bool, typer.Option("--json", help="print JSON, for scripts")]
RESULTS = Path("results")
_LOOK_S = 0.2
_WrongCall: Any = typer.BadParameter.__base__  # click's UsageError, wherever typer keeps it


def parse_seeds(text: str) -> list[int]:
    """`0-2` or `0,3,5` as a list of seeds."""
    seeds: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d{1,9})(?:-(\d{1,9}))?\s*", part)
        if found is None or (found[2] and int(found[2]) < int(found[1])):
            raise UserError(f"--seeds {text!r}: give numbers and ranges, such as 0-2 or 0,3,5")
        seeds += range(int(found[1]), int(found[2] or found[1]) + 1)
        if len(seeds) > 1000:
            raise UserError(f"--seeds {text!r}: at most 1000 seeds")
    if len(set(seeds)) != len(seeds):
        raise UserError(f"--seeds {text!r}: a seed is named twice")
    return seeds


def choose_device(name: str) -> Literal["cpu", "cuda"]:
    """`auto` is cuda where torch sees one."""
    import torch

    if name not in ("auto", "cpu", "cuda"):
        raise unknown("device", name, ("auto", "cpu", "cuda"))
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no CUDA device here (`python -m bench doctor` says more)")
    return "cuda" if name != "cpu" and torch.cuda.is_available() else "cpu"


@app.command()
def run(
    suite: Annotated[str, typer.Argument(help="a suite's name (see `list`) or a Python file with SPECS")],
    only: Only = None,
    seeds: Seeds = None,
    device: Device = "auto",
    results: Results = RESULTS,
    data: Data = None,
    jobs: Jobs = None,
    processes: Processes = 1,
    engine: Annotated[str, typer.Option(help="where runs execute: local, inline or ray")] = "local",
    address: Annotated[str, typer.Option(help="of the Ray cluster, for --engine ray")] = "auto",
    limit: Annotated[float | None, typer.Option(min=0.1, metavar="SECONDS", help="wall clock that a run may take")] = None,
    memory: Annotated[float | None, typer.Option(min=0.001, metavar="GIB", help="host memory that a run may take")] = None,
    checkpoint: Annotated[float, typer.Option(min=0, metavar="SECONDS", help="time between a run's checkpoints")] = 30.0,
    attempts: Annotated[int, typer.Option(min=1, help="times a run may be killed from outside without getting further")] = 3,
    retry: Annotated[str | None, typer.Option(help="make failed runs anew: all, or statuses such as timeout,interrupted")] = None,
    keep_stale: Annotated[bool, typer.Option("--keep-stale", help="records by other code or data count as done")] = False,
    as_json: Json = False,
) -> None:
    """Run what a suite lacks, then write tables and figures and print the tables."""
    from bench.cli.progress import Display
    from bench.execution.coordinator import Coordinator, Halted, RunOptions
    from bench.records.spec import Limits
    from bench.records.store import Store
    from bench.report.report import summary, write_report

    options = RunOptions(
        limits=Limits(seconds=limit, memory_bytes=None if memory is None else int(memory * 2**30)),
        checkpoint_s=checkpoint,
        attempts=attempts,
        retry=parse_retry(retry),
        keep_stale=keep_stale,
    )
    with _importing_within(limit):
        short, plan, corpora = _planned(suite, only, seeds, device, data, processes)
    store = Store(results)
    with Display(quiet=as_json) as display:
        where = make_engine(engine, plan, jobs, address)
        coordinator = Coordinator(
            plan, suite=short, store=store, engine=where, data=corpora, options=options, callbacks=display.callbacks
        )
        with _stopping(coordinator):
            try:
                records = coordinator.run()
            except Halted as halted:
                saved = f", the state of {halted.saved} is saved" if halted.saved else ""
                lost = f" (not saved: {'; '.join(halted.lost)})" if halted.lost else ""
                display.print(f"stopped; finished runs are recorded{saved}: the same command goes on from there{lost}")
                raise typer.Exit(130) from None
    write_report(results)
    if as_json:
        rows = [
            {
                "run_id": record.run_id,
                "status": record.status,
                "reason": record.reason,
                "record": str(store.path(short, record.run_id)),
                "headline": record.headline,
                "test": record.value(f"test_{record.headline}") if record.status == "ok" else None,
            }
            for record in records
        ]
        print(json.dumps({"suite": short, "runs": rows}, indent=1))
    else:
        print(summary(results, short))


def _planned(
    suite: str, only: str | None, seeds: str | None, device: str, data: list[str] | None, processes: int
) -> tuple[str, Any, dict[str, Path]]:
    """The suite's short name, its plan, and the corpora."""
    from bench.execution.plan import Plan
    from bench.execution.suite_loading import load_suite

    corpora = parse_data(data or [])
    chosen = parse_seeds(seeds) if seeds is not None else None
    short, entries = load_suite(suite, corpora)
    plan = Plan(entries, data=corpora, only=only, seeds=chosen, device=choose_device(device), processes=processes)
    plan.check_metrics()
    return short, plan, corpora


def _slots(plan: Any, jobs: int | None) -> int:
    from bench.execution.coordinator import default_slots

    return default_slots(plan.specs(), jobs)


def parse_retry(text: str | None) -> frozenset[Any]:
    """`all`, or statuses with commas between: those of records that are to be made anew."""
    from bench.records.record import RunStatus

    failed = [status for status in get_args(RunStatus) if status != "ok"]
    names = failed if text == "all" else [] if text is None else [name.strip() for name in text.split(",")]
    for name in names:
        if name not in failed:
            raise unknown("status to retry", name, ["all", *failed])
    return frozenset(names)


def make_engine(name: str, plan: Any, jobs: int | None, address: str) -> Any:
    """The engine by name; how many runs go side by side is decided by the plan's runs where `jobs` does not say."""
    if name == "local":
        from bench.execution.engines.local import Local

        return Local(_slots(plan, jobs))
    if name == "inline":
        from bench.execution.engines.inline import Inline

        return Inline()
    if name == "ray":
        from bench.execution.engines.ray import Ray

        specs = plan.specs()
        gpus = max(spec.processes if spec.device == "cuda" else 0 for spec in specs)
        return Ray(address, cores=max(spec.threads * spec.processes for spec in specs), gpus=gpus, slots=jobs)
    raise unknown("engine", name, ("local", "inline", "ray"))


@contextmanager
def _importing_within(seconds: float | None) -> Iterator[None]:
    """Inside, an import of the user's code that takes longer than a run may is an error: nothing else would end it."""
    from bench.records.source_code import importing

    def look(number: int, frame: object) -> None:
        found = importing()
        if found is not None and time.monotonic() - found[1] > (seconds or 0.0):
            raise UserError(f"module {found[0]} takes longer to import than --limit {seconds:g} s")

    if seconds is None:
        yield
        return
    before = signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, _LOOK_S, _LOOK_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def _stopping(coordinator: Any) -> Iterator[None]:
    """Inside, Ctrl-C (and a polite kill) lets the runs save their state; a second one ends them at once.

    The handler prints nothing: whoever read that may be gone, which must not keep the state from being saved.
    """

    def stop(number: int, frame: object) -> None:
        if coordinator.halted:
            raise KeyboardInterrupt
        coordinator.halt(f"stopped by {signal.Signals(number).name}")

    heard = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]  # but for what was to be ignored: nohup
    before = {number: signal.signal(number, stop) for number in heard if signal.getsignal(number) != signal.SIG_IGN}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@app.command()
def status(
    suite: Annotated[str | None, typer.Argument(help="a suite's name or a Python file; without: what is recorded")] = None,
    only: Only = None,
    seeds: Seeds = None,
    device: Device = "auto",
    results: Results = RESULTS,
    data: Data = None,
    jobs: Jobs = None,
    processes: Processes = 1,
    as_json: Json = False,
) -> None:
    """How far a suite is: done, running, failed, left, and about how long that will take. Runs nothing."""
    import dataclasses

    from bench.execution.status import overview, status
    from bench.records.store import Store

    store = Store(results)
    if suite is None:
        rows = [dataclasses.asdict(row) for row in overview(store)]
        if as_json:
            print(json.dumps(rows, indent=1))
            return
        table = _table("suite", "recorded", "ok", "failed", "running", "state saved")
        for row in rows:
            table.add_row(*(_counted(value) for value in row.values()))
        _output().print(table)
        return
    short, plan, _ = _planned(suite, only, seeds, device, data, processes)
    found = status(plan, suite=short, store=store, slots=_slots(plan, jobs))
    if as_json:
        print(json.dumps(dataclasses.asdict(found), indent=1))
        return
    console = _output()
    for line in found.lines():
        console.print(line, markup=False)


@app.command()
def report(results: Results = RESULTS, as_json: Json = False) -> None:
    """Write tables and figures anew from the records; runs nothing."""
    from bench.report.report import write_report

    files = write_report(results)
    print(json.dumps([str(file) for file in files], indent=1) if as_json else f"wrote {len(files)} files below {results}")


@app.command()
def params(
    suite: Annotated[str, typer.Option(help="a suite's name or a Python file with SPECS")] = "paper",
    data: Data = None,
    as_json: Json = False,
) -> None:
    """How many parameters each model of a suite has; of suite paper, beside what the paper prints. Trains nothing."""
    import dataclasses

    from bench.execution.parameter_table import count_suite

    rows = count_suite(suite, parse_data(data or []))
    if as_json:
        print(json.dumps([dataclasses.asdict(row) | {"off": row.off, "agrees": row.agrees} for row in rows], indent=1))
        return
    printed = any(row.printed_total is not None for row in rows)
    heads = ["group", "model"] + (
        ["paper", "built", "off", "paper non-emb.", "built", "off", "paper's score", "remark"] if printed else ["total", "non-emb."]
    )
    table = _table(*heads)
    for row in rows:
        built = [_count(row.total), _count(row.nonembedding)]
        if printed:
            paper = [_count(row.printed_total), _count(row.printed_nonembedding)]
            off = ["" if value is None else f"{100 * value:+.1f} %" for value in row.off]
            score = "n/a" if row.printed_score is None else f"{row.printed_score:g}"
            built = [paper[0], built[0], off[0], paper[1], built[1], off[1], score, row.remark]
        table.add_row(row.group, row.label, *built)
    _output().print(table)


def _counted(value: Any) -> str:
    """A count for a table, or counts by status."""
    return ", ".join(f"{count} {name}" for name, count in value.items()) or "0" if isinstance(value, dict) else str(value)


def _count(number: float | None) -> str:
    if number is None:
        return "n/a"
    return f"{number / 1e6:.4g}M" if number >= 1e6 else f"{number / 1e3:.4g}K"


@app.command(name="list")
def list_(as_json: Json = False) -> None:
    """What can be run: suites, models, tasks, cells, solvers, adjoints, and the corpora that are fetched by name."""
    from bench.suites import SUITES
    from bench.tasks.corpora import CORPORA
    from bench.training.registry import ADJOINTS, MODELS, TASKS
    from deq import CELLS, SOLVERS

    suites = {name: _claim(__import__(module, fromlist=["x"])) for name, module in SUITES.items()}
    kinds: dict[str, dict[str, Any]] = {"model": MODELS, "task": TASKS, "cell": CELLS, "solver": SOLVERS, "adjoint": ADJOINTS}
    known = {"suite": suites} | {kind: {name: _claim(entry) for name, entry in reg.items()} for kind, reg in kinds.items()}
    known["corpus"] = {name: corpus.claim for name, corpus in CORPORA.items()}
    if as_json:
        print(json.dumps(known, indent=1))
        return
    table = _table("kind", "name", "what it is")
    for kind, entries in known.items():
        for name, claim in entries.items():
            table.add_row(kind, name, claim)
    _output().print(table)
    print("A model, task, cell or solver of your own is named by dotted path: package.module:Name")


def _output() -> PlainConsole:
    """Standard output: as wide as the terminal, or wide enough for a line a row where it is none."""
    return PlainConsole(width=None if sys.stdout.isatty() else 240)


def _table(*heads: str) -> Table:
    """A table whose cells are folded, never cut, the first column last of all: two names must not become the same text."""
    table = Table(box=None, pad_edge=False)
    for number, head in enumerate(heads):
        table.add_column(head, overflow="fold", no_wrap=number == 0)
    return table


def _claim(thing: Any) -> str:
    return (thing.__doc__ or "").strip().split("\n\n")[0].replace("\n", " ").split(". ")[0].rstrip(".")


@app.command()
def show(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="a run id, or the beginning of one")],
    results: Results = RESULTS,
    as_json: Json = False,
) -> None:
    """One run: what it was, how it ended, every measure with its unit, method and scope."""
    from bench.records.store import Store

    store = Store(results)
    runs = [(suite, name) for suite in store.suites() for name in store.ids(suite)]
    found = [run for run in runs if run[1] == run_id] or [run for run in runs if run[1].startswith(run_id)]
    if not found:
        near = " or ".join(get_close_matches(run_id, [name for _, name in runs], n=3, cutoff=0.0))  # of a thousand, not all
        raise UserError(
            f"unknown run {run_id!r}; did you mean {near}, of {len(runs)} runs?" if runs else f"no runs below {results}"
        )
    if len(found) > 1:
        raise UserError(f"{run_id!r} is the beginning of {len(found)} runs: {', '.join(name for _, name in found[:5])} …")
    record = store.read(*found[0])
    if as_json:
        print(json.dumps(record.model_dump(mode="json"), indent=1))
        return
    console = _output()
    spec = record.spec
    console.print(f"{record.run_id}: {record.status}" + (f" ({record.reason})" if record.reason else ""), markup=False)
    console.print(f"model {spec.model.name} {json.dumps(spec.model.settings)}", markup=False)
    console.print(f"task {spec.task.name} {json.dumps(spec.task.settings)}", markup=False)
    console.print(f"train {spec.train.model_dump_json()} seed {spec.seed}", markup=False)
    table = _table("measure", "value", "unit", "how, or why not", "over")
    for name, measure in sorted(record.measures.items()):
        value = (
            "n/a" if measure.value is None else f"{measure.value:,}" if isinstance(measure.value, int) else f"{measure.value:.6g}"
        )
        table.add_row(name, value, measure.unit, measure.reason or measure.method, measure.scope)
    console.print(table)
    if "ranks" in record.probes:
        ranks = record.probes["ranks"]
        table = _table("of each process", *(str(number) for number in range(len(ranks))))
        for name in ranks[0]:
            table.add_row(name, *("n/a" if rank[name] is None else f"{rank[name]:,.6g}" for rank in ranks))
        console.print(table)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Which instruments work on this machine, and why the others do not."""
    import dataclasses

    from bench.instruments.self_test import examine

    instruments = examine()
    if as_json:
        print(json.dumps([dataclasses.asdict(instrument) for instrument in instruments], indent=1))
        return
    table = _table("instrument", "works", "detail", "feeds")
    for instrument in instruments:
        table.add_row(instrument.name, "yes" if instrument.works else "no", instrument.detail, ", ".join(instrument.measures))
    _output().print(table)


@app.command()
def golden(accept: Annotated[bool, typer.Option(help="write the curves anew")] = False) -> None:
    """Compare ten float64 training steps of every model, task and adjoint with the accepted curves."""
    from bench.perf_gate import golden as curves

    found = curves.curves()
    lines = curves.differences(found, curves.read() if curves.FILE.exists() else {})
    for line in lines:
        print(line)
    if accept:
        curves.accept(found)
        print(f"{len(found)} curves written to {curves.FILE}")
    elif lines:
        raise typer.Exit(1)
    else:
        print(f"{len(found)} curves agree")


def main() -> None:
    """Run the command line; a UserError, a wrong option, or what the system refuses, is one line and exit status 2."""
    begin()
    try:
        status = app(prog_name="python -m bench", standalone_mode=False)
    except UserError as error:
        complain(f"error: {error}")
        end(2)
    except _WrongCall as error:
        if len(sys.argv) == 1:  # no arguments: help, as asked for
            error.show()
            end(2)
        complain(f"error: {one_line(error.format_message())} (see --help)")
        end(2)
    except (KeyboardInterrupt, typer.Abort):
        complain("interrupted")
        raise SystemExit(130) from None
    except OSError as error:
        fail(error)
    end(status if isinstance(status, int) else 0)


if __name__ == "__main__":
    main()
