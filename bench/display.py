"""What a person sees while a suite runs: bars on a terminal, a line a run elsewhere."""

import sys
import time
from contextlib import suppress
from typing import IO, Any, cast

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from bench.console import PlainConsole
from bench.coordinator import Stage, Watch
from bench.engines.engine import Stepped
from bench.escape import visible
from bench.job import Job
from bench.record import Record
from bench.status import duration


class _Stderr:
    """Standard error whose reader may go: a terminal that is closed, a `tee` that Ctrl-C ended too. What is shown is then lost, and
    the runs go on."""

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
    """Progress of a suite; nothing with `quiet`. One bar is the matrix, with an estimate of what is left; each other a run."""

    def __init__(self, quiet: bool) -> None:
        self.console = PlainConsole(file=cast("IO[str]", _Stderr()))
        self.quiet = quiet
        self._bars: Progress | None = None
        self._rows: dict[str, TaskID] = {}
        self._matrix: TaskID | None = None
        self._since = time.monotonic()
        self._waited: set[str] = set()
        if not quiet and self.console.is_terminal:
            columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
            self._bars = Progress(*columns, console=self.console, transient=True, refresh_per_second=4)

    def __enter__(self) -> "Display":
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    @property
    def watch(self) -> Watch:
        """What the coordinator tells."""
        return Watch(
            stage=self._stage,
            begun=self._begun,
            stepped=self._stepped,
            again=self._again,
            recorded=self._recorded,
            halting=self._halting,
            elsewhere=self._elsewhere,
        )

    def say(self, text: str) -> None:
        """A line, also where bars are."""
        if not self.quiet:
            self.console.print(text, markup=False, soft_wrap=True)

    def _stage(self, name: str, stage: Stage) -> None:
        if not stage.wanted:
            return
        kind = "learning-rate trials" if name == "trials" else "final runs"
        self.say(f"{kind}: {stage.recorded} of {stage.wanted} recorded" + (f", {stage.missing} to do" if stage.missing else ""))
        if stage.stale:
            why = "; ".join(stage.reasons[:4])
            self.say(f"  {stage.stale} of these have a stale record: {why} (--keep-stale takes them as they are)")
        self._since = time.monotonic()
        if self._bars is not None and stage.missing:
            if self._matrix is not None:
                self._bars.remove_task(self._matrix)
            self._matrix = self._bars.add_task(kind, total=stage.missing)

    def _begun(self, job: Job) -> None:
        if self._bars is not None and job.run_id not in self._rows:
            self._rows[job.run_id] = self._bars.add_task(_name(job), total=job.spec.train.steps)

    def _stepped(self, event: Stepped) -> None:
        if event.waiting and event.job.run_id not in self._waited:
            self._waited.add(event.job.run_id)
            self.say(f"{_name(event.job)}: waiting for the machine, which another timing has (--limit does not count this)")
        if self._bars is not None and event.job.run_id in self._rows:
            loss = f" · loss {event.loss:.4g}" if event.loss is not None else ""
            self._bars.update(self._rows[event.job.run_id], completed=event.done, description=_name(event.job) + loss)

    def _again(self, job: Job, why: str) -> None:
        self.say(f"{_name(job)}: {why}; taken up again")

    def _halting(self, why: str) -> None:
        self.say(f"{why}: the runs under way save their state (again: they end at once)")

    def _elsewhere(self, number: int) -> None:
        if number == 1:
            self.say("some runs are being made by another process on these results: waiting for its records")

    def _recorded(self, record: Record, number: int, missing: int) -> None:
        if self._bars is not None:
            if record.run_id in self._rows:
                self._bars.remove_task(self._rows.pop(record.run_id))
            if self._matrix is not None:
                left = (time.monotonic() - self._since) / number * (missing - number)
                self._bars.update(self._matrix, completed=number, description=f"about {duration(left)} left")
        spec = record.spec
        which = f"rate {spec.train.learning_rate:g}" if spec.role == "trial" else f"seed {spec.seed}"
        split = "valid" if spec.role == "trial" else "test"
        value = record.value(f"{split}_{record.headline}")
        outcome = "no score" if value is None else f"{split} {record.headline} {value:.4g}"
        if record.status != "ok":  # it may have a score all the same: a run that is stopped in its last probes
            outcome = f"{record.status}: {record.why}"
        place = f"[{number:{len(str(missing))}}/{missing}]"
        self.say(f"{place} {spec.group} · {spec.label} · {which}: {outcome} ({record.elapsed_s:.1f} s)")


def _name(job: Job) -> str:
    spec = job.spec
    return visible(f"{spec.group} · {spec.label} · {'trial' if spec.role == 'trial' else f'seed {spec.seed}'}")
