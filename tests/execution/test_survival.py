"""A benchmark night: whatever dies on the way, in the end there is every record, once, whole, and the tables are the same bytes."""

import os
import random
import shutil
import signal
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
KILLS = int(os.environ.get("DEQ_BENCH_KILLS", "5"))
SEEDS = 3 if KILLS < 12 else 5  # the more runs, the more there is to kill
EVERY = 4  # of so many kills, one is of a coordinator, the others of runs
SUITE = """
from bench.records.spec import Comparison, ComponentConfig, ModelEntry, TrainConfig

SPECS = [
    Comparison(
        group="copy",
        task=ComponentConfig(name="copy", settings={"T": 5, "samples": 1000, "test_samples": 100}),
        train=TrainConfig(steps=120, batch=8, learning_rate=1e-2, warmup=10, evaluate_every=40),
        rows={
            "DEQ": ModelEntry(
                model=ComponentConfig(name="deq", settings={"width": 16, "cell.heads": 2, "steps": 6, "backward_steps": 4})
            ),
            "GRU": ModelEntry(model=ComponentConfig(name="gru", settings={"inputs": 16})),
        },
        reference="DEQ",
        learning_rates=(3e-3, 1e-2),
        trial_steps=60,
        seeds=range(SEEDS),
        depths=(2, 4),
    ),
]
""".replace("SEEDS", str(SEEDS))
# Whose numbers are no clock readings: their files must not differ.
TABLES = ("copy.md", "copy.csv", "copy.tex", "copy-solver.md", "copy-solver.csv", "copy-trials.md", "copy-depth.csv")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The suite, locks apart from those of other benchmarks on this machine, and in the end nobody left."""
    folder = tmp_path_factory.mktemp("night")
    (folder / "night.py").write_text(SUITE)
    (folder / "locks").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(folder / "locks"))
        yield folder
    for process in family():
        with suppress(psutil.NoSuchProcess):
            process.kill()


def start(folder: Path, results: str) -> subprocess.Popen[bytes]:
    arguments = [
        "run",
        "night.py",
        "--device",
        "cpu",
        "--jobs",
        "2",
        "--checkpoint",
        "0.05",
        "--attempts",
        "1000",
        "--results",
        results,
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(folder / "locks")}
    with (folder / "log.txt").open("ab") as log:
        return subprocess.Popen([sys.executable, "-m", "bench", *arguments], cwd=folder, env=environment, stdout=log, stderr=log)


def family(of: int | None = None) -> list[psutil.Process]:
    """The processes that this one (or that one) started, theirs too."""
    try:
        return psutil.Process(of).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def workers(coordinator: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The runs under way: each leads a session of its own, below the fork server."""
    return [child for child in family(coordinator.pid) if leads(child.pid)]


def leads(pid: int) -> bool:
    try:
        return os.getsid(pid) == pid
    except ProcessLookupError:
        return False


def finish(coordinators: list[subprocess.Popen[bytes]], folder: Path) -> None:
    for coordinator in coordinators:
        assert coordinator.wait(timeout=3 * PATIENCE_S) == 0, (folder / "log.txt").read_text()[-3000:]


def contents(results: Path) -> dict[str, bytes]:
    return {name: (results / "tables" / "night" / name).read_bytes() for name in TABLES}


@pytest.mark.end_to_end
def test_after_many_kills_of_coordinators_and_runs_the_tables_are_the_same_bytes(folder: Path) -> None:
    """Two coordinators share the results; either of them, or a run of theirs, is killed at random moments."""
    chance = random.Random(os.environ.get("DEQ_BENCH_KILL_SEED", "0"))
    suite, entries = load_suite(str(folder / "night.py"), {})
    run_suite(Plan(entries), folder / "undisturbed", suite=suite, engine=Inline())
    write_report(folder / "undisturbed")
    pair = [start(folder, "killed") for _ in range(2)]
    kills = {"coordinator": 0, "run": 0}
    end = time.monotonic() + 3 * PATIENCE_S
    while sum(kills.values()) < KILLS and any(one.poll() is None for one in pair):
        assert time.monotonic() < end, kills
        running = [run for one in pair for run in workers(one)]
        if not running:  # they are still importing, or between runs
            time.sleep(0.02)
        elif sum(kills.values()) % EVERY == 1:
            victim = chance.randrange(2)
            pair[victim].send_signal(signal.SIGKILL)
            pair[victim].wait()
            pair[victim] = start(folder, "killed")
            kills["coordinator"] += 1
        else:
            with suppress(psutil.NoSuchProcess):  # it may have ended since we looked: that is no kill
                chance.choice(running).kill()
                kills["run"] += 1
        time.sleep(chance.uniform(0.0, 0.4))
    assert sum(kills.values()) == KILLS, f"the matrix was over after {kills}"
    finish(pair, folder)
    quiet, loud = Store(folder / "undisturbed"), Store(folder / "killed")
    assert len(quiet.ids("night")) == 4 + 2 * SEEDS
    assert loud.ids("night") == quiet.ids("night")
    assert all(record.status == "ok" for record in loud.read_all("night"))
    assert contents(loud.results) == contents(quiet.results)
    assert not (loud.results / "work").exists()
    assert [path for path in loud.results.rglob("*") if path.suffix == ".tmp"] == []
    assert any(len(record.provenance["attempts"]) > 1 for record in loud.read_all("night"))
    shutil.rmtree(loud.results)
