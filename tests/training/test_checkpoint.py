"""A run that is interrupted and resumed from its checkpoint gives the same numbers, bit by bit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from cases import few

from bench.records.record import Record
from bench.records.spec import ComponentConfig, Recipe, RunSpec, Settings, TrainConfig
from bench.training.checkpoint import Checkpoint, Interrupt, Interrupted
from bench.training.context import RunControl
from bench.training.run import run
from deq import DEQ as DEQ_LAYER

pytestmark = pytest.mark.end_to_end

ECHO = ComponentConfig(name="user_models:Echo")
TEXT = ComponentConfig(name="text", settings={"data": "a", "length": 4})
DEQ: Settings = {"cell": "transformer-xl", "cell.heads": 2, "cell.memory_length": 3, "width": 8, "steps": 6, "backward_steps": 5}
KINDS: dict[str, dict[str, Any]] = {
    "deq with memory, dropout and a recipe": {
        "model": ComponentConfig(name="deq", settings=DEQ | {"cell.dropout": 0.2}),
        "recipe": Recipe(pretrain_steps=9, rtol=0.1, jacobian=0.1, jacobian_probability=0.5),
        "task": TEXT,
    },
    "stack": {"model": ComponentConfig(name="deq", settings=DEQ | {"layers": 2}), "task": TEXT},
    "trellisnet": {
        "model": ComponentConfig(name="trellisnet", settings={"width": 6, "depth": 4, "auxiliary_every": 2}),
        "task": TEXT,
    },
    "lstm with dropout": {
        "model": ComponentConfig(name="lstm", settings={"width": 6, "layers": 2, "hidden_dropout": 0.3, "weight_dropout": 0.2}),
        "task": TEXT,
    },
    "tcn": {"model": ComponentConfig(name="tcn", settings={"width": 6, "levels": 2, "kernel": 2}), "task": TEXT},
    "ode": {"model": ComponentConfig(name="ode", settings={"cell": "mlp", "width": 6}), "task": ECHO},
}


def spec(kind: str, steps: int = 30, **changes: Any) -> RunSpec:
    fields = KINDS[kind] | changes
    carry = fields["task"] is TEXT
    train = TrainConfig(steps=steps, batch=2, learning_rate=0.02, evaluate_every=10, evaluation_batch=2, carry=carry, warmup=4)
    return RunSpec(group="g", label="l", role="trial", train=train, seed=0, **fields)


@pytest.fixture
def data(tmp_path: Path) -> dict[str, Path]:
    (tmp_path / "a.txt").write_text("the quick brown fox jumps over the lazy dog. " * 60)
    return {"a": tmp_path / "a.txt"}


def numbers(record: Record) -> Any:
    """Everything but clocks and process memory."""
    points = [point.model_dump(exclude={"seconds"}) for point in record.curve]
    measures = {name: m for name, m in record.measures.items() if not name.endswith("_s") and name != "host_peak_bytes"}
    return record.status, record.reason, points, measures


def stopped(checkpoint: Checkpoint, steps: set[int]) -> RunControl:
    """Control that interrupts the run at each of the steps, once."""
    interrupt = Interrupt()

    def progress(done: int, total: int, loss: float | None) -> None:
        if done in steps:
            steps.discard(done)
            interrupt.ask("by the test")

    return RunControl(checkpoint=checkpoint, interrupt=interrupt, progress=progress)


@pytest.mark.parametrize("kind", few(KINDS, ["deq with memory, dropout and a recipe"]))
def test_a_run_interrupted_at_several_steps_gives_the_same_numbers(kind: str, tmp_path: Path, data: dict[str, Path]) -> None:
    one = spec(kind)
    whole = run(one, suite="s", data=data)
    assert whole.status == "ok"
    left = {1, 7, 8, 20, 30}  # within pre-training, at its last step, at a validation, at the end
    stops = []
    while True:
        checkpoint = Checkpoint(tmp_path / "c.pt", "r")
        torch.manual_seed(len(stops))  # the state of the process does not matter
        record = run(one, suite="s", data=data, control=stopped(checkpoint, left))
        if record.status == "ok":
            break
        assert (record.status, record.reason) == ("interrupted", "by the test")
        stops.append(checkpoint.step)
    assert stops == [1, 7, 8, 20, 30]
    assert numbers(record) == numbers(whole)
    assert "resumed from a checkpoint" in record.measures["train_s"].method


def test_a_run_interrupted_in_its_final_probes_gives_the_same_numbers(
    tmp_path: Path, data: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its test is of the DEQ also where every step was of pre-training, by another core."""
    one = spec("deq with memory, dropout and a recipe", steps=10, recipe=Recipe(pretrain_steps=10))
    one = one.model_copy(update={"role": "final"})
    monkeypatch.setattr("bench.training.final_probes.step_times", lambda *_: [1.0, 2.0, 3.0])
    whole = run(one, suite="s", data=data)
    interrupt, kept = Interrupt(), Checkpoint(tmp_path / "c.pt", "r")
    with monkeypatch.context() as patch:
        patch.setattr("bench.training.run.causality", lambda *_: interrupt.ask("by the test"))
        first = run(one, suite="s", data=data, control=RunControl(checkpoint=kept, interrupt=interrupt))
    assert (first.status, kept.step) == ("interrupted", 10)
    again = run(one, suite="s", data=data, control=RunControl(checkpoint=Checkpoint(tmp_path / "c.pt", "r")))
    assert (again.status, whole.status) == ("ok", "ok")
    assert numbers(again)[2] == numbers(whole)[2]
    assert again.probes == whole.probes
    for name in ("test_loss", "saved_bytes", "train_step_flops"):
        assert again.value(name) == whole.value(name) is not None


