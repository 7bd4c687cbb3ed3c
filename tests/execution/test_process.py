"""The deadlines and exit statuses of a run's process, and the socket of its server."""

import tempfile
import time
from multiprocessing.connection import Listener
from multiprocessing.process import current_process
from pathlib import Path

import pytest

from bench.execution.engines.process import GRACE_S, Deadlines, _exit_reason, _shorten_socket_path


class TestDeadlines:
    """The clock of a run's process, with the time set by hand."""

    @pytest.fixture(autouse=True)
    def _clock(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)

    def reason(self, deadlines: Deadlines) -> str | None:
        found = deadlines.kill_reason(self.now)
        return found and found[0]

    def test_a_wait_for_the_machine_is_not_part_of_the_time_limit(self) -> None:
        deadlines = Deadlines(10.0)
        self.now += 5
        deadlines.set_waiting(True)
        self.now += 1000
        assert self.reason(deadlines) is None
        deadlines.set_waiting(False)
        self.now += 5 + GRACE_S - 0.1
        assert self.reason(deadlines) is None
        self.now += 0.2
        assert "limit of 10 s" in str(self.reason(deadlines))

    def test_a_long_wait_is_reported_once(self) -> None:
        deadlines = Deadlines(None)
        assert not deadlines.waits_long()
        for _ in range(2):
            deadlines.set_waiting(True)
            self.now += 1
            assert not deadlines.waits_long()
            self.now += 5
            assert [deadlines.waits_long(), deadlines.waits_long()] == [True, False]
            deadlines.set_waiting(False)

    def test_only_the_first_request_to_end_counts(self) -> None:
        deadlines = Deadlines(None)
        deadlines.end_soon("first", "interrupted")
        self.now += GRACE_S / 2
        deadlines.end_soon("second", "crashed")
        assert self.reason(deadlines) is None
        self.now += GRACE_S / 2
        assert self.reason(deadlines) == "first"


@pytest.mark.parametrize(
    ("code", "reason", "fault"),
    [
        (0, "status 0 and no record", True),
        (3, "status 3 and no record", True),
        (255, "status 255", False),  # which stands for a dead fork server
        (None, "status None", False),
        (-9, "killed by SIGKILL", False),
        (-15, "killed by SIGTERM", False),
        (-11, "killed by SIGSEGV", True),
        (-250, "killed by 250", False),
    ],
)
def test_an_exit_status_says_whether_the_run_is_at_fault(code: int | None, reason: str, fault: bool) -> None:
    found = _exit_reason(code)
    assert reason in found[0]
    assert found[1] is fault


@pytest.mark.parametrize("length", [40, 90, 150])
def test_the_fork_servers_socket_can_be_bound_whatever_the_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    folder = tmp_path / ("x" * max(1, length - len(str(tmp_path))))
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(current_process(), "_config", {"authkey": b"", "semprefix": "/mp"})
    _shorten_socket_path()
    with Listener(family="AF_UNIX") as listener:  # where the fork server's is
        assert len(str(listener.address)) <= 107
