"""Other work during a timing is detected; the processes of one run are not other work."""

from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from bench.instruments.contention import Contention


class Kernel:
    """A stand-in for the kernel: seconds on the clock, of all processes, of this one, and of waits for a processor."""

    def __init__(self, folder: Path) -> None:
        self.clock, self.everything, self.own, self.folder = 0.0, 0.0, 0.0, folder
        (folder / "task" / "1").mkdir(parents=True)
        self.wait(0.0)

    def wait(self, seconds: float) -> None:
        (self.folder / "task" / "1" / "schedstat").write_text(f"1 {int(1e9 * seconds)} 1\n")

    def watched(self, threads: int, sum_ranks: Callable[[float], float] = float) -> Contention:
        return Contention(
            threads, sum_ranks=sum_ranks, process=self.folder, clock=lambda: self.clock, used=lambda: (self.everything, self.own)
        )


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    monkeypatch.setattr(psutil, "cpu_count", lambda: 4)
    return Kernel(tmp_path)


@pytest.mark.parametrize(("others", "reason"), [(0.0, None), (4.0, None), (6.0, "other processes used 0.60 of 4 cores")])
def test_others_may_use_a_little_of_what_the_run_leaves_free(kernel: Kernel, others: float, reason: str | None) -> None:
    contention = kernel.watched(threads=1)
    kernel.clock, kernel.own, kernel.everything = 10.0, 10.0, 10.03 + others  # and the clocks' grain
    assert contention.read() == reason


def test_a_wait_for_a_processor_is_seen(kernel: Kernel) -> None:
    contention = kernel.watched(threads=2)
    kernel.clock, kernel.own, kernel.everything = 10.0, 20.0, 20.0
    kernel.wait(0.9)
    assert contention.read() is None
    kernel.wait(3.03)
    assert contention.read() == "the run waited for a processor 15 % of the time"


def test_processes_of_one_run_are_not_other_work(kernel: Kernel) -> None:
    contention = kernel.watched(threads=2, sum_ranks=lambda own: 2 * own)
    kernel.clock, kernel.own, kernel.everything = 10.0, 10.0, 20.0
    assert contention.read() is None
    assert contention.read(local=True) == "other processes used 1.00 of 4 cores"


def test_start_opens_a_new_window(kernel: Kernel) -> None:
    contention = kernel.watched(threads=1)
    kernel.clock, kernel.everything = 10.0, 40.0
    contention.start()
    kernel.clock, kernel.everything, kernel.own = 20.0, 50.0, 10.0
    assert contention.read() is None


def test_the_lost_count_of_an_ended_thread_does_not_reduce_the_waits_of_others(kernel: Kernel) -> None:
    kernel.wait(5.0)
    contention = kernel.watched(threads=1, sum_ranks=lambda own: own + 3.0)
    kernel.clock = 10.0
    kernel.wait(0.0)
    assert contention.read() == "the run waited for a processor 30 % of the time"


def test_a_thread_that_ends_during_the_read_is_ignored(kernel: Kernel) -> None:
    (kernel.folder / "task" / "0").mkdir()  # gone before its file is read
    contention = kernel.watched(threads=1)
    kernel.clock = 10.0
    kernel.wait(3.03)
    assert contention.read() == "the run waited for a processor 30 % of the time"
