"""`bench.load`: records as data frames."""

import doctest
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from running import IDENTITY, save

import bench
from bench.analysis import frame
from bench.records.errors import LeftOut, UserError
from bench.records.record import Record, measured
from bench.records.spec import ComponentConfig, Recipe, RunSpec, TrainConfig
from bench.records.store import Store


def record(label: str, seed: int, loss: float | None, status: str = "ok", suite: str = "quick") -> Record:
    model = ComponentConfig(name="deq", settings={"solver": "anderson"}) if label == "DEQ" else ComponentConfig(name="lstm")
    recipe = Recipe(jacobian=0.5) if label == "DEQ" else None
    train = TrainConfig(steps=10, batch=2, learning_rate=1e-3)
    task = ComponentConfig(name="copy", settings={"T": 30})
    spec = RunSpec(group="copy", label=label, model=model, task=task, train=train, recipe=recipe, seed=seed)
    reason = None if status == "ok" else "too large"
    measures = {
        "test_loss": measured(loss, "nats", "mean over test", "test split", reason),
        "energy_J": measured(None, "J", "NVML", "training", "no NVML"),
    }
    fields = {"spec": spec, "identity": IDENTITY, "measures": measures}
    return Record(run_id=IDENTITY.run_id(spec.key), suite=suite, status=status, reason=reason, **fields)  # type: ignore[arg-type]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Three runs that ended ok and one out of memory, in a folder `results`."""
    records = [record("DEQ", 0, 0.1), record("DEQ", 1, 0.2), record("LSTM", 0, 0.4), record("LSTM", 1, None, "oom")]
    return save(tmp_path / "results", records)


def test_the_worked_example(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(results.parent)
    (example,) = (one for one in doctest.DocTestFinder(recurse=False).find(frame.load, "load", globs={}) if one.examples)
    found = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(example)
    assert (found.failed, found.attempted) == (0, 7)


def test_a_row_has_spec_status_and_measures(results: Path) -> None:
    runs = bench.load(results).set_index(["label", "seed"])
    assert list(runs.loc["LSTM", "status"]) == ["ok", "oom"]
    deq, failed = runs.loc[("DEQ", 1)], runs.loc[("LSTM", 1)]
    asked = {"model": "deq", "model.solver": "anderson", "task.T": 30, "train.steps": 10, "recipe.jacobian": 0.5, "family": "deq"}
    assert {name: deq[name] for name in asked} == asked
    assert (deq["test_loss"], failed["reason"]) == (0.2, "too large")
    assert pd.isna(deq["reason"])
    assert pd.isna(failed["test_loss"])
    assert pd.isna(failed["model.solver"])
    assert runs["energy_J"].dtype == "float64"
    assert runs.attrs["units"] == {"test_loss": "nats", "energy_J": "J"}


def test_the_long_form_merges_on_the_run(results: Path) -> None:
    runs, long = bench.load(results), bench.load(results, measures=True)
    assert list(long) == ["run_id", "measure", "value", "unit", "method", "scope", "reason"]
    merged = long.merge(runs[["run_id", "label", "test_loss"]], on="run_id").query("measure == 'test_loss'")
    assert len(merged) == 4
    assert merged["value"].equals(merged["test_loss"])
    assert set(long.query("measure == 'test_loss'")["scope"]) == {"test split"}


def test_units_that_differ_between_suites_are_all_named(results: Path) -> None:
    one = record("DEQ", 0, 0.1, suite="other")
    other = one.model_copy(update={"measures": {"test_loss": measured(1.0, "nats/token", "m", "s")}})
    save(results, [other])
    assert bench.load(results).attrs["units"]["test_loss"] == "nats / nats/token"
    assert bench.load(results, "other").attrs["units"]["test_loss"] == "nats/token"


def test_no_records_and_unknown_suites(tmp_path: Path, results: Path) -> None:
    assert bench.load(tmp_path / "none").empty
    assert list(bench.load(tmp_path / "none", measures=True)) == list(bench.load(results, measures=True))
    with pytest.raises(UserError, match="did you mean 'quick'"):
        bench.load(results, "quik")


def test_a_damaged_record_is_left_out_with_a_warning(results: Path) -> None:
    next((results / "runs" / "quick").glob("*.json")).write_text("{")
    with pytest.warns(LeftOut, match="damaged"):
        assert len(bench.load(results)) == 3


def test_import_stays_light() -> None:
    code = "import sys, bench; early = 'pandas' in sys.modules; bench.load; sys.exit(early or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).resolve().parents[2], check=False).returncode == 0


def test_of_runs_of_the_same_settings_the_newest_is_the_one_that_tables_show(results: Path) -> None:
    old = record("DEQ", 0, 0.1)
    other = IDENTITY.model_copy(update={"code": {"my_cell": "1" * 12}})
    new = old.model_copy(update={"identity": other, "run_id": other.run_id(old.spec.key)})
    Store(results).write(new)
    runs = bench.load(results)
    assert list(runs[runs.superseded].run_id) == [old.run_id]
    assert len(runs) == 5
