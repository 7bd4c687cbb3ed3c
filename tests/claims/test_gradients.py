"""The table of adjoints, from a record that is written by hand."""

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import pytest

from bench.claims import gradients
from bench.claims.evidence import Evidence
from bench.records.side_file import EXPERIMENTS
from bench.report.html.lookup import find
from bench.report.html.sources import CellSource, study_tables
from bench.report.report import csv_text, latex, markdown
from bench.studies import adjoints

COLUMNS = ("1 - cosine", "relative error", "relative error at 1e-6", "f", "VJPs", "solved", "backward")


def point(adjoint: str, distance: float | None, rtol: float = 1e-3, **more: Any) -> dict[str, Any]:
    phases = {"forward": {"nfe": 7, "converged": 0.75}, "backward": None}
    counts = {"evaluations": 8, "products": 3, "solver": "Anderson", "one_less_cosine": distance and distance**2 / 2}
    return {"adjoint": adjoint, "rtol": rtol, "distance": distance, **counts, **phases, **more}


def save(folder: Path, rows: list[tuple[str, int, list[dict[str, Any]] | None]]) -> Path:
    found = [
        {"task": task, "seed": seed, "values": points and {"points": points}, "reason": None if points else "no root"}
        for task, seed, points in rows
    ]
    settings = {"batch": 4, "cap": 60, "steps": 300}
    study = {"rows": found, "settings": settings, "seeds": sorted({seed for _, seed, _ in rows})}
    (folder / "claims").mkdir(parents=True)
    text = json.dumps(EXPERIMENTS.sealed({"experiments": {gradients.STUDY: study}}))
    (folder / "claims" / "experiments.json").write_text(text)
    return folder


@pytest.fixture
def results(tmp_path: Path) -> Path:
    solved = {"backward": {"nfe": 5, "converged": 1.0}}
    copy = [
        [point("GMRES", 1e-3 * (seed + 1), **solved), point("unroll", None if seed else 1e5)]
        + [point("GMRES", 1e-6, 1e-6, **solved | {"forward": {"nfe": 9, "converged": 1.0}}), point("unroll", None, 1e-6)]
        for seed in range(3)
    ]
    text = [[point("GMRES", 0.1), point("unroll", 2.0, products=9), point("GMRES", 0.1, 1e-6), point("unroll", 2.0, 1e-6)]]
    rows = [("copy", seed, points) for seed, points in enumerate(copy)]
    return save(tmp_path, [*rows, ("text", 0, text[0]), ("text", 1, None), ("other", 0, None)])


def test_a_line_is_the_mean_of_a_model_and_an_adjoint_over_seeds(results: Path) -> None:
    table = gradients.table(Evidence(results))
    assert table is not None
    assert tuple(head.rstrip(" ↓↑") for head, _ in table.heads[2:]) == COLUMNS
    assert [(row[0].text, row[1].text) for row in table.rows] == [
        *(("copy", adjoint) for adjoint in ("GMRES", "unroll")),
        *(("text", adjoint) for adjoint in ("GMRES", "unroll")),
    ]
    gmres, unroll = table.rows[:2]
    assert gmres[3].value == pytest.approx((1e-3 * 2e-3 * 3e-3) ** (1 / 3))
    assert gmres[3].interval is not None
    assert gmres[3].interval.scale == "log"
    assert gmres[4].text == "1.00e-6"
    assert [cell.text for cell in gmres[5:]] == ["8", "3", "9/12", "12/12"]
    assert [cell.text for cell in unroll[3:]] == ["100,000", "n/a", "8", "3", "9/12", "—"]


def test_what_has_no_value_has_a_reason(results: Path) -> None:
    table = gradients.table(Evidence(results))
    assert table is not None
    notes = {row[0].text + " " + row[1].text: [table.notes[n - 1] for cell in row for n in cell.notes] for row in table.rows}
    assert notes["copy GMRES"] == []
    unsolved = "Not every solve met that tolerance."
    assert notes["copy unroll"] == ["Finite in 1 of 3 seeds."] * 2 + ["Finite in 0 of 3 seeds.", unsolved]
    assert notes["text GMRES"] == notes["text unroll"] == ["text, seed 1, has no values: no root.", unsolved]
    assert table.remarks == ("other has no values: no root.",)
    assert [sample.reason for sample in table.rows[1][3].samples] == ["", "not finite", "not finite"]


def test_it_says_what_unroll_is_in_every_format(results: Path) -> None:
    table = gradients.table(Evidence(results))
    assert table is not None
    for text in (markdown(table), latex(table, "tab:adjoints")):
        assert "the gradient of the truncated solve" in text.replace("\n", " ")
        assert "1e-3 in at most 60 evaluations" in text
    lines = list(csv.DictReader(io.StringIO(csv_text(table))))
    assert {(line["rtol"], line["seed"]) for line in lines if line["group"] == "copy"} == {
        (rtol, seed) for rtol in ("0.001", "1e-06") for seed in "012"
    }
    (value,) = (
        line["value"]
        for line in lines
        if [line[k] for k in ("group", "label", "column", "rtol")] == ["text", "unroll", "distance", "0.001"]
    )
    assert math.isclose(float(value), 2.0)


def test_each_number_opens_its_seeds_and_the_command(results: Path) -> None:
    (table,) = study_tables(results)
    assert {source.command for source in table.all()} == {"python -m bench claims --measure --study adjoints"}
    source = find(results, "claims/adjoints/copy, GMRES/VJPs")
    assert isinstance(source, CellSource)
    assert [(sample.about, sample.value) for sample in source.cell.samples] == [(f"seed {seed}", 3) for seed in range(3)]
    distances = [find(results, f"claims/adjoints/copy, GMRES/{column}") for column in COLUMNS[1:3]]
    assert [one.cell.value for one in distances if isinstance(one, CellSource)] == pytest.approx([0.001817, 1e-6], rel=1e-3)


def test_without_the_study_there_is_no_table(tmp_path: Path) -> None:
    assert gradients.table(Evidence(tmp_path)) is None
    assert study_tables(tmp_path) == []
    assert gradients.table(Evidence(save(tmp_path, [("text", 0, None)]))) is None


def test_the_study_has_that_name() -> None:
    assert gradients.STUDY == adjoints.NAME
