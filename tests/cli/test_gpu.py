"""`bench gpu` runs its parts in order, within its time, and goes on where it was stopped."""

import importlib.util
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bench.cli import gpu
from bench.cli.gpu import Part

PARTS = ["instruments", "tests", "memory and times", "solvers", "trainings, seed 0", "tables"]


def start(results: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", "gpu", "--results", str(results), *more]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


def part(*command: str) -> Part:
    return Part(
        name="p", command=command, limit_s=60, output="p.txt", found=lambda results: (results / "p.txt").read_text().strip()
    )


@pytest.mark.end_to_end
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


def test_no_device_and_a_wrong_scale_are_one_line(tmp_path: Path) -> None:
    for options, words in ((("--device", "cpu"), "--scale tiny"), (("--scale", "tyni"), "did you mean 'tiny'")):
        found = start(tmp_path / "r", *options)
        assert found.returncode == 2
        assert words in found.stderr
        assert found.stderr.count("\n") == 1
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
