"""The worked examples pass their checks, run as a suite and appear in tables and claims."""

from pathlib import Path

import pytest
from cases import few
from running import run_suite
from typer.testing import CliRunner

from bench.claims.claim import judge_claims
from bench.claims.entries import CLAIMS
from bench.claims.evidence import Evidence
from bench.cli.main import app
from bench.conformance.load import CONTRACTS
from bench.execution.engines.inline import Inline
from bench.execution.plan import Plan
from bench.execution.suite_loading import load_suite
from bench.records.spec import Comparison
from bench.report.report import write_report

pytestmark = pytest.mark.end_to_end

EXAMPLES = Path(__file__).parents[2] / "bench" / "examples"


@pytest.mark.parametrize("kind", few(CONTRACTS, ["cell"]))
def test_passes_every_check(kind: str) -> None:
    result = CliRunner().invoke(app, ["check", str(EXAMPLES / f"my_{kind}.py")])
    assert result.exit_code == 0, result.output
    assert f"{kind} my_{kind}:" in result.stdout
    assert all(f"  {check.name} " in result.stdout for check in CONTRACTS[kind])  # type: ignore[index]
    assert "FAIL" not in result.stdout
    assert "warn" not in result.stdout


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("my_*.py")), ids=lambda file: file.stem)
def test_is_short(file: Path) -> None:
    assert len(file.read_text().splitlines()) < 40


def test_suite_runs_and_is_reported(tmp_path: Path) -> None:
    name, (entry,) = load_suite(str(EXAMPLES / "my_suite.py"), {})
    assert isinstance(entry, Comparison)
    train = entry.train.model_copy(update={"steps": 4, "batch": 4, "evaluate_every": 2, "warmup": 0})
    short = entry.model_copy(update={"train": train, "seeds": (0,), "depths": (2, 4)})
    records = run_suite(Plan([short]), tmp_path, suite=name, engine=Inline())
    assert {record.spec.label: record.status for record in records} == dict.fromkeys(entry.rows, "ok")

    write_report(tmp_path)
    table = (tmp_path / f"tables/{name}/my-own.md").read_text(encoding="utf-8")
    figure = (tmp_path / f"figures/{name}/my-own-tradeoff.svg").read_text(encoding="utf-8")
    assert all(f"| {row} |" in table and f"<!-- {row} -->" in figure for row in entry.rows)

    about = {one.claim.id: [part.about for part in one.parts] for one in judge_claims(CLAIMS, Evidence(tmp_path, own=(name,)))}
    mine = "my own: DEQ, my cell and solver"
    assert any(text.startswith(mine) for text in about["converges"])
    assert f"{mine} over tied 6, my cell" in about["perplexity"]
