"""What the README shows is what the repository holds: its example runs, its table is the one in results/."""

import re
import textwrap
from pathlib import Path

import pytest
from running import run_suite

from bench.execution.plan import Plan
from bench.execution.suite_loading import load_suite

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def example(name: str) -> str:
    """The indented block that opens with `# name`."""
    found = re.search(rf"^    # {re.escape(name)}\n((?:    .*\n|\n)+?)(?=^    # \w+\.py\n|^\S)", README, re.M)
    assert found is not None, name
    return textwrap.dedent(found[1])


def test_the_example_of_an_own_cell_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(example("mine.py"), encoding="utf-8")
    suite = example("suite.py").replace("steps=200", "steps=4").replace("trial_steps=100", "trial_steps=2")
    assert "steps=4" in suite
    (tmp_path / "suite.py").write_text(suite, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    name, entries = load_suite(str(tmp_path / "suite.py"), {})
    records = run_suite(Plan(entries, seeds=[0]), tmp_path / "results", suite=name)
    assert {record.spec.label: record.status for record in records} == {"DEQ": "ok", "tied 8": "ok", "LSTM": "ok"}
    counts = {record.spec.label: record.value("parameters_total") for record in records}
    budget = counts["DEQ"]
    assert budget is not None
    assert all(value is not None and abs(value - budget) <= 0.02 * budget for value in counts.values())


def test_every_table_in_the_readme_stands_in_results() -> None:
    shown = re.findall(r"<!-- ((?:tables|peers|memory|claims)/[\w/.-]+\.md) -->\n\n((?:\|.*\n)+)", README)
    assert shown
    for name, table in shown:
        assert table in (ROOT / "results" / name).read_text(encoding="utf-8")


def test_every_file_that_the_readme_links_to_is_there() -> None:
    for target in re.findall(r"\]\(((?!https?:)[^)#]+)\)", README):
        assert (ROOT / target).is_file(), target


def test_every_table_ends_with_an_empty_line() -> None:
    """Else the next line becomes one of its rows."""
    lines = README.split("\n")
    after = [lines[n + 1] for n, line in enumerate(lines) if line.startswith("|") and not lines[n + 1].startswith("|")]
    assert len(after) > 5
    assert set(after) == {""}
