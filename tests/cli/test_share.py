"""Results of several folders become one folder, or one table."""

import csv
import io
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from running import record_of, save
from typer.testing import CliRunner

import bench
from bench.cli.main import app
from bench.records.errors import LeftOut, UserError
from bench.records.record import Record, measured
from bench.records.spec import ComponentConfig, RunSpec, TrainConfig
from bench.records.store import Store

TRAIN = TrainConfig(steps=9, batch=4, learning_rate=0.1)
LSTM, COPY = ComponentConfig(name="lstm"), ComponentConfig(name="copy")


def small(reason: str | None = None) -> list[Record]:
    """Three seeds of one row, which crashed for a reason."""
    records = []
    for seed in range(3):
        spec = RunSpec(group="copying", label="LSTM", model=LSTM, task=COPY, train=TRAIN, seed=seed)
        measures = {"test_loss": measured(0.5 + seed, "nats", "a", "b"), "step_ms": measured(None, "ms", "a", "b", "no clock")}
        records.append(
            record_of(
                spec,
                suite="mine",
                status="crashed" if reason else "ok",
                reason=reason,
                measures=measures,
            )
        )
    return records


def refusal(*arguments: str) -> str:
    found = CliRunner().invoke(app, arguments).exception
    assert isinstance(found, UserError)
    return str(found)


def test_a_merge_that_is_killed_leaves_whole_records_and_goes_on(tmp_path: Path) -> None:
    """Killed in the middle of its second record, without a chance to clean up."""
    source, into = save(tmp_path / "one", small()), tmp_path / "other"
    program = f"""
import os, sys
from bench.cli.main import main
whole, calls = os.fsync, []
def killed(*arguments):
    calls.append(arguments)
    os.kill(os.getpid(), 9) if len(calls) == 2 else whole(*arguments)
os.fsync = killed
sys.argv = ["bench", "merge", {str(source)!r}, "--results", {str(into)!r}]
main()
"""
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=False).returncode == -9
    assert len(Store(into).read_all("mine")) == 1
    result = CliRunner().invoke(app, ["merge", str(source), "--results", str(into), "--json"])
    assert result.stdout == '{"copied": 2, "kept": 1}\n'
    for run in Store(source).ids("mine"):
        assert Store(into).path("mine", run).read_bytes() == Store(source).path("mine", run).read_bytes()


def test_runs_of_two_folders_become_one_and_known_ones_stay(tmp_path: Path) -> None:
    one, other = save(tmp_path / "one", small()), tmp_path / "other"
    suite = Store(one).suites()[0]
    ids = Store(one).ids(suite)
    shutil.copytree(one, other)
    for run_id in ids[:-1]:
        Store(other).path(suite, run_id).unlink()
    known = Store(other).path(suite, ids[-1])
    before = known.read_bytes() + b"\n"  # still a record, of other bytes
    known.write_bytes(before)
    result = CliRunner().invoke(app, ["merge", str(one), "--results", str(other), "--json"])
    assert result.exit_code == 0, result.output
    assert result.stdout == f'{{"copied": {len(ids) - 1}, "kept": 1}}\n'
    assert Store(other).ids(suite) == ids
    assert known.read_bytes() == before
    assert all(Store(other).path(suite, one_).read_bytes() == Store(one).path(suite, one_).read_bytes() for one_ in ids[:-1])
    pd.testing.assert_frame_equal(bench.load(one), bench.load(other))


def test_a_damaged_record_is_left_out_of_a_merge(tmp_path: Path) -> None:
    one, into = save(tmp_path / "one", small()), tmp_path / "into"
    suite = Store(one).suites()[0]
    ids = Store(one).ids(suite)
    Store(one).path(suite, ids[0]).write_bytes(b"{")
    with pytest.warns(LeftOut):
        result = CliRunner().invoke(app, ["merge", str(one), "--results", str(into)])
    assert result.exit_code == 0, result.output
    assert Store(into).ids(suite) == ids[1:]


def test_a_folder_is_not_merged_into_itself_nor_one_without_records(tmp_path: Path) -> None:
    one = save(tmp_path / "one", small())
    assert "is the folder that is merged into" in refusal("merge", f"{one}/../{one.name}", "--results", str(one))
    assert "no records in" in refusal("merge", str(one), str(tmp_path / "typo"), "--results", str(tmp_path / "into"))
    assert not (tmp_path / "into").exists()


def test_a_table_of_the_runs_is_what_load_returns(tmp_path: Path) -> None:
    results, file = save(tmp_path / "one", small()), tmp_path / "made" / "runs.csv"
    result = CliRunner().invoke(app, ["export", str(file), "--results", str(results)])
    assert result.exit_code == 0, result.output
    frame = bench.load(results)
    rows = list(csv.DictReader(io.StringIO(file.read_text(encoding="utf-8"))))
    assert [row["run_id"] for row in rows] == list(frame.run_id)
    assert list(rows[0]) == list(frame.columns)
    measures = tmp_path / "measures.csv"
    assert CliRunner().invoke(app, ["export", str(measures), "--results", str(results), "--measures"]).exit_code == 0
    assert len(pd.read_csv(measures)) == len(bench.load(results, measures=True))


def test_no_cell_of_an_exported_table_is_a_formula(tmp_path: Path) -> None:
    results, file = save(tmp_path / "one", small("=1+1")), tmp_path / "runs.csv"
    assert CliRunner().invoke(app, ["export", str(file), "--results", str(results)]).exit_code == 0
    assert "=1+1" in file.read_text(encoding="utf-8")
    assert all(not row["reason"].startswith("=") for row in csv.DictReader(io.StringIO(file.read_text(encoding="utf-8"))))


def test_wrong_calls_of_export_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = save(tmp_path / "one", small())
    assert "must end in .csv or .parquet" in refusal("export", "runs.xls", "--results", str(results))
    assert "unknown suite 'nope'" in refusal("export", "runs.csv", "--results", str(results), "--suite", "nope")
    assert "run a suite first" in refusal("export", "runs.csv", "--results", str(tmp_path / "typo"))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "pip install pyarrow" in refusal("export", str(tmp_path / "runs.parquet"), "--results", str(results))
