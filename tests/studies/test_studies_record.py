"""The record of the studies: resumed, re-measured where settings changed, drawn, published."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from toy import CASE, DEQ_SPEC, TOY, Made, rows_of

from bench.records.errors import UserError
from bench.records.side_file import EXPERIMENTS
from bench.report.figures import render
from bench.studies import batches, drawing, pathological, recompute, store
from bench.studies.config import AGREEMENT, TEXT, Config
from bench.studies.models import Models
from bench.studies.study import PlannedRow, Study
from deq import GMRES, Broyden

pytestmark = pytest.mark.end_to_end

PUBLISHED = Path(__file__).resolve().parents[2] / "results" / "claims"


def test_the_record_has_every_row_with_seeds_settings_and_units(made: Made) -> None:
    assert made[0]["experiments"] == store.read_studies(made[1])["experiments"]
    assert not (made[1] / ".cache").exists()
    for study in store.all_studies(TOY):
        found = made[0]["experiments"][study.name]
        subjects = [{key: row[key] for key in planned.subject} for row, planned in zip(found["rows"], study.rows, strict=True)]
        assert subjects == [planned.subject for planned in study.rows]
        assert found["measured"]
        assert found["units"]
        assert found["settings"]
        assert found["seeds"] == [0]
        assert all((row["values"] is None) == (row["reason"] is not None) and row["made_by"] for row in found["rows"])


@pytest.fixture
def measured(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace measurement by a counter and list the studies measured; the toy record is copied to tmp_path."""
    found: list[str] = []

    def values(self: Study, row: PlannedRow, models: Models) -> Any:
        found.append(self.name)
        return {"count": len(found)}, None

    monkeypatch.setattr(Study, "values", values)
    monkeypatch.setattr(store, "code_revision", lambda environment: "another")
    shutil.copy(made[1] / store.NAME, tmp_path)
    return found


def test_only_rows_of_other_settings_are_measured_again(made: Made, measured: list[str], tmp_path: Path) -> None:
    assert store.measure_studies(out=tmp_path, config=TOY)["experiments"] == made[0]["experiments"]
    assert measured == []
    found = store.measure_studies(out=tmp_path, config=replace(TOY, alone=2))["experiments"]
    assert measured == ["batch"]
    (row,) = found["batch"]["rows"]
    assert (row["values"], row["revision"]) == ({"count": 1}, "another")
    assert found["cap"] == made[0]["experiments"]["cap"]  # with the revision that measured it


def test_one_study_is_measured_alone_and_the_others_stay_as_recorded(made: Made, measured: list[str], tmp_path: Path) -> None:
    """Also those that other settings, or another environment, would change."""
    record = store.read_studies(tmp_path)
    record["environment"]["torch"] = "1.0"
    record["experiments"]["batch"]["settings"]["alone"] = 99
    store._write(record, tmp_path)
    changed = replace(TOY, alone=2, adjoint_tolerances=(1e-2,))
    found = store.measure_studies(out=tmp_path, config=changed, only=["adjoints"])
    assert measured == ["adjoints"] * 2
    assert found == store.read_studies(tmp_path)
    assert list(found["experiments"]) == [study.name for study in store.all_studies(TOY)]
    for name, study in found["experiments"].items():
        if name == "adjoints":
            assert "environment" not in study
            assert [row["values"] for row in study["rows"]] == [{"count": 1}, {"count": 2}]
        else:
            assert study == record["experiments"][name] | {"environment": record["environment"]}
    again = store.measure_studies(out=tmp_path, config=changed, only=["adjoints"])
    assert again == found
    assert len(measured) == 2


def test_studies_of_the_same_environment_do_not_repeat_it(made: Made, measured: list[str], tmp_path: Path) -> None:
    found = store.measure_studies(out=tmp_path, config=TOY, only=["adjoints"])
    assert measured == []
    assert found["experiments"] == made[0]["experiments"]
    with pytest.raises(UserError, match="unknown study 'adjoint'; did you mean 'adjoints'"):
        store.measure_studies(out=tmp_path, config=TOY, only=["adjoint"])


def test_a_study_measured_alone_into_an_empty_folder_is_all_of_its_record(measured: list[str], tmp_path: Path) -> None:
    (tmp_path / store.NAME).unlink()
    found = store.measure_studies(out=tmp_path, config=TOY, only=["batch"])["experiments"]
    assert measured == ["batch"]
    assert {name for name, study in found.items() if study["rows"]} == {"batch"}
    assert render("experiments", drawing.Rows({"experiments": found})) == {}