@pytest.mark.parametrize("concurrent_runs", [1, 2])
def test_a_clock_that_ran_beside_another_run_stays_unreliable(
    concurrent_runs: int, tmp_path: Path, data: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.instruments.contention.Contention.read", lambda *_, **__: None)
    one, control = spec("lstm with dropout"), stopped(Checkpoint(tmp_path / "c.pt", "r"), {20})
    first = run(one, suite="s", data=data, control=control, concurrent_runs=concurrent_runs)
    second = run(one, suite="s", data=data, control=RunControl(checkpoint=Checkpoint(tmp_path / "c.pt", "r")))
    assert (first.status, second.status) == ("interrupted", "ok")
    assert (second.value("train_s") is None) == (concurrent_runs == 2)
    assert ("2 runs side by side" in second.measures["train_s"].method) == (concurrent_runs == 2)


def test_recordings_are_forgotten_where_the_meters_are_read(
    tmp_path: Path, data: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA's meter frees memory that they use."""
    calls: list[DEQ_LAYER] = []
    monkeypatch.setattr(DEQ_LAYER, "forget_recordings", lambda layer: calls.append(layer))
    one = spec("stack", steps=5)
    control = RunControl(checkpoint=Checkpoint(tmp_path / "c.pt", "r", every_s=0.0))
    assert run(one, suite="s", data=data, control=control).status == "ok"
    assert len(calls) >= 2 * 6  # of two layers, at each step and at the end
    assert len(set(map(id, calls))) == 2


def test_a_checkpoint_of_every_step_changes_no_number(tmp_path: Path, data: dict[str, Path]) -> None:
    one = spec("lstm with dropout")
    kept = run(one, suite="s", data=data, control=RunControl(checkpoint=Checkpoint(tmp_path / "c.pt", "r", every_s=0.0)))
    assert numbers(kept) == numbers(run(one, suite="s", data=data))
    assert kept.provenance["checkpoint_step"] == 30


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    real = Checkpoint(tmp_path / "real.pt", "r")
    real.save({"x": 1}, 5)
    (tmp_path / "c.pt").symlink_to(tmp_path / "real.pt")
    assert Checkpoint(tmp_path / "c.pt", "r").load() is None


def test_on_a_full_disk_the_run_finishes_and_its_last_checkpoint_stays(
    tmp_path: Path, data: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c.pt"
    run(spec("tcn"), suite="s", data=data, control=stopped(Checkpoint(path, "r"), {8}))
    before = path.read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bench.records.record.os.fsync", full)
    record = run(spec("tcn"), suite="s", data=data, control=RunControl(checkpoint=Checkpoint(path, "r", every_s=0.0)))
    assert record.status == "ok"
    assert "No space left" in record.provenance["checkpoint"]
    assert record.provenance["checkpoint_step"] == 8
    assert path.read_bytes() == before
    assert [file for file in tmp_path.iterdir() if file.suffix == ".tmp"] == []


class TestInterrupt:
    def test_it_is_raised_at_once_or_at_the_end_of_deferred(self) -> None:
        interrupt = Interrupt()
        with pytest.raises(Interrupted, match="now"):
            interrupt.ask("now")
        interrupt = Interrupt()
        seen = []

        def step() -> None:
            with interrupt.deferred():
                interrupt.ask("later")
                seen.append(interrupt.asked)

        with pytest.raises(Interrupted, match="later"):
            step()
        assert str(seen[0]) == "later"

    def test_nested_deferred_raises_at_the_end_of_the_outermost(self) -> None:
        interrupt = Interrupt()
        seen = []

        def run(raising: bool) -> None:
            with interrupt.deferred(raising):
                with interrupt.deferred():
                    interrupt.ask("later")
                seen.append("after the inner one")

        run(raising=False)
        with pytest.raises(Interrupted, match="later"):
            run(raising=True)
        assert len(seen) == 2

    def test_only_the_first_counts(self) -> None:
        interrupt = Interrupt()
        with pytest.raises(Interrupted, match="first"):
            interrupt.ask("first")
        interrupt.ask("second", "timeout")
        assert str(interrupt.asked) == "first"

    def test_it_is_no_exception_subclass(self) -> None:
        assert not issubclass(Interrupted, Exception)
