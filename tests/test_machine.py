"""A timing has the machine to itself, across processes, and nobody waits for the dead or for ever."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.machine import Machine
from bench.meters import Clocks

pytest.importorskip("fcntl")

# The holder's whole program, without torch: it starts in a tenth of a second.
HOLDER = """
import sys
from pathlib import Path
from bench.machine import Machine
with getattr(Machine(Path(sys.argv[1])), sys.argv[2])():
    print("held", flush=True)
    sys.stdin.readline()
print("freed", flush=True)
"""
ROOT = Path(__file__).resolve().parents[1]


@contextmanager
def holder(folder: Path, how: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder), how], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_held(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"


class Contender(threading.Thread):
    """Enters in its own thread (each entry opens the lock files anew, so threads exclude one another as processes do)."""

    def __init__(self, folder: Path, how: str) -> None:
        super().__init__(daemon=True)
        self.machine, self.how = Machine(folder), how
        self.inside, self.leave = threading.Event(), threading.Event()
        self.start()

    def run(self) -> None:
        with getattr(self.machine, self.how)():
            self.inside.set()
            self.leave.wait(20)

    def end(self) -> None:
        self.leave.set()
        self.join(20)
        assert not self.is_alive()


@pytest.mark.parametrize(
    ("first", "second", "together"),
    [("shared", "shared", True), ("shared", "exclusive", False), ("exclusive", "shared", False), ("exclusive", "exclusive", False)],
)
def test_who_goes_beside_whom_across_processes(tmp_path: Path, first: str, second: str, together: bool) -> None:
    with holder(tmp_path, first) as process:
        wait_held(process)
        contender = Contender(tmp_path, second)
        assert contender.inside.wait(10 if together else 0.3) == together
        if not together:
            process.communicate("\n")
            assert contender.inside.wait(10)
        contender.end()


@pytest.mark.parametrize("how", ["shared", "exclusive"])
def test_frees_itself_when_its_holder_is_killed(tmp_path: Path, how: str) -> None:
    with holder(tmp_path, how) as process:
        wait_held(process)
        contender = Contender(tmp_path, "exclusive")
        assert not contender.inside.wait(0.2)
        process.kill()
        assert contender.inside.wait(10)
        contender.end()


@pytest.mark.parametrize("how", ["shared", "exclusive"])
def test_the_time_it_is_waited_for_is_waiting(tmp_path: Path, how: str) -> None:
    clocks = Clocks()
    machine = Machine(tmp_path, waiting=lambda: clocks.phase("waiting"))
    holder = Contender(tmp_path, "exclusive")
    assert holder.inside.wait(10)
    threading.Timer(0.5, holder.end).start()
    with clocks.phase("probe"), getattr(machine, how)():
        waited = clocks.seconds("waiting") or 0.0
    assert waited > 0.3
    assert clocks.seconds("waiting") == waited  # not what is done with it
    assert clocks.total() < waited


def test_an_exception_inside_frees_it(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    for how in ("shared", "exclusive", "shared"):
        with pytest.raises(RuntimeError), getattr(machine, how)():
            raise RuntimeError
    contender = Contender(tmp_path, "exclusive")
    assert contender.inside.wait(10)
    contender.end()


def test_who_comes_after_a_waiting_timing_waits_for_it(tmp_path: Path) -> None:
    first = Contender(tmp_path, "shared")
    assert first.inside.wait(10)
    timing = Contender(tmp_path, "exclusive")
    assert not timing.inside.wait(0.2)
    second = Contender(tmp_path, "shared")
    assert not second.inside.wait(0.3)
    first.end()
    assert timing.inside.wait(10)
    assert not second.inside.wait(0.2)
    timing.end()
    assert second.inside.wait(10)
    second.end()


def test_a_stream_of_steps_does_not_starve_a_timing(tmp_path: Path) -> None:
    stop = threading.Event()
    entered = 0

    def stream() -> None:
        nonlocal entered
        machine = Machine(tmp_path)
        while not stop.is_set():
            with machine.shared():
                entered += 1
                time.sleep(0.01)

    threads = [threading.Thread(target=stream, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        time.sleep(0.1)
        waits = []
        for _ in range(5):
            begin = time.monotonic()
            with Machine(tmp_path).exclusive():
                waits.append(time.monotonic() - begin)
                inside = entered
                time.sleep(0.03)
                assert entered == inside
        assert max(waits) < 3
        before = entered
        time.sleep(0.2)
        assert entered > before  # and the stream goes on
    finally:
        stop.set()
        for thread in threads:
            thread.join(10)


def test_a_link_laid_in_the_way_is_not_followed_and_ends_no_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "victim").write_text("mine")
    machine = Machine(tmp_path)
    with machine.shared():
        pass
    files = [file for file in tmp_path.iterdir() if file.name != "victim"]
    assert files
    assert all(file.stat().st_mode & 0o077 == 0 for file in files)
    for file in files:
        file.unlink()
        file.symlink_to(tmp_path / "victim")
    for make in (lambda: machine, lambda: Machine(tmp_path)):
        one = make()
        with one.shared(), one.exclusive():
            pass
        assert not one.can_exclude
        assert f"{tmp_path / 'turnstile'}: Too many levels of symbolic links" in capfd.readouterr().err
    assert (tmp_path / "victim").read_text() == "mine"


def test_without_flock_nobody_is_kept_out_and_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.machine.CAN_LOCK", False)
    machine = Machine(tmp_path)
    assert not machine.can_exclude
    with machine.exclusive(), machine.shared():
        pass
    assert list(tmp_path.iterdir()) == []
