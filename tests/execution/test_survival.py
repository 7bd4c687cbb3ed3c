"""Kill coordinators and runs at random moments: every record is written once, and the tables are the same bytes."""

import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from running import PATIENCE_S, run_suite

from bench.execution.engines.inline import Inline
from bench.execution.plan import Plan
from bench.execution.suite_loading import load_suite
from bench.records.store import Store
from bench.report.report import write_report

ROOT = Path(__file__).resolve().parents[2]
KILLS = int(os.environ.get("DEQ_BENCH_KILLS", "2"))
SEEDS = 1 if KILLS < 12 else 5  # more kills need more runs
PERIOD = 4  # one kill of so many is a coordinator's, beginning with the second; the others are runs'
SUITE = f"""
from bench.records.spec import Comparison, ComponentConfig, ModelEntry, TrainConfig

DEQ = {{"width": 16, "cell.heads": 2, "steps": 6, "backward_steps": 4}}
SPECS = [
    Comparison(
        group="copy",
        task=ComponentConfig(name="copy", settings={{"T": 5, "samples": 1000, "test_samples": 100}}),
        train=TrainConfig(steps=60, batch=8, learning_rate=1e-2, warmup=10, evaluate_every=20),
        rows={{
            "DEQ": ModelEntry(model=ComponentConfig(name="deq", settings=DEQ)),
            "GRU": ModelEntry(model=ComponentConfig(name="gru", settings={{"inputs": 16}})),
        }},
        reference="DEQ",
        learning_rates=(3e-3, 1e-2),
        trial_steps=30,
        seeds=range({SEEDS}),
    ),
]
"""
# Tables without clock readings.
TABLES = ("copy.md", "copy.csv", "copy.tex", "copy-solver.md", "copy-solver.csv", "copy-trials.md")


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder with the suite and lock files of its own, of a short path; no process survives it."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name)
        (folder / "night.py").write_text(SUITE)
        (folder / "locks").mkdir()
        patch.setattr(tempfile, "tempdir", str(folder / "locks"))
        yield folder
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                if str(folder) in process.environ().get("TMPDIR", ""):
                    process.kill()


def start(folder: Path) -> subprocess.Popen[bytes]:
    options = ["--device", "cpu", "--jobs", "2", "--checkpoint", "0.05", "--attempts", "1000", "--results", "killed"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(folder / "locks")}
    command = [sys.executable, "-m", "bench", "run", "night.py", *options]
    with (folder / "log.txt").open("ab") as log:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)


def runs_of(coordinator: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The coordinator's running runs: each is the leader of a session, below the fork server."""
    found = []
    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(coordinator.pid).children(recursive=True):
            with suppress(ProcessLookupError):
                if os.getsid(child.pid) == child.pid:
                    found.append(child)
    return found


def contents(results: Path) -> dict[str, bytes]:
    return {name: (results / "tables" / "night" / name).read_bytes() for name in TABLES}


@pytest.mark.end_to_end
def test_kills_of_two_coordinators_and_their_runs_change_no_table(folder: Path) -> None:
    chance = random.Random(os.environ.get("DEQ_BENCH_KILL_SEED", "0"))
    suite, entries = load_suite(str(folder / "night.py"), {})
    run_suite(Plan(entries), folder / "undisturbed", suite=suite, engine=Inline())
    write_report(folder / "undisturbed")
    pair, kills = [start(folder) for _ in range(2)], 0
    end = time.monotonic() + 3 * PATIENCE_S
    while kills < KILLS and any(one.poll() is None for one in pair):
        assert time.monotonic() < end, kills
        running = [run for one in pair for run in runs_of(one)]
        begun = list((folder / "killed" / "work").rglob("attempts.jsonl"))
        if not running or len(begun) < len(
            running
        ):  # the coordinators import or are between runs, or a run has not logged its start
            time.sleep(0.02)
        elif kills % PERIOD == 1:
            victim = chance.randrange(2)
            pair[victim].kill()
            pair[victim].wait()
            if KILLS < PERIOD:  # the other goes on alone
                pair.pop(victim)
            else:
                pair[victim] = start(folder)
            kills += 1
        else:
            with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
                chance.choice(running).kill()
                kills += 1
        time.sleep(chance.uniform(0.0, 0.4))
    assert kills == KILLS, "the suite ended before all kills"
    for coordinator in pair:
        assert coordinator.wait(timeout=3 * PATIENCE_S) == 0, (folder / "log.txt").read_text()[-3000:]
    expected, found = Store(folder / "undisturbed"), Store(folder / "killed")
    assert len(expected.ids("night")) == 4 + 2 * SEEDS
    assert found.ids("night") == expected.ids("night")
    assert all(record.status == "ok" for record in found.read_all("night"))
    assert any(len(record.provenance["attempts"]) > 1 for record in found.read_all("night"))
    assert contents(found.results) == contents(expected.results)
    assert not (found.results / "work").exists()
    assert not list(found.results.rglob("*.tmp"))
