"""Stopping a suite saves the state of its runs, even when its output is closed, and reports what was saved."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from engine_jobs import wait_until
from running import PATIENCE_S, run_suite
from scripted import Scripted, spec

from bench.cli.progress import Display
from bench.cli.run import halt_on_signals
from bench.execution.coordinator import Callbacks, Coordinator, SuiteStopped
from bench.execution.engines.engine import Event, Finished, Lost, Progress
from bench.execution.engines.inline import Inline
from bench.execution.job import Job
from bench.execution.plan import Plan
from bench.records.store import Store
from bench.training.checkpoint import Checkpoint

ROOT = Path(__file__).resolve().parents[2]
SUITE = """
from bench.records.spec import ComponentConfig, RunSpec, TrainConfig

def one(seed):
    settings = {"width": 4, "how": "sleep", "at": 2, "folder": FOLDER, "wait_s": 600.0}
    return RunSpec(group="g", label="sleeper", model=ComponentConfig(name="user_models:FailingModel", settings=settings), seed=seed,
                task=ComponentConfig(name="user_models:Echo"),
                train=TrainConfig(steps=1000, batch=4, learning_rate=0.01, evaluation_batch=8))

SPECS = [one(0), one(1)]
"""


@contextmanager
def started(folder: Path, *, stdout: int, stderr: int) -> Iterator[subprocess.Popen[str]]:
    """Start the command line in its own process group; yields when its first run sleeps in its second step."""
    (folder / "mine.py").write_text(f"FOLDER = {str(folder)!r}\n{SUITE}")
    locks = folder / "locks"
    locks.mkdir()
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    process = subprocess.Popen(
        [sys.executable, "-m", "bench", "run", "mine.py", "--device", "cpu", "--jobs", "1"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path, "TMPDIR": str(locks), "COLUMNS": "200"},
        stdout=stdout,
        stderr=stderr,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # tests under nohup ignore it
    )
    try:
        wait_until(lambda: list(folder.glob("*.asleep")) or process.poll() is not None)
        assert process.poll() is None
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def saved_step(folder: Path) -> int:
    (path,) = (folder / "results" / "work" / "mine").glob("*/checkpoint.pt")
    checkpoint = Checkpoint(path, path.parent.name)
    checkpoint.load()
    return checkpoint.step


@pytest.mark.end_to_end
@pytest.mark.exhaustive
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP], ids=lambda number: number.name)
def test_the_state_is_saved_when_the_output_is_closed(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C under `2>&1 | tee log` ends tee too; closing a terminal closes both outputs."""
    read, write = os.pipe()
    with started(tmp_path, stdout=write, stderr=write) as process:
        os.close(write)
        os.close(read)
        os.killpg(process.pid, number)
        (tmp_path / "go").touch()
        assert process.wait(timeout=PATIENCE_S) == 130
    assert saved_step(tmp_path) >= 2


@pytest.mark.end_to_end
@pytest.mark.exhaustive
def test_the_command_reports_the_saved_state(tmp_path: Path) -> None:
    with started(tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        os.killpg(process.pid, signal.SIGTERM)
        (tmp_path / "go").touch()
        _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert "stopped by SIGTERM: the running runs save their state" in err
    assert "stopped; finished runs are recorded, the state of 1 is saved: the same command goes on from there\n" in err
    assert saved_step(tmp_path) >= 2


class Stopping(Scripted):
    """Engine that halts the coordinator at its first job, which then ends by the given event."""

    def __init__(self, end: Callable[[Job], Event]) -> None:
        super().__init__()
        self.end, self.halt, self.order = end, lambda: None, list[str]()

    def wait(self, seconds: float) -> list[Event]:
        if self._job is None or not self.order:
            self.halt()
            return []
        job, self._job = self._job, None
        return [self.end(job)]

    def stop(self, reason: str) -> None:
        self.order.append("stop")


def halted(tmp_path: Path, end: Callable[[Job], Event]) -> tuple[SuiteStopped, list[str]]:
    """Halt a suite of one run; the exception, and the order of calls."""
    engine = Stopping(end)
    callbacks = Callbacks(stopping=engine.order.append)
    coordinator = Coordinator(Plan([spec()]), suite="s", store=Store(tmp_path), engine=engine, callbacks=callbacks)
    engine.halt = lambda: coordinator.request_stop("stopped by the test")
    with pytest.raises(SuiteStopped, match="stopped by the test") as found:
        coordinator.run()
    return found.value, engine.order


def interrupted(job: Job, checkpoint: str | None) -> Event:
    (record,) = run_suite(Plan([job.spec]), job.folder.parent / "other", engine=Inline())
    update = {"status": "interrupted", "reason": "stopped", "provenance": {"checkpoint": checkpoint, "checkpoint_step": 2}}
    return Finished(job, record.model_copy(update=update))


def test_the_runs_are_asked_to_stop_before_any_output(tmp_path: Path) -> None:
    _, order = halted(tmp_path, lambda job: Lost(job, "stopped", "interrupted"))
    assert order == ["stop", "stopped by the test"]


def test_a_run_that_could_not_save_its_state_is_reported_as_lost(tmp_path: Path) -> None:
    found, _ = halted(tmp_path, lambda job: interrupted(job, None))
    assert (found.saved, found.lost) == (1, ())

    def refused(job: Job) -> Event:
        job.folder.mkdir(parents=True, exist_ok=True)
        job.progress.write_text('{"step": 2, "steps": 3, "loss": null}')
        return interrupted(job, "not written at step 2: cannot write: No space left on device")

    found, _ = halted(tmp_path / "full", refused)
    assert (found.saved, found.lost) == (0, ("g · l: from the start",))


def test_a_run_that_had_not_begun_is_not_lost(tmp_path: Path) -> None:
    found, _ = halted(tmp_path, lambda job: Lost(job, "stopped", "interrupted"))
    assert (found.saved, found.lost) == (0, ())


def test_an_ignored_signal_stays_ignored() -> None:
    """As under `nohup`."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with halt_on_signals(Any):
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) not in (signal.SIG_IGN, signal.SIG_DFL)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_closed_output_does_not_end_the_suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    os.close(read)
    closed = os.fdopen(write, "w", buffering=1)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", closed)
        with Display(quiet=False) as display:
            (record,) = run_suite(Plan([spec()]), tmp_path, engine=Inline(), callbacks=display.callbacks)
    assert record.status == "ok"
    with pytest.raises(BrokenPipeError):
        closed.close()  # flushes


def test_a_wait_for_the_machine_is_shown_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    jobs: list[Job] = []
    run_suite(Plan([spec()]), tmp_path, engine=Inline(), callbacks=Callbacks(started=jobs.append))
    with Display(quiet=False) as display:
        for _ in range(3):
            display.callbacks.progress(Progress(jobs[0], 0, 3, None, waiting=True))
    assert capfd.readouterr().err.count("waiting for another timing") == 1
