"""A table is a grid of cells: CSV comes from the cells, whatever their text, and every published table has its own."""

import io
from pathlib import Path

import pandas as pd
import pytest

from bench.analysis.grid import Cell, Sample, Table, line
from bench.analysis.statistics import interval
from bench.report.report import csv_text, latex

RESULTS = Path(__file__).resolve().parents[2] / "results"


def test_csv_and_latex_come_from_the_cells() -> None:
    spread = interval([1.0, 2.0, 3.0], "linear")
    loss = Cell(
        "2.00 [-0.48, 4.48]",
        value=2.0,
        interval=spread,
        unit="nats",
        samples=(Sample("seed 0", 2.0, "a"), Sample("seed 1", 2.0, "b")),
    )
    rows = (line("DEQ (the target)", loss, label="DEQ"), line("LSTM [x]", Cell("n/a", unit="nats")))
    table = Table(kind="", title="", caption="", heads=(("model", ""), ("loss ↓", "nats")), rows=rows, group=("s", "g"))
    frame = pd.read_csv(io.StringIO(csv_text(table)))
    assert list(frame["label"]) == ["DEQ", "LSTM [x]"]
    assert frame["value"].dtype == "float64"
    assert (frame["value"][0], frame["unit"][0], frame["run_ids"][0]) == (2.0, "nats", "a b")
    assert pd.isna(frame["value"][1])
    assert r"2.00 {\scriptsize {[}-0.48, 4.48{]}}" in latex(table, "tab:x")
    assert r"LSTM {[}x{]} &" in latex(table, "tab:x")  # a bracket in a label is no interval


@pytest.mark.parametrize("folder", ["tables", "memory", "claims", "peers"])
def test_every_published_table_has_a_csv_file_that_opens(folder: str) -> None:
    for path in (RESULTS / folder).rglob("*.md"):
        if path.stem == "quotes":  # sentences
            continue
        frame = pd.read_csv(path.with_suffix(".csv"))
        assert not frame.empty, path
        assert frame.columns.is_unique, path
