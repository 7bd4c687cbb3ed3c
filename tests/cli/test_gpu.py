"""`bench gpu` runs its parts in order, within its time, and goes on where it was stopped."""

import importlib.util
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.cli import gpu
from bench.cli.gpu import Part
from bench.cli.main import app
from bench.records.errors import UserError

PARTS = ["instruments", "tests", "memory and times", "solvers", "trainings, seed 0", "tables"]


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def start(results: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", "gpu", "--results", str(results), *more]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


def part(*command: str) -> Part:
    return Part(
        name="p", command=command, limit_s=60, output="p.txt", found=lambda results: (results / "p.txt").read_text().strip()
    )


@pytest.mark.end_to_end
@pytest.mark.exhaustive
def test_the_whole_command_at_a_small_size(tmp_path: Path) -> None:
    options = ("--device", "cpu", "--scale", "tiny", "--budget", "900")
    first = start(tmp_path, *options)
    outcomes = {one["name"]: one for one in json.loads((tmp_path / "gpu.json").read_text())}
    assert [*outcomes] == PARTS, first.stderr
    peers = importlib.util.find_spec("torchdeq") is not None
    for name, outcome in outcomes.items():
        if name == "solvers" and not peers:
            assert outcome["status"] == "failed"
            assert "torchdeq is not installed" in outcome["reason"]
        else:
            assert outcome["status"] == "done", outcome
    assert first.returncode == (0 if peers else 1)
    text = (tmp_path / "GPU.md").read_text()
    assert "without --device cuda" in text
    assert "test loss (runs): GRU" in text
    assert (tmp_path / "memory" / "device.md").exists()
    assert (tmp_path / "TABLES.md").exists()
    again = start(tmp_path, *options, "--budget", "60")
    assert again.stderr.count("done before") == (6 if peers else 5)
    assert again.stdout.splitlines()[0].split() == ["part", "status", "seconds", "found"]


@pytest.mark.end_to_end
def test_parts_run_in_order_and_a_second_call_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With short commands in place of the measurements."""
    parts = [part("this"), part("no_such_module"), part("this")]
    parts = [
        replace(one, name=name, output=f"{name}.txt", found=lambda results: "fine") for one, name in zip(parts, "abc", strict=True)
    ]
    monkeypatch.setattr(gpu, "make_parts", lambda *_: parts)
    arguments = ["gpu", "--scale", "tiny", "--device", "cpu", "--results", str(tmp_path)]
    first = CliRunner().invoke(app, arguments)
    assert first.exit_code == 1, first.output
    outcomes = json.loads((tmp_path / "gpu.json").read_text())
    assert [(one["name"], one["status"]) for one in outcomes] == [("a", "done"), ("b", "failed"), ("c", "done")]
    assert "The Zen of Python" in (tmp_path / "a.txt").read_text()
    lines = (tmp_path / "GPU.md").read_text().splitlines()
    assert [line.split("|")[2].strip() for line in lines[4:]] == ["done", "failed", "done"]
    again = CliRunner().invoke(app, arguments)
    assert again.stderr.count("done before") == 1  # the last part, the tables, is always run again
    assert "c: at most" in again.stderr


def test_no_device_and_a_wrong_scale_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    for options, words in ((("--device", "cpu"), "--scale tiny"), (("--scale", "tyni"), "did you mean 'tiny'")):
        found = CliRunner().invoke(app, ["gpu", "--results", str(tmp_path / "r"), *options])
        assert isinstance(found.exception, UserError)
        assert words in str(found.exception)
    assert not (tmp_path / "r").exists()


def test_a_part_at_its_limit_is_asked_to_save_its_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "_LEAST_S", 0.0)
    (tmp_path / "endless.py").write_text(
        "import signal, sys\n"
        f"signal.signal({signal.SIGTERM.value}, lambda *_: (print('saved', flush=True), sys.exit(130)))\n"
        "signal.pause()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    outcome = gpu._run(part("endless"), tmp_path, limit=3.0, code="c")
    assert (outcome.status, outcome.reason) == ("stopped", "at its limit of 3 s")
    assert (tmp_path / "p.txt").read_text() == "saved\n"
    assert gpu.summary([part("endless")], {"p": outcome}, tmp_path)[0]["found"] == "at its limit of 3 s; saved"


def test_a_part_saves_its_state_where_this_process_is_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "endless.py").write_text(
        "import pathlib, signal, sys\n"
        f"signal.signal({signal.SIGTERM.value}, lambda *_: (print('saved', flush=True), sys.exit(130)))\n"
        f"pathlib.Path({str(tmp_path / 'ready')!r}).touch()\n"
        "signal.pause()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def interrupt(process: object, seconds: float) -> int:
        wait_until((tmp_path / "ready").exists)
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess.Popen, "wait", interrupt)
    with pytest.raises(KeyboardInterrupt):
        gpu._run(part("endless"), tmp_path, limit=60.0, code="c")
    assert (tmp_path / "p.txt").read_text() == "saved\n"


def test_a_part_that_fails_says_why_and_one_without_time_is_left(tmp_path: Path) -> None:
    failed = gpu._run(part("no_such_module"), tmp_path, limit=60.0, code="c")
    assert failed.status == "failed"
    assert "No module named no_such_module" in failed.reason
    left = gpu._run(part("no_such_module"), tmp_path, limit=1.0, code="c")
    assert (left.status, left.reason) == ("left", "no time was left")


def test_a_damaged_status_file_is_measured_again(tmp_path: Path) -> None:
    for text in ("", "{}", '[{"name": "x"}]', "[1]"):
        (tmp_path / "gpu.json").write_text(text)
        assert gpu._read(tmp_path) == {}
