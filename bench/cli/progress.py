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
    """Standard error that may be closed (the terminal, or a `tee` that Ctrl-C ended): output is then dropped and the runs go on."""

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
    """Show a suite's progress; nothing with `quiet`. One bar for the suite, with an estimate of the time left, and one a run."""

    def __init__(self, quiet: bool) -> None:
        self.console = PlainConsole(file=cast("IO[str]", _Stderr()))
        self.quiet = quiet
        self._bars: Bars | None = None
        self._run_bars: dict[str, TaskID] = {}
        self._suite_bar: TaskID | None = None
        self._since = time.monotonic()
        self._waiting: set[str] = set()
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
        """What the coordinator calls."""
        return Callbacks(
            stage=self._stage,
            started=self._started,
            progress=self._progress,
            resumed=lambda job, reason: self.print(f"{_name(job)}: {reason}; taken up again"),
            recorded=self._recorded,
            stopping=lambda reason: self.print(f"{reason}: the runs under way save their state (again: they end at once)"),
            held_elsewhere=self._held_elsewhere,
        )

    def print(self, text: str) -> None:
        """Print a line, above the bars if there are any."""
        if not self.quiet:
            self.console.print(text, markup=False, soft_wrap=True)

    def _stage(self, name: str, stage: StageSummary) -> None:
        if not stage.wanted:
            return
        kind = "learning-rate trials" if name == "trials" else "final runs"
        self.print(f"{kind}: {stage.recorded} of {stage.wanted} recorded" + (f", {stage.missing} to do" if stage.missing else ""))
        if stage.stale:
            reasons = "; ".join(stage.reasons[:4])
            self.print(f"  {stage.stale} of these have a stale record: {reasons} (--keep-stale takes them as they are)")
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
            self.print(f"{name}: waiting for the machine, which another timing has (--limit does not count this)")
        if self._bars is not None and run_id in self._run_bars:
            loss = f" · loss {event.loss:.4g}" if event.loss is not None else ""
            self._bars.update(self._run_bars[run_id], completed=event.done, description=name + loss)

    def _held_elsewhere(self, number: int) -> None:
        if number == 1:
            self.print("some runs are being made by another process on these results: waiting for its records")

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
    """The run's headline score, or how it failed; a run that was stopped in its last probes has a score all the same."""
    if record.status != "ok":
        return f"{record.status}: {record.reason}"
    split = "valid" if spec.role == "trial" else "test"
    value = record.value(f"{split}_{record.headline}")
    return "no score" if value is None else f"{split} {record.headline} {value:.4g}"


def _name(job: Job) -> str:
    spec = job.spec
    return visible(f"{spec.group} · {spec.label} · {'trial' if spec.role == 'trial' else f'seed {spec.seed}'}")
