"""Runs execute in processes of their own, side by side, and nothing that one does harms another."""

import multiprocessing.util
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench.engines.local import execute
from bench.errors import UserError
from bench.record import Record
from bench.run import run
from bench.spec import Named, Settings, Spec, Train


@pytest.fixture(autouse=True, scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Locks apart from those of other benchmarks on this machine, for as long as the fork server lives."""
    multiprocessing.util.get_temp_dir()  # its socket stays where paths are short
    folder = tmp_path_factory.getbasetemp() / "locks"
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        patch.setattr(tempfile, "tempdir", str(folder))
        for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_ARENA_MAX"):
            patch.setenv(name, os.environ.get(name, "65536"))
        yield


def spec(label: str, name: str = "gru", settings: Settings | None = None, **changes: Any) -> Spec:
    return Spec(
        group="g",
        label=label,
        model=Named(name=name, settings=settings or {"width": 4}),
        task=Named(name="user_models:Echo"),
        train=Train(**({"steps": 3, "batch": 4, "learning_rate": 0.01, "evaluation_batch": 8} | changes.pop("train", {}))),
        seed=0,
        **({"role": "trial"} | changes),
    )


def misfit(label: str, how: str, folder: Path | str = "", wait_s: float = 20.0) -> Spec:
    settings: Settings = {"width": 4, "how": how, "at": 2, "folder": str(folder), "wait_s": wait_s}
    return spec(label, "user_models:Misfit", settings)


def by_label(records: Any) -> dict[str, Record]:
    return {record.spec.label: record for record in records}


def gone(pid: int) -> bool:
    """Whether a process is dead (a zombie is: its parent, the fork server, has yet to look)."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.02)
    return False


def wait_for(folder: Path, pattern: str) -> list[Path]:
    end = time.monotonic() + 30
    while not (found := list(folder.glob(pattern))):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


def test_a_record_is_that_of_the_same_run_in_this_process() -> None:
    one = spec("l", "deq", {"cell": "mlp", "width": 4, "steps": 5}, role="final")
    here = run(one, suite="s").model_dump(mode="json")
    (record,) = execute([one], suite="s", data={}, jobs=1)
    there = record.model_dump(mode="json")
    for data in (here, there):
        for point in data["curve"]:
            del point["seconds"]
        del data["provenance"]["finished"]
        for name in ("variables", "logical_cores"):
            data["environment"].pop(name)
        clocks = ("_s", "_ms_median", "_ms_p10", "_ms_p90", "tokens_per_s", "host_peak_bytes")
        assert {name for name, measure in data["measures"].items() if measure["value"] is not None}
        data["measures"] = {name: one for name, one in data["measures"].items() if not name.endswith(clocks)}
    assert there == here


def test_one_that_dies_is_a_record_and_the_others_go_on() -> None:
    specs = [misfit("killed", "kill"), misfit("raises", "raise"), spec("fine"), misfit("exits", "exit"), spec("fine too")]
    records = by_label(execute(specs, suite="s", data={}, jobs=2))
    assert set(records) == {one.label for one in specs}
    assert {label for label, record in records.items() if record.status == "ok"} == {"fine", "fine too"}
    for label, why in (("killed", "killed by SIGKILL"), ("raises", "RuntimeError: a user's mistake"), ("exits", "status 3")):
        assert records[label].status == "crashed"
        assert why in str(records[label].why)
        assert records[label].run_id == records[label].spec.run_id
        assert records[label].environment["torch"]


def test_a_message_with_a_byte_that_is_no_character_arrives() -> None:
    (record,) = execute([misfit("strange", "strange")], suite="s", data={}, jobs=1)
    assert record.status == "crashed"
    assert "a byte that is no character" in str(record.why)


def test_two_jobs_overlap_in_processes_of_their_own(tmp_path: Path) -> None:
    records = by_label(execute([misfit("a", "meet", tmp_path), misfit("b", "meet", tmp_path)], suite="s", data={}, jobs=2))
    assert [(label, record.status, record.why) for label, record in sorted(records.items())] == [
        ("a", "ok", None),
        ("b", "ok", None),
    ]
    pids = {int(path.stem) for path in tmp_path.glob("*.here")}
    assert len(pids) == 2
    assert os.getpid() not in pids
    assert all(gone(pid) for pid in pids)
    assert all(record.provenance["runs_side_by_side"] == 2 for record in records.values())


def test_one_job_does_not_overlap(tmp_path: Path) -> None:
    specs = [misfit(label, "meet", tmp_path, wait_s=0.5) for label in "ab"]
    records = list(execute(specs, suite="s", data={}, jobs=1))
    assert [record.spec.label for record in records] == ["a", "b"]
    assert "met nobody" in str(records[0].why)
    assert records[1].status == "ok"


def test_closing_ends_the_runs_under_way(tmp_path: Path) -> None:
    runs = execute([misfit("sleeper", "sleep", tmp_path), spec("fine"), spec("never")], suite="s", data={}, jobs=2)
    assert next(runs).spec.label == "fine"
    (mark,) = wait_for(tmp_path, "*.asleep")
    assert psutil.pid_exists(int(mark.stem))
    runs.close()
    assert gone(int(mark.stem))


def test_a_spec_that_cannot_be_ends_the_runs_under_way_and_is_the_users_error(tmp_path: Path) -> None:
    wrong = spec("wrong", train={"carry": True})
    with pytest.raises(UserError, match="carry"):
        list(execute([misfit("sleeper", "sleep", tmp_path), wrong], suite="s", data={}, jobs=2))
    assert all(gone(int(mark.stem)) for mark in tmp_path.glob("*.asleep"))


def test_progress_is_told() -> None:
    seen: list[tuple[str, int, int, float | None]] = []
    runs = execute([spec("l")], suite="s", data={}, jobs=1, watch=lambda one, *rest: seen.append((one.label, *rest)))
    assert [record.status for record in runs] == ["ok"]
    assert seen
    label, done, total, loss = seen[0]
    assert (label, total) == ("l", 3)
    assert 1 <= done <= 3
    assert loss is not None
    assert loss > 0


def test_nothing_to_do_does_nothing() -> None:
    assert list(execute([], suite="s", data={}, jobs=2)) == []
