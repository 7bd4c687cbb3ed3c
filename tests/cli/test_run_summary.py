"""The last lines of a run: what was found, compared with the published runs, and where it is."""

from pathlib import Path

import pytest
from running import IDENTITY, record_of, save

from bench.cli import run_summary
from bench.cli.run_summary import closing, compare_published
from bench.records.record import Record, measured
from bench.records.spec import ComponentConfig, RunSpec, TrainConfig
from bench.tasks.copy import CopyMemory

TRAIN = TrainConfig(steps=9, batch=4, learning_rate=0.1)


def run(label: str, seed: int, loss: float) -> Record:
    copy = ComponentConfig(name="copy")
    spec = RunSpec(group="copying", label=label, model=ComponentConfig(name="gru"), task=copy, train=TRAIN, seed=seed)
    return record_of(
        spec,
        suite="mine",
        headline="loss",
        metrics=dict(CopyMemory().metrics),
        measures={"test_loss": measured(loss, "nats", "m", "s")},
    )


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three published runs of a row."""
    monkeypatch.setattr(run_summary, "PUBLISHED", tmp_path / "published")
    return save(tmp_path / "published", [run("A", seed, 0.5 + seed) for seed in range(3)])


@pytest.mark.usefixtures("published")
def test_scores_are_compared_with_published_runs_of_the_same_spec(tmp_path: Path) -> None:
    runs = [run("A", 0, 0.5), run("A", 1, 1.5), run("A", 2, 2.5 + 1e-15), run("A", 3, 1.0), run("B", 0, 0.5)]
    found = compare_published(runs, tmp_path / "mine", "mine")
    assert found == "same test score as published in 2 of 3 runs (2 have no published one)"
    assert compare_published(runs[:2], tmp_path / "mine", "mine") == "same test score as published in 2 of 2 runs"


@pytest.mark.usefixtures("published")
def test_scores_that_differ_name_what_else_differs(tmp_path: Path) -> None:
    here = IDENTITY.model_copy(update={"environment": {**IDENTITY.environment, "cpu_capability": "AVX2"}})
    other = run("A", 2, 2.6).model_copy(update={"identity": here})
    found = compare_published([run("A", 0, 0.5), other], tmp_path / "mine", "mine")
    assert found == "same test score as published in 1 of 2 runs; the published ones: cpu_capability None (here AVX2)"


def test_nothing_is_compared_where_nothing_is_published(published: Path, tmp_path: Path) -> None:
    assert compare_published([run("B", 0, 0.5)], tmp_path / "mine", "mine") is None
    assert compare_published([run("A", 0, 0.5)], tmp_path / "mine", "other") is None
    assert compare_published([run("A", 0, 0.5)], published, "mine") is None


@pytest.mark.usefixtures("published")
def test_the_last_lines_name_the_best_row_and_the_files(tmp_path: Path) -> None:
    failed = run("C", 0, 0.1).model_copy(update={"status": "crashed", "reason": "no"})
    records = [run("A", 0, 0.5), run("B", 0, 0.25), failed]
    assert closing(records, [], tmp_path / "r", "mine")[0] == "2 of 3 final runs ended ok, 1 failed as expected"
    lines = closing(records, [failed], tmp_path / "r", "mine")
    assert len(lines) == 6
    assert lines[0] == "2 of 3 final runs ended ok"
    assert lines[1] == "best means that count, intervals are in the tables: copying: B, loss 0.250 nats"
    assert lines[3:5] == [f"tables: {tmp_path}/r/TABLES.md, {tmp_path}/r/tables/mine", f"figures: {tmp_path}/r/figures/mine"]
    assert "page --results" in lines[5]
    unsolved = {"eval_converged_fraction": measured(0.5, "1", "m", "s")}
    marked = [one.model_copy(update={"measures": {**one.measures, **unsolved}}) for one in records[1:2]]
    assert "copying: A, loss 0.500 nats" in closing([records[0], *marked], [], tmp_path / "r", "mine")[1]
