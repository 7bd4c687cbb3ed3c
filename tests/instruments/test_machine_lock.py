"""The machine lock excludes other processes, is freed when its holder dies, and starves nobody."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.instruments import machine_lock
from bench.instruments.machine_lock import MachineLock
from bench.instruments.meters import Clocks

pytest.importorskip("fcntl")

# The holder's whole program, without torch: it starts in a tenth of a second.
HOLDER = """
import ctypes, os, sys, time
from pathlib import Path
from bench.instruments.machine_lock import MachineLock
with getattr(MachineLock(Path(sys.argv[1])), sys.argv[2])():
    exec(sys.argv[3])
    print("held", flush=True)
    sys.stdin.readline()
print("freed", flush=True)
"""
ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def holder(folder: Path, how: str, first: str = "") -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder), how, first], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
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
    """Takes the lock in a thread; each time opens the lock files, so threads exclude one another as processes do."""

    def __init__(self, folder: Path | None, how: str) -> None:
        super().__init__(daemon=True)
        self.machine, self.how = MachineLock(folder), how
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
def test_only_shared_holders_hold_it_together(tmp_path: Path, first: str, second: str, together: bool) -> None:
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
def test_waiting_for_it_counts_as_waiting(tmp_path: Path, how: str) -> None:
    now = 100.0
    clocks = Clocks(clock=lambda: now)
    holder = Contender(tmp_path, "exclusive")
    assert holder.inside.wait(10)

    @contextmanager
    def blocked() -> Iterator[None]:
        nonlocal now
        now += 3.0
        holder.leave.set()
        yield

    machine = MachineLock(tmp_path, waiting=lambda: clocks.phase("waiting"), blocked=blocked)
    with clocks.phase("probe"), getattr(machine, how)():
        now += 0.5
    assert clocks.seconds("waiting") == 3.0  # not the time it is held
    assert clocks.total() == 0.5


def test_an_exception_inside_frees_it(tmp_path: Path) -> None:
    machine = MachineLock(tmp_path)
    for how in ("shared", "exclusive", "shared"):
        with pytest.raises(RuntimeError), getattr(machine, how)():
            raise RuntimeError
    contender = Contender(tmp_path, "exclusive")
    assert contender.inside.wait(10)
    contender.end()


def test_a_shared_holder_waits_for_an_exclusive_one_that_waits(tmp_path: Path) -> None:
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
        machine = MachineLock(tmp_path)
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
            with MachineLock(tmp_path).exclusive():
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


def test_a_link_is_not_followed_and_ends_no_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "victim").write_text("mine")
    machine = MachineLock(tmp_path)
    with machine.shared():
        pass
    files = [file for file in tmp_path.iterdir() if file.name != "victim"]
    assert files
    assert all(file.stat().st_mode & 0o077 == 0 for file in files)
    for file in files:
        file.unlink()
        file.symlink_to(tmp_path / "victim")
    for make in (lambda: machine, lambda: MachineLock(tmp_path)):
        one = make()
        with one.shared(), one.exclusive():
            pass
        assert not one.can_exclude
        assert f"{tmp_path / 'turnstile'}: Too many levels of symbolic links" in capfd.readouterr().err
    assert (tmp_path / "victim").read_text() == "mine"


@pytest.mark.parametrize("how", ["shared", "exclusive"])
@pytest.mark.parametrize("fork", ["os.fork()", "ctypes.CDLL(None).fork()"])  # compiled code forks without Python's knowledge
def test_a_forked_child_does_not_keep_the_lock(tmp_path: Path, how: str, fork: str) -> None:
    with holder(tmp_path, how, f"child = {fork} or time.sleep(60) or os._exit(0); print(child, flush=True)") as process:
        assert process.stdout is not None
        assert process.stdin is not None
        child = int(process.stdout.readline())
        try:
            wait_held(process)
            contender = Contender(tmp_path, "exclusive")
            assert not contender.inside.wait(0.2)
            if fork == "os.fork()":
                process.kill()
            else:
                process.stdin.write("\n")
                process.stdin.flush()
            assert contender.inside.wait(10)
            contender.end()
            os.kill(child, 0)
        finally:
            os.kill(child, signal.SIGKILL)


class TestFolder:
    @pytest.fixture(autouse=True)
    def places(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A folder for temporary files that anybody may write to, and a cache."""
        (tmp_path / "tmp").mkdir(mode=0o1777)
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def test_the_locks_lie_where_only_this_user_can_write(self, tmp_path: Path) -> None:
        umask = os.umask(0)
        try:
            assert MachineLock().can_exclude
        finally:
            os.umask(umask)
        (folder,) = (tmp_path / "tmp").iterdir()
        assert folder.stat().st_mode & 0o077 == 0
        folder.chmod(0o777)
        with MachineLock().exclusive():
            assert folder.stat().st_mode & 0o077 == 0
        assert not (tmp_path / "cache").exists()

    @pytest.mark.parametrize("planted", ["link", "file", "dangling"])
    def test_a_file_or_link_of_others_in_its_place_is_not_used(self, tmp_path: Path, planted: str) -> None:
        victim, place = tmp_path / "victim", tmp_path / "tmp" / f"deq-bench-{os.getuid()}"
        if planted != "dangling":
            victim.mkdir()
        place.touch() if planted == "file" else place.symlink_to(victim)
        machine = MachineLock()
        assert machine.can_exclude
        with machine.shared():
            pass
        with machine.exclusive():
            contender = Contender(None, "exclusive")
            assert not contender.inside.wait(0.2)  # all processes agree on where
        contender.end()
        assert not victim.exists() or list(victim.iterdir()) == []
        assert (tmp_path / "cache").is_dir()

    def test_where_nothing_can_be_locked_runs_continue_with_one_warning(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        def refuse(*_: object) -> None:
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr("bench.records.file_lock.fcntl.flock", refuse)
        machine = MachineLock()
        assert not machine.can_exclude
        with machine.shared(), machine.exclusive():
            pass
        (line,) = capfd.readouterr().err.splitlines()
        assert f"{tmp_path / 'tmp'}" in line
        assert "No locks available" in line

    def test_a_folder_that_is_removed_is_created_again(self, tmp_path: Path) -> None:
        machine = MachineLock()
        shutil.rmtree(tmp_path / "tmp")
        (tmp_path / "tmp").mkdir()
        with machine.exclusive():
            pass
        assert machine.can_exclude

    def test_waiting_prints_one_line(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        first, machine = Contender(None, "exclusive"), MachineLock()
        assert first.inside.wait(10)
        printed = machine_lock._print

        def end_first(line: str) -> None:
            printed(line)
            first.end()

        monkeypatch.setattr(machine_lock, "_print", end_first)
        with machine.exclusive():
            pass
        with machine.shared():
            pass
        (line,) = capfd.readouterr().err.splitlines()
        assert line.startswith("waiting for the machine: another benchmark holds it")


def test_without_flock_nobody_is_excluded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.instruments.machine_lock.CAN_LOCK", False)
    machine = MachineLock(tmp_path)
    assert not machine.can_exclude
    with machine.exclusive(), machine.shared():
        pass
    assert list(tmp_path.iterdir()) == []
