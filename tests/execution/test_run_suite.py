"""The public API: run a suite, load its records, write its report."""

from pathlib import Path

import bench
from bench import ComponentConfig, RunSpec, TrainConfig
from bench.execution.engines.inline import Inline


def test_a_suite_is_run_loaded_and_reported(tmp_path: Path) -> None:
    spec = RunSpec(
        group="g",
        label="mean",
        model=ComponentConfig(name="user_models:Averages", settings={"width": 4}),
        task=ComponentConfig(name="user_models:Echo"),
        train=TrainConfig(steps=2, batch=2, learning_rate=0.1, evaluation_batch=8),
        seed=0,
    )
    (record,) = bench.run([spec], tmp_path, engine=Inline())
    assert record.status == "ok", record.reason
    assert bench.run([spec], tmp_path, engine=Inline()) == [record]
    assert list(bench.load(tmp_path).run_id) == [record.run_id]
    assert tmp_path / "tables" / "own" in {file.parent for file in bench.write_report(tmp_path)}
