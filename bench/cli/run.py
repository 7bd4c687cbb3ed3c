"""`bench run`: execute what a suite lacks, with progress, limits and interruption."""

import json
import math
import os
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from bench.cli.options import (
    RESULTS,
    Data,
    Device,
    Jobs,
    Json,
    Only,
    Processes,
    Results,
    Seeds,
    parse_data,
    parse_device,
    parse_seeds,
)
from bench.records.errors import UserError, one_line, unknown

_POLL_S = 0.2


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
    limit: Annotated[float | None, typer.Option(min=0.1, metavar="SECONDS", help="wall-clock time that a run may take")] = None,
    memory: Annotated[float | None, typer.Option(min=0.001, metavar="GIB", help="host memory that a run may take")] = None,
    checkpoint: Annotated[float, typer.Option(min=0, metavar="SECONDS", help="time between a run's checkpoints")] = 30.0,
    attempts: Annotated[int, typer.Option(min=1, help="times a run may be killed from outside without getting further")] = 3,
    retry: Annotated[
        str | None,
        typer.Option(
            help="repeat failed runs: all, or statuses such as timeout,interrupted; untimed: whose step time other work spoiled"
        ),
    ] = None,
    keep_stale: Annotated[bool, typer.Option("--keep-stale", help="records by other code or data count as done")] = False,
    as_json: Json = False,
) -> None:
    """Run what a suite lacks, then write tables and figures and print the tables.

    A failed run is a row with its reason. Exit status 0: every final run ended ok, or as its suite expects; 1: one failed;
    2: a wrong call; 130: stopped.
    """
    from bench.cli.progress import Display
    from bench.cli.run_summary import opening
    from bench.execution.coordinator import Coordinator, RunOptions, SuiteStopped, default_slots
    from bench.records.spec import Limits
    from bench.records.store import Store
    from bench.report.report import write_report

    for option, value in (("--limit", limit), ("--memory", memory), ("--checkpoint", checkpoint)):
        if value is not None and not math.isfinite(value):
            raise UserError(f"{option} must be a finite number, got {value}")
    own = {"--jobs": jobs, "--limit": limit, "--memory": memory}
    if engine == "inline" and (given := [option for option, value in own.items() if value is not None]):
        raise UserError(f"{' and '.join(given)}: engine inline runs in this process, one at a time and without limits")
    options = RunOptions(
        limits=Limits(seconds=limit, memory_bytes=None if memory is None else int(memory * 2**30)),
        checkpoint_s=checkpoint,
        attempts=attempts,
        retry=_parse_retry(retry),
        keep_stale=keep_stale,
    )
    with import_timeout(limit):
        short, plan, corpora, _ = make_plan(suite, only, seeds, device, data, processes)
    store = Store(results)
    with Display(quiet=as_json) as display:
        if not as_json and engine != "ray":  # whose machines may differ from this one
            store.check(short)
            if not (options.retry or keep_stale):  # it counts by records alone; each stage says what it has to run
                display.print(opening(plan, short, store, default_slots(plan.specs(), jobs)))
        coordinator = Coordinator(
            plan,
            suite=short,
            store=store,
            engine=_make_engine(engine, plan.specs(), jobs, address, default_slots),
            data=corpora,
            options=options,
            callbacks=display.callbacks,
        )
        with halt_on_signals(coordinator):
            try:
                records = coordinator.run()
            except SuiteStopped as stopped:
                saved = f", the state of {stopped.saved} is saved" if stopped.saved else ""
                lost = f" (not saved: {'; '.join(stopped.lost)})" if stopped.lost else ""
                display.print(f"stopped; finished runs are recorded{saved}: the same command goes on from there{lost}")
                raise typer.Exit(130) from None
    write_report(results, processes=os.cpu_count() or 1)
    failed = [one for one in records if one.status not in ("ok", plan.expected[one.spec.group, one.spec.label])]
    _print_results(records, failed, store, short, as_json)
    raise typer.Exit(1 if failed else 0)


def _print_results(records: Sequence[Any], failed: Sequence[Any], store: Any, suite: str, as_json: bool) -> None:
    """The tables, what was found and where it is, and on standard error which final runs failed."""
    from bench.cli.run_summary import closing
    from bench.report.console import for_terminal, say
    from bench.report.report import summary

    if as_json:
        runs = [_summary(record, store.path(suite, record.run_id)) for record in records]
        print(json.dumps({"suite": suite, "runs": runs}, indent=1))
    else:
        print(f"{summary(store.results, suite)}\n")
        for line in closing(records, failed, store.results, suite):
            say(line)
    if failed:
        width = shutil.get_terminal_size().columns if sys.stderr.isatty() else None
        print(for_terminal(_what_failed(failed, len(records), store.results), width), file=sys.stderr)


