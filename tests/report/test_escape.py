"""What records and users wrote is shown as it is: it is no markup, no formula, and no character hides or moves others."""

import csv
import dataclasses
import io
import json
import re
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from running import save
from test_page import Read
from test_report import METRICS, comparison
from typer.testing import CliRunner

from bench.analysis.tables import Table
from bench.cli.main import app
from bench.records.errors import UserError
from bench.records.escape import csv_cell, latex_escape, markdown_escape, one_line, visible
from bench.report.console import PlainConsole
from bench.report.html.page import render_page
from bench.report.report import csv_text, summary, write_report

BIDI = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
HOSTILE = "a\x1b[31m\u202eb\u2066c\x07\x9bd\ufeff[/red][bold]:smiley:"
SHOWN = r"a\x1b[31m\u202eb\u2066c\x07\x9bd\ufeff[/red][bold]:smiley:"


def unseen(character: str) -> bool:
    return (
        unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
        or unicodedata.bidirectional(character) in BIDI
        or character in "\u061c\u200b\u200e\u200f\ufeff"
    )


def test_every_unseen_character_is_an_escape_and_every_letter_stays() -> None:
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        if unseen(character) and character not in "\n\t":
            assert visible(character).isascii()
            assert visible(character).startswith("\\"), hex(code)
            assert re.sub(r"\\[xuU]0*|\\r", "", visible(character)).lower() in (f"{code:x}", "")
        elif unicodedata.category(character)[0] in "LMNPS":
            assert visible(character) == character
    assert visible("क्‍ष می‌خواهم 👩‍💻 é\n\t…") == "क्‍ष می‌خواهم 👩‍💻 é\n\t…"


@given(st.text())
def test_no_renderer_lets_an_unseen_character_through(text: str) -> None:
    for shown in (one_line(text), markdown_escape(text), latex_escape(text), str(UserError(text))):
        assert not any(map(unseen, shown))
    assert not [c for c in visible(text) if unseen(c) and c not in "\n\t"]
    assert visible(visible(text)) == visible(text)


@pytest.mark.parametrize(
    "text", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", " =1", "\n=1", "-", "+a", "-1 [=2]", "-1 | x"]
)
def test_a_cell_of_a_csv_file_is_no_formula(text: str) -> None:
    assert csv_cell(text) == f"'{text}"


@pytest.mark.parametrize(
    "value",
    [-1, -1.5, None, "-1.5", "+3", "-1.5e-7", "-0.012 [-0.020, -0.004] nats", "-53 %", "-41 to 84 % less", "a=b", "1-2", ""],
)
def test_numbers_of_a_csv_file_stay_as_they_are(value: Any) -> None:
    assert csv_cell(value) == value


def test_csv_files_are_written_through_it() -> None:
    made = Table(kind="", title="", caption="", heads=(), rows=(), data=({"label": "=HYPERLINK(1)\u202e", "value": -2.5},))
    (line,) = csv.DictReader(io.StringIO(csv_text(made)))
    assert line == {"label": r"'=HYPERLINK(1)\u202e", "value": "-2.5"}


def test_a_terminal_shows_text_as_it_is() -> None:
    from rich.table import Table as RichTable

    console = PlainConsole(file=io.StringIO(), width=200)
    table = RichTable(HOSTILE)
    table.add_row(HOSTILE)
    console.print(table)
    console.print(HOSTILE)
    assert console.file.getvalue().count(SHOWN) == 3  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of records with such text in units (which a spreadsheet would compute), methods and reasons."""
    records = []
    for one in comparison():
        measures = {name: m.model_copy(update={"unit": f"={HOSTILE}", "method": HOSTILE}) for name, m in one.measures.items()}
        metrics = {name: dataclasses.replace(metric, unit=f"={HOSTILE}") for name, metric in METRICS.items()}
        reason = one.reason and HOSTILE
        records.append(one.model_copy(update={"measures": measures, "metrics": metrics, "reason": reason}))
    results = save(tmp_path_factory.mktemp("hostile"), records)
    write_report(results)
    return results


def test_files_of_a_report_hold_no_unseen_character_and_no_formula(hostile: Path) -> None:
    files = [hostile / "TABLES.md", *(hostile / "tables").rglob("*.*"), *(hostile / "figures").rglob("*.svg")]
    assert len(files) > 20
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert not [c for c in text if unseen(c) and c not in "\n\t"], path
        if path.suffix == ".csv":
            assert not [cell for line in csv.reader(io.StringIO(text)) for cell in line if cell.startswith(("=", "+", "@"))], path


def test_the_page_holds_no_unseen_character_and_shows_them(hostile: Path) -> None:
    content = render_page(hostile, ())
    assert not [c for c in content if unseen(c) and c not in "\n\t"]
    read = Read(content)
    assert any(SHOWN in text for text in read.sources)
    assert not [c for text in read.sources for c in text if unseen(c)]


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_commands_show_hostile_units_and_reasons(hostile: Path, more: list[str]) -> None:
    assert SHOWN in summary(hostile, "quick")
    (failed,) = [
        path.stem for path in sorted((hostile / "runs/quick").glob("*.json")) if json.loads(path.read_text())["status"] == "oom"
    ][:1]
    for arguments in (["show", failed], ["explain", "quick/copy T30/LSTM/loss"]):
        result = CliRunner().invoke(app, [*arguments, "--results", str(hostile), *more])
        assert result.exception is None or isinstance(result.exception, UserError)
        output = result.output + str(result.exception or "")
        assert not [c for c in output if unseen(c) and c not in "\n\t"]
        assert "smiley" in output
        assert "[/red]" in output