def test_a_row_depends_on_numerics_arguments_trainings_and_environment(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    study = batches.study(TOY)
    row = study.rows[0]
    other = DEQ_SPEC.model_copy(update={"seed": 1})
    found = [study.made_by(row, models), replace(study, numerics=2).made_by(row, models)]
    found += [study.made_by(replace(row, arguments=()), models), study.made_by(replace(row, specs=(other,)), models)]
    elsewhere = Models(models.folder, {})
    monkeypatch.setattr(elsewhere, "here", {**models.here, "torch": "3.0"})
    found.append(study.made_by(row, elsewhere))
    for kind in (Broyden, GMRES):  # which no training of the row names
        with monkeypatch.context() as patch:
            patch.setattr(kind, "numerics", 2)
            found.append(study.made_by(row, models))
    assert len(set(found)) == 7
    assert study.made_by(row, Models(models.folder, {})) == found[0]


def test_an_interrupted_call_resumes(measured: list[str], tmp_path: Path) -> None:
    (tmp_path / store.NAME).unlink()

    def interrupt(text: str) -> None:
        if text.startswith("3/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.measure_studies(out=tmp_path, config=TOY, report=interrupt)
    kept = store.read_studies(tmp_path)["experiments"]
    assert sum(len(study["rows"]) for study in kept.values()) == 3
    found = store.measure_studies(out=tmp_path, config=TOY)["experiments"]
    assert len(measured) == sum(len(study.rows) for study in store.all_studies(TOY))
    counts = [row["values"]["count"] for study in found.values() for row in study["rows"]]
    assert sorted(counts) == list(range(1, len(measured) + 1))
    assert measured[-1] == "inference"  # timed rows last


def test_a_contended_row_is_measured_again(made: Made, measured: list[str], tmp_path: Path) -> None:
    record = json.loads(json.dumps(made[0]))
    record["experiments"]["inference"]["rows"][0].update(
        values=None, reason="contended: other work ran on the machine meanwhile: x"
    )
    store._write(record, tmp_path)
    assert store.measure_studies(out=tmp_path, config=TOY)["experiments"]["inference"]["rows"][0]["values"] == {"count": 1}
    assert measured == ["inference"]


def test_a_missing_corpus_is_a_reason(measured: list[str], tmp_path: Path) -> None:
    absent = {"tinyshakespeare": tmp_path / "absent.txt"}
    found = store.measure_studies(data=absent, out=tmp_path, config=replace(TOY, cases=(CASE, TEXT)))["experiments"]
    rows = [row for row in found["cap"]["rows"] if row["task"] == TEXT.label]
    assert [(row["values"], row["made_by"]) for row in rows] == [(None, None)]
    assert "absent.txt" in rows[0]["reason"]
    assert measured == []


@pytest.mark.parametrize("damage", ["", "[]", '{"schema": 1}', '{"schema": 1, "experiments": {"cap": 3}}'])
def test_a_damaged_record_counts_as_none(damage: str, tmp_path: Path) -> None:
    (tmp_path / store.NAME).write_text(damage)
    assert store._old_rows(tmp_path) == {}


def test_a_record_that_cannot_be_read_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no record of studies"):
        store.read_studies(tmp_path)
    (tmp_path / store.NAME).write_text(json.dumps(replace(EXPERIMENTS, schema=0).sealed({"experiments": {}})))
    with pytest.raises(UserError, match="schema 0, this version reads 1"):
        store.read_studies(tmp_path)


@pytest.mark.exhaustive
def test_another_process_measures_the_same(made: Made, tmp_path: Path) -> None:
    study = batches.study(TOY)
    missing = [(study, study.rows[0], "")]
    assert [values for _, values, _ in store._measured(missing, Models(tmp_path, {}), 2)] == [rows_of(made, "batch")[0]["values"]]


def test_every_figure_with_values_is_drawn(made: Made, tmp_path: Path) -> None:
    store.write_studies(made[0], tmp_path)
    paper = {"steps-and-residual", "tolerance-and-cap", "gradient-error", "steps-at-test"}
    assert {path.stem for path in tmp_path.glob("*.svg")} == {*paper, "layers"}
    assert {path.stem for path in tmp_path.glob("*.pdf")} == paper
    bare = json.loads(json.dumps(made[0]))
    for row in (row for study in bare["experiments"].values() for row in study["rows"]):
        row["values"], row["reason"] = None, "untrained"
    assert render("experiments", drawing.Rows(bare)) == {}


def test_a_mean_over_seeds_is_that_of_the_tables_and_leaves_out_what_one_lacks() -> None:
    assert drawing.mean_line([[(1, 1.0), (2, 4.0)], [(1, 100.0), (3, 1.0)]]) == [(1, pytest.approx(10.0))]
    assert drawing.mean_line([[(1, -1.0)], [(1, 5.0)]], "linear") == [(1, 2.0)]


def test_a_seed_that_is_not_positive_counts_in_the_mean() -> None:
    axes = Figure().subplots()
    drawing.draw_seeds(axes, [[(1, -1.0), (2, 1.0)], [(1, 5.0), (2, 100.0)]], "red", scale="linear")
    assert list(axes.lines[-1].get_ydata()) == [2.0, 50.5]
    axes = Figure().subplots()
    drawing.draw_seeds(axes, [[(1, 0.0), (2, 0.0)], [(1, 5.0), (2, 100.0)]], "red")
    assert len(axes.lines) == 1  # the other seed's own line: no geometric mean of both


def test_the_published_record_is_complete_and_reproduces() -> None:
    """Rows that need no training are measured again."""
    found = store.read_studies(PUBLISHED)["experiments"]
    studies = {study.name: study for study in store.all_studies()}
    assert {*studies} == {*found}
    for study in (studies[name] for name in found):
        rows = found[study.name]["rows"]
        assert [planned.subject.items() <= row.items() for planned, row in zip(study.rows, rows, strict=True)] == [True] * len(rows)
        assert found[study.name]["settings"] == json.loads(json.dumps(study.settings))
        assert all(row["revision"] and (row["values"] is not None or row["reason"]) for row in rows)
        assert sum(row["values"] is not None for row in rows) > 0.9 * len(rows), study.name
    assert AGREEMENT.label in {row["task"] for row in found["training"]["rows"]}
    for study in (pathological.studies(Config())[0], recompute.study(Config())):
        values, _ = study.values(study.rows[0], Models(PUBLISHED, {}))
        assert repeatable(json.loads(json.dumps(values))) == repeatable(found[study.name]["rows"][0]["values"])


def repeatable(values: dict[str, Any]) -> dict[str, Any]:
    """The values without the residuals of solves that did not converge, which the processor's rounding decides."""
    found = {}
    for name, one in values.items():
        unsolved = isinstance(one, dict) and one.get("MAX_STEPS")
        found[name] = {key: part for key, part in one.items() if key != "residual"} if unsolved else one
    return found
