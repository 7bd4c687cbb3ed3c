"""Terminal output while a suite runs: progress bars on a terminal, one line a run elsewhere."""

import sys
import time
from contextlib import suppress
from typing import IO, Any, cast

from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from bench.execution.coordinator import Callbacks, StageSummary
from bench.execution.engines.engine import Progress
from bench.execution.job import Job
from bench.execution.status import duration
from bench.records.escape import visible
from bench.records.record import Record
from bench.records.spec import RunSpec
from bench.report.console import PlainConsole


class _Stderr:
    """Standard error; drops output once it is closed (a terminal, or a `tee` that Ctrl-C ended), so that the runs go on."""

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            return sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)


class Display:
    """Show a suite's progress unless `quiet`: a bar for the suite, with the time left, and a bar for each run."""

    def __init__(self, quiet: bool) -> None:
        self.console = PlainConsole(file=cast("IO[str]", _Stderr()))
        self.quiet = quiet
        self._bars: Bars | None = None
        self._run_bars: dict[str, TaskID] = {}
        self._suite_bar: TaskID | None = None
        self._since = time.monotonic()
        self._waiting: set[str] = set()
        self._reported_others = False
        if not quiet and self.console.is_terminal:
            columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
            self._bars = Bars(*columns, console=self.console, transient=True, refresh_per_second=4)

    def __enter__(self) -> "Display":
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    @property
    def callbacks(self) -> Callbacks:
        """The callbacks for the coordinator."""
        return Callbacks(
            stage=self._stage,
            started=self._started,
            progress=self._progress,
            resumed=lambda job, reason: self.print(f"{_name(job)}: {reason}; resumed"),
            recorded=self._recorded,
            stopping=lambda reason: self.print(f"{reason}: the running runs save their state (a second signal ends them at once)"),
            held_elsewhere=self._held_elsewhere,
        )

    def print(self, text: str) -> None:
        """Print a line, above the bars if there are any."""
        if not self.quiet:
            self.console.print(text, markup=False, soft_wrap=not self.console.is_terminal)

    def _stage(self, name: str, stage: StageSummary) -> None:
        if not stage.wanted:
            return
        kind = "learning-rate trials" if name == "trials" else "final runs"
        todo = f", {stage.missing} to do" if stage.missing else ""
        self.print(f"{kind}: {stage.wanted - stage.missing} of {stage.wanted} recorded{todo}")
        if stage.stale:
            reasons = "; ".join(stage.reasons[:4])
            self.print(f"  {stage.stale} of these have a stale record: {reasons} (--keep-stale accepts them)")
        self._since = time.monotonic()
        if self._bars is not None and stage.missing:
            if self._suite_bar is not None:
                self._bars.remove_task(self._suite_bar)
            self._suite_bar = self._bars.add_task(kind, total=stage.missing)

    def _started(self, job: Job) -> None:
        if self._bars is not None and job.run_id not in self._run_bars:
            self._run_bars[job.run_id] = self._bars.add_task(_name(job), total=job.spec.train.steps)

    def _progress(self, event: Progress) -> None:
        run_id, name = event.job.run_id, _name(event.job)
        if event.waiting and run_id not in self._waiting:
            self._waiting.add(run_id)
            self.print(f"{name}: waiting for another timing on this machine (not counted by --limit)")
        if self._bars is not None and run_id in self._run_bars:
            loss = f" · loss {event.loss:.4g}" if event.loss is not None else ""
            self._bars.update(self._run_bars[run_id], completed=event.done, description=name + loss)

    def _held_elsewhere(self, number: int) -> None:
        if number and not self._reported_others:
            self._reported_others = True
            self.print("another process executes some of these runs: waiting for its records")

    def _recorded(self, record: Record, number: int, missing: int) -> None:
        if self._bars is not None:
            if record.run_id in self._run_bars:
                self._bars.remove_task(self._run_bars.pop(record.run_id))
            if self._suite_bar is not None:
                left = (time.monotonic() - self._since) / number * (missing - number)
                self._bars.update(self._suite_bar, completed=number, description=f"about {duration(left)} left")
        spec = record.spec
        variant = f"rate {spec.train.learning_rate:g}" if spec.role == "trial" else f"seed {spec.seed}"
        place = f"[{number:{len(str(missing))}}/{missing}]"
        self.print(f"{place} {spec.group} · {spec.label} · {variant}: {_outcome(record, spec)} ({record.elapsed_s:.1f} s)")


def _outcome(record: Record, spec: RunSpec) -> str:
    """The run's headline score, or how it failed, even where it has a score."""
    if record.status != "ok":
        return f"{record.status}: {record.reason}"
    split = "valid" if spec.role == "trial" else "test"
    value = record.value(f"{split}_{record.headline}")
    return "no score" if value is None else f"{split} {record.headline} {value:.4g}"


def _name(job: Job) -> str:
    spec = job.spec
    return visible(f"{spec.group} · {spec.label} · {'trial' if spec.role == 'trial' else f'seed {spec.seed}'}")
