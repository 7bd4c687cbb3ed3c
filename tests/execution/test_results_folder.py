"""The coordinator never damages a written record, whatever the disk or the clock does."""

import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from running import run_suite
from scripted import Counting, spec

from bench.execution.engines.inline import Inline
from bench.execution.plan import Plan
from bench.records.errors import UserError
from bench.records.store import Store

Partly = tuple[Plan, Path, dict[str, bytes]]


@pytest.fixture
def partly_recorded(tmp_path: Path) -> Partly:
    """A plan of three runs of which one is recorded."""
    run_suite(Plan([spec(0)]), tmp_path / "results", engine=Inline())
    return Plan([spec(seed) for seed in range(3)]), tmp_path / "results", contents(tmp_path / "results")


def contents(results: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (results / "runs" / "s").iterdir()}


class TestDisk:
    def test_a_write_error_keeps_all_records(self, partly_recorded: Partly, monkeypatch: pytest.MonkeyPatch) -> None:
        plan, results, before = partly_recorded

        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr("bench.records.record.os.fsync", full)
            with pytest.raises(UserError, match="No space left"):
                run_suite(plan, results, engine=Inline())
        assert contents(results) == before
        assert Store(results).leased("s") == []
        assert len(run_suite(plan, results, engine=Inline())) == 3
        assert before.items() <= contents(results).items()

    def test_a_full_disk_keeps_all_records(self, tmp_path: Path) -> None:
        """A file system of 200 KiB, where this process may mount one."""
        disk = tmp_path / "disk"
        disk.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "none", str(disk)], capture_output=True).returncode:
            pytest.skip("no file system can be mounted here")
        try:
            plan = Plan([spec(seed) for seed in range(40)])
            with pytest.raises(UserError, match=r"No space left|cannot"):
                run_suite(plan, disk / "results", engine=Inline())
            store = Store(disk / "results")
            there = store.ids("s")
            assert 1 <= len(there) < 40
            assert all(store.read("s", run_id).status == "ok" for run_id in there)
            assert not list(disk.rglob("*.tmp"))
        finally:
            subprocess.run(["umount", str(disk)], check=True)

    def test_a_read_only_results_folder_is_an_error_before_any_run(self, partly_recorded: Partly) -> None:
        plan, results, before = partly_recorded
        if subprocess.run(["mount", "--bind", "-o", "ro", str(results), str(results)], capture_output=True).returncode:
            pytest.skip("no file system can be mounted here")
        try:
            engine = Counting()
            with pytest.raises(UserError, match=r"cannot write .*Read-only"):
                run_suite(plan, results, engine=engine)
            assert engine.jobs == []
            assert contents(results) == before
        finally:
            subprocess.run(["umount", str(results)], check=True)


def test_file_times_and_the_clock_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_suite(Plan([spec(0)]), tmp_path, engine=Inline())
    for path in tmp_path.rglob("*"):
        os.utime(path, (4e9, 4e9))
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - 1e8)
    engine = Counting()
    records = run_suite(Plan([spec(0), spec(1)]), tmp_path, engine=engine)
    assert [job.spec.seed for job in engine.jobs] == [1]
    assert [record.status for record in records] == ["ok", "ok"]
    for path in tmp_path.rglob("*"):
        os.utime(path, (1e6, 1e6))
    assert run_suite(Plan([spec(0), spec(1)]), tmp_path, engine=Counting()) == records
