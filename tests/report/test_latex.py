"""Tables in LaTeX fit the column of a paper: every cell once, parts narrow enough, and compiled where a TeX is installed."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from bench.analysis.grid import Cell, Table, line
from bench.analysis.statistics import interval
from bench.report.latex import COLUMN, _length, floats

HOSTILE = "50% & $x_1$ ~^# {a} \\ <b> [c] | 中 ↓ evaluation_steps=60,backward_steps=8/very-long-name"


def wide(columns: int = 14, rows: int = 60) -> Table:
    """Numbers with intervals, a column of sentences, footnotes; too wide and too high for a page."""
    spread = interval([1.0, 1.1, 1.2], "log")
    made = [
        line(
            Cell(f"model {row}, pre-trained, with a Jacobian penalty and a stack of two"),
            *(Cell("1.10 [0.88, 1.37]", bold=row % 7 == 0, notes=(1, 2), interval=spread) for _ in range(columns)),
            Cell(f"{HOSTILE} " * 3),
        )
        for row in range(rows)
    ]
    heads = (("model", ""), *((f"future leak of part {index} ↓", "nats/token") for index in range(columns)), ("why", ""))
    notes = ("One run: no interval.", HOSTILE)
    return Table(
        kind="x", title="A table", caption=HOSTILE, heads=heads, rows=tuple(made), notes=notes, text_columns=(0, columns + 1)
    )


def test_parts_hold_every_cell_once_beside_its_key() -> None:
    text = floats(wide(), "tab:x", "made by a test")
    bodies = re.findall(r"\\midrule\n(.*?)\n\\bottomrule", text, re.DOTALL)
    assert len(bodies) > 6
    assert sum(body.count(r"1.10 {\scriptsize") + body.count(r"1.10} {\scriptsize") for body in bodies) == 14 * 60
    assert sum(body.count(r"50\%") for body in bodies) == 3 * 60
    for body in bodies:
        assert all(row.startswith("model ") for row in body.splitlines())
    assert text.count(r"\label{tab:x}") == 1
    assert len(set(re.findall(r"\\label\{(.*?)\}", text))) == len(bodies)


def test_a_table_that_fits_is_one_part_and_notes_stand_where_they_are_used() -> None:
    table = Table(
        kind="x",
        title="A table",
        caption="Few.",
        heads=(("model", ""), ("loss ↓", "nats")),
        rows=(line("a", Cell("1.0", notes=(2,))), line("b", "2.0")),
        notes=("Not used.", "Used."),
    )
    text = floats(table, "tab:x", "made by a test")
    assert text.count(r"\begin{table}") == 1
    assert "Used." in text
    assert "Not used." not in text
    assert r"loss $\downarrow$\\(nats)" in text  # the unit under the name: they are wider than the numbers


@pytest.mark.end_to_end
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_it_compiles_without_a_warning(tmp_path: Path) -> None:
    table = floats(wide(), "tab:x", "made by a test")
    page = rf"\setlength{{\textwidth}}{{{COLUMN + 2}pt}}\setlength{{\textheight}}{{650pt}}"
    name = rf"\setbox0=\hbox{{\footnotesize {'future leak 0123456789 '}}}\typeout{{WIDTH \the\wd0}}"
    text = rf"\documentclass{{article}}\usepackage{{array,booktabs}}{page}\begin{{document}}{name}{table}\end{{document}}"
    (tmp_path / "t.tex").write_text(text)
    for _ in range(2):  # the second knows the labels
        done = subprocess.run(
            ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"], cwd=tmp_path, capture_output=True, text=True
        )
    assert done.returncode == 0, done.stdout[-2000:]
    assert not re.findall(r".*(?:Overfull|Warning|too large).*", done.stdout)
    width = float(re.findall(r"WIDTH ([\d.]+)", done.stdout)[0])
    assert _length("future leak 0123456789 ") == pytest.approx(width, rel=0.03)
