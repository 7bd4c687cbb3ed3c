"""The progress display: how each run ended."""

import pytest
from running import record_of

from bench.cli.progress import Display
from bench.records.record import RunStatus, measured
from bench.records.spec import ComponentConfig, RunSpec, TrainConfig


@pytest.mark.parametrize(
    ("status", "shown"), [("ok", "test loss 2.042"), ("timeout", "timeout: 60 s are over"), ("oom", "oom: 60 s are over")]
)
def test_a_run_that_failed_after_its_test_is_shown_as_failed(
    status: RunStatus, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    train, task = TrainConfig(steps=1, batch=1, learning_rate=0.1), ComponentConfig(name="copy")
    spec = RunSpec(group="g", label="l", model=ComponentConfig(name="gru"), task=task, train=train, seed=0)
    record = record_of(
        spec,
        status=status,
        reason=None if status == "ok" else "60 s are over",
        measures={"test_loss": measured(2.042, "nats", "m", "s")},
    )
    Display(quiet=False).callbacks.recorded(record, 1, 1)
    line = capsys.readouterr().err
    assert shown in line
    assert ("2.042" in line) == (status == "ok")