def _what_failed(failed: Sequence[Any], wanted: int, results: Path) -> str:
    """How many final runs failed, why the first did, and the command that shows it; one line."""
    counts = ", ".join(f"{count} {status}" for status, count in sorted(Counter(record.status for record in failed).items()))
    first = failed[0]
    shows = f"`python -m bench show {first.run_id} --results {results}` shows it, `run --retry all` runs them again"
    return one_line(f"{len(failed)} of {wanted} final runs failed ({counts}). The first: {first.reason}; {shows}")


def _summary(record: Any, path: Path) -> dict[str, Any]:
    return {
        "run_id": record.run_id,
        "status": record.status,
        "reason": record.reason,
        "record": str(path),
        "headline": record.headline,
        "test": record.value(f"test_{record.headline}") if record.status == "ok" else None,
    }


def make_plan(
    suite: str, only: str | None, seeds: str | None, device: str, data: list[str] | None, processes: int, fetch: bool = True
) -> tuple[str, Any, dict[str, Path], list[str]]:
    """The suite's short name, its Plan, and the corpora, from options.

    Without `fetch` nothing is downloaded: comparisons of corpora that are not here are left out, and their names come last. The
    Plan is None where nothing is left.
    """
    from bench.execution.plan import Plan
    from bench.execution.suite_loading import load_suite
    from bench.tasks.corpora import CORPORA, is_fetched

    corpora = parse_data(data)
    chosen = parse_seeds(seeds) if seeds is not None else None
    short, entries = load_suite(suite, corpora)
    absent = set() if fetch else {name for name, corpus in CORPORA.items() if name not in corpora and not is_fetched(corpus)}
    here = [entry for entry in entries if entry.task.name != "text" or entry.task.settings.get("data") not in absent]
    left_out = sorted({str(entry.task.settings["data"]) for entry in entries if entry not in here})
    if not here:
        return short, None, corpora, left_out
    plan = Plan(here, data=corpora, only=only, seeds=chosen, device=parse_device(device), processes=processes)
    return short, plan, corpora, left_out


def _parse_retry(text: str | None) -> frozenset[Any]:
    """`all`, statuses separated by commas, or `untimed`."""
    from bench.records.record import RunStatus

    failed = [status for status in get_args(RunStatus) if status != "ok"]
    names = failed if text == "all" else [] if text is None else [name.strip() for name in text.split(",")]
    for name in names:
        if name not in (*failed, "untimed"):
            raise unknown("status to retry", name, ["all", *failed, "untimed"])
    return frozenset(names)


def _make_engine(name: str, specs: Any, jobs: int | None, address: str, slots: Any) -> Any:
    """The engine of that name, with room for the largest of the runs."""
    if name in ("local", "inline"):
        _check_machine(name, specs)
    if name == "local":
        from bench.execution.engines.local import Local

        return Local(slots(specs, jobs))
    if name == "inline":
        from bench.execution.engines.inline import Inline

        return Inline()
    if name == "ray":
        from bench.execution.engines.ray import Ray

        gpus = max(spec.processes if spec.device == "cuda" else 0 for spec in specs)
        return Ray(address, cores=max(spec.threads * spec.processes for spec in specs), gpus=gpus, slots=jobs)
    raise unknown("engine", name, ("local", "inline", "ray"))


def _check_machine(engine: str, specs: Any) -> None:
    """UserError where this machine has too few GPUs for a run's processes, or cannot start the processes of engine local."""
    import multiprocessing

    import torch

    wanted = max((spec.processes for spec in specs if spec.device == "cuda"), default=0)
    if wanted > 1 and wanted > (here := torch.cuda.device_count()):
        raise UserError(f"--processes {wanted} --device cuda: each process needs a GPU of its own, torch sees {here} here")
    if engine == "local" and "forkserver" not in multiprocessing.get_all_start_methods():
        raise UserError(f"engine local needs Linux or macOS (this is {sys.platform}): on Windows use WSL")


@contextmanager
def import_timeout(seconds: float | None) -> Iterator[None]:
    """Raise UserError inside when the import of a user's module takes longer than that."""
    from bench.records.source_code import importing

    def check(number: int, frame: object) -> None:
        found = importing()
        if found is not None and time.monotonic() - found[1] > (seconds or 0.0):
            raise UserError(f"module {found[0]} takes longer to import than --limit {seconds:g} s")

    if seconds is None:
        yield
        return
    before = signal.signal(signal.SIGALRM, check)
    signal.setitimer(signal.ITIMER_REAL, _POLL_S, _POLL_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def halt_on_signals(coordinator: Any) -> Iterator[None]:
    """Inside, Ctrl-C, SIGTERM and SIGHUP let the runs save their state; a second signal ends them at once.

    The handler prints nothing: a closed terminal would raise, and the state would not be saved.
    """

    def stop(number: int, frame: object) -> None:
        if coordinator.stop_reason:
            raise KeyboardInterrupt
        coordinator.request_stop(f"stopped by {signal.Signals(number).name}")

    handled = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]  # except those that the caller ignores, as nohup does
    before = {number: signal.signal(number, stop) for number in handled if signal.getsignal(number) != signal.SIG_IGN}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
