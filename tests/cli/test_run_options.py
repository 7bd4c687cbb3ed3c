"""The options of `run` reach what executes a suite."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bench.cli.main import app
from bench.execution import coordinator
from bench.execution.coordinator import RunOptions, SuiteStopped
from bench.execution.engines.inline import Inline
from bench.execution.engines.local import Local
from bench.records.spec import Limits

FAILED = frozenset({"crashed", "diverged", "oom", "timeout", "interrupted"})


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the coordinator is made of; it runs nothing."""
    seen: dict[str, Any] = {}

    class Stopped(coordinator.Coordinator):
        def __init__(self, plan: Any, **settings: Any) -> None:
            super().__init__(plan, **settings)
            seen.update(settings, plan=plan)

        def run(self) -> Any:
            raise SuiteStopped("asked to", 0, ())

    monkeypatch.setattr(coordinator, "Coordinator", Stopped)
    return seen


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ((), RunOptions()),
        (("--limit", "7.5", "--memory", "2"), RunOptions(limits=Limits(seconds=7.5, memory_bytes=2 * 2**30))),
        (("--checkpoint", "0", "--attempts", "9"), RunOptions(checkpoint_s=0.0, attempts=9)),
        (("--retry", "timeout, oom"), RunOptions(retry=frozenset({"timeout", "oom"}))),
        (("--retry", "untimed"), RunOptions(retry=frozenset({"untimed"}))),
        (("--retry", "all", "--keep-stale"), RunOptions(retry=FAILED, keep_stale=True)),  # type: ignore[arg-type]
    ],
)
def test_limits_checkpoints_and_retries(
    given: dict[str, Any], tmp_path: Path, arguments: tuple[str, ...], options: RunOptions
) -> None:
    assert CliRunner().invoke(app, ["run", "tiny", "--device", "cpu", "--results", str(tmp_path), *arguments]).exit_code == 130
    assert given["options"] == options
    assert given["store"].results == tmp_path


def test_rows_data_and_jobs(given: dict[str, Any], tmp_path: Path) -> None:
    (text := tmp_path / "text.txt").write_text("to be or not to be " * 99)
    arguments = ("--only", "*/GRU", "--data", f"tinyshakespeare={text}", "--jobs", "3", "--device", "cpu")
    made = CliRunner().invoke(app, ["run", "tiny", *arguments, "--results", str(tmp_path / "r")])
    assert made.exit_code == 130, made.output
    assert {spec.label for spec in given["plan"].specs()} == {"GRU"}
    assert given["data"] == {"tinyshakespeare": text}
    assert isinstance(given["engine"], Local)
    assert given["engine"].slots == 3
    assert "the same command goes on from there" in made.output


def test_the_engine(given: dict[str, Any], tmp_path: Path) -> None:
    arguments = ["run", "tiny", "--device", "cpu", "--engine", "inline", "--results", str(tmp_path)]
    assert CliRunner().invoke(app, arguments).exit_code == 130
    assert isinstance(given["engine"], Inline)
