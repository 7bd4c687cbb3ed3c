"""A run that is stopped anywhere and goes on from its checkpoint ends in the numbers of one that never stopped, to the last bit."""

import hashlib
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from running import IDENTITY

from bench.execution.engines.engine import Lost
from bench.execution.job import Job
from bench.execution.lost_runs import record_of_lost_run
from bench.records.record import Record
from bench.records.spec import ComponentConfig, Recipe, RunSpec, Settings, TrainConfig
from bench.training.checkpoint import FORMAT, Checkpoint, Interrupt, Interrupted
from bench.training.context import RunControl
from bench.training.registry import build_task
from bench.training.run import run

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
    """All that is no clock and no process memory."""
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


@pytest.mark.end_to_end
@pytest.mark.parametrize("kind", KINDS)
def test_stopped_at_several_steps_it_ends_in_the_same_bits(kind: str, tmp_path: Path, data: dict[str, Path]) -> None:
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


def test_a_checkpoint_of_every_step_changes_no_number(tmp_path: Path, data: dict[str, Path]) -> None:
    one = spec("lstm with dropout")
    kept = run(one, suite="s", data=data, control=RunControl(checkpoint=Checkpoint(tmp_path / "c.pt", "r", every_s=0.0)))
    assert numbers(kept) == numbers(run(one, suite="s", data=data))
    assert kept.provenance["checkpoint_step"] == 30


def test_clocks_leave_out_the_work_that_was_lost(tmp_path: Path, data: dict[str, Path]) -> None:
    """The second attempt goes on from step 10 of a first that had trained for an hour up to there, and got further."""
    one, path = spec("lstm with dropout"), tmp_path / "c.pt"
    run(one, suite="s", data=data, control=stopped(Checkpoint(path, "r"), {10}))
    damaged(lambda saved: saved["state"]["clocks"].update(train=3600.0))(path)
    record = run(one, suite="s", data=data, control=RunControl(checkpoint=Checkpoint(path, "r")))
    assert 3600 < record.elapsed_s < 3660
    assert 3600 < record.curve[-1].seconds < 3660


class Evil:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("evil-was-here"),))


@pytest.mark.end_to_end
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"nonsense",
        pickle.dumps(Evil()),
        pickle.dumps({"format": 1, "run_id": "r", "step": 3, "state": Evil()}),
    ],
    ids=["empty", "nonsense", "a pickle that acts", "one dressed up"],
)
def test_a_file_that_is_no_checkpoint_is_not_run_and_the_run_starts_over(
    tmp_path: Path, data: dict[str, Path], monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "c.pt"
    path.write_bytes(content)
    record = run(spec("tcn"), suite="s", data=data, control=RunControl(checkpoint=Checkpoint(path, "r")))
    assert not Path("evil-was-here").exists()
    assert record.status == "ok"
    assert "the run started over" in record.provenance["checkpoint"]
    assert numbers(record) == numbers(run(spec("tcn"), suite="s", data=data))


def damaged(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """A change by somebody who knows how the file is made: its digest fits."""

    def spoil(path: Path) -> None:
        saved = torch.load(io.BytesIO(path.read_bytes().partition(b"\n")[2]), weights_only=True)
        change(saved)
        write(path, saved)

    return spoil


def write(path: Path, saved: Any) -> None:
    file = io.BytesIO()
    torch.save(saved, file)
    digest = hashlib.sha256(file.getvalue()).hexdigest()
    path.write_bytes(f"bench checkpoint, SHA-256 {digest}\n".encode() + file.getvalue())


def torch_evil(path: Path) -> None:
    write(path, {"format": FORMAT, "run_id": "r", "step": 3, "state": Evil()})


def forged(step: int | float) -> Callable[[Path], None]:
    """A state that gives another number of steps wherever it gives one."""
    return damaged(lambda saved: (saved.update(step=step), saved["state"].update(done=step)))


@pytest.mark.end_to_end
@pytest.mark.parametrize(
    "spoil",
    [
        torch_evil,
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        damaged(lambda saved: saved.update(run_id="another")),
        damaged(lambda saved: saved.update(format=0)),
        damaged(lambda saved: saved["state"].pop("optimiser")),
        damaged(lambda saved: saved["state"]["model"].pop("embedding.weight")),
        damaged(lambda saved: saved["state"]["model"].update({"embedding.weight": torch.zeros(1)})),
        damaged(lambda saved: saved["state"].update(ranks=[])),
        damaged(lambda saved: saved["state"].update(curve=[{"step": "x"}])),
        damaged(lambda saved: saved["state"]["ranks"][0].update(generator=torch.zeros(3))),
        damaged(lambda saved: saved.update(step=11)),
        damaged(lambda saved: saved["state"].update(done=9)),
        damaged(lambda saved: saved["state"]["ranks"][0]["losses"].append(torch.zeros(()))),
        damaged(lambda saved: saved["state"]["schedule"].update(last_epoch=3)),
        damaged(lambda saved: saved["state"]["curve"].reverse()),
        damaged(lambda saved: saved["state"]["curve"].pop()),
        *(forged(step) for step in (-1, 0, 9, 11, 29, 30, 31, 10**9, 10.0, True, float("nan"))),
        lambda path: path.write_bytes(path.read_bytes().partition(b"\n")[2]),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_left_and_the_run_starts_over(
    tmp_path: Path, data: dict[str, Path], monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Path], None]
) -> None:
    monkeypatch.chdir(tmp_path)
    one, path = spec("tcn"), tmp_path / "c.pt"
    run(one, suite="s", data=data, control=stopped(Checkpoint(path, "r"), {10}))
    spoil(path)
    record = run(one, suite="s", data=data, control=RunControl(checkpoint=Checkpoint(path, "r")))
    assert not Path("evil-was-here").exists()
    assert "the run started over" in record.provenance["checkpoint"]
    assert numbers(record) == numbers(run(one, suite="s", data=data))


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A checkpoint of a real training."""
    folder = tmp_path_factory.mktemp("content")
    (folder / "a.txt").write_text("the quick brown fox jumps over the lazy dog. " * 60)
    kept = Checkpoint(folder / "c.pt", "r")
    run(spec("tcn"), suite="s", data={"a": folder / "a.txt"}, control=stopped(kept, {10}))
    return (folder / "c.pt").read_bytes()


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), kind=st.sampled_from(["flip", "cut", "lose", "add"]))
def test_a_mutated_checkpoint_is_never_taken_up(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, place: float, bit: int, kind: str
) -> None:
    at = int(place * len(content))
    flipped = bytes([content[at] ^ 1 << bit])
    after = {"flip": flipped + content[at + 1 :], "cut": b"", "lose": content[at + 1 :], "add": flipped + content[at:]}[kind]
    path = tmp_path_factory.getbasetemp() / "mutated.pt"
    path.write_bytes(content[:at] + after)
    checkpoint = Checkpoint(path, "r")
    assert checkpoint.load() is None
    assert checkpoint.step == 0
    assert checkpoint.problem is not None
    assert "digest does not fit" in checkpoint.problem
    assert not path.exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda saved: saved["state"].update(clocks={"train": float("nan")}),
        lambda saved: saved["state"].update(clocks={"train": 10**400}),
        lambda saved: saved["state"].update(clocks=[1.0]),
        lambda saved: saved["state"].update(curve=3),
        lambda saved: saved["state"].pop("curve"),
    ],
)
def test_what_a_forged_state_says_does_not_keep_a_lost_run_from_its_record(
    tmp_path: Path, data: dict[str, Path], content: bytes, change: Callable[[dict[str, Any]], Any]
) -> None:
    one = spec("tcn")
    job = Job(run_id=IDENTITY.run_id(one.key), suite="s", spec=one, identity=IDENTITY, folder=tmp_path)
    job.checkpoint.write_bytes(content)
    damaged(lambda saved: (saved.update(run_id=job.run_id), change(saved)))(job.checkpoint)
    record = record_of_lost_run(Lost(job, "killed"), "crashed", build_task(one.task, data), {})
    assert (record.status, record.reason, record.elapsed_s) == ("crashed", "killed", 0.0)


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    real = Checkpoint(tmp_path / "real.pt", "r")
    real.save({"x": 1}, 5)
    (tmp_path / "c.pt").symlink_to(tmp_path / "real.pt")
    assert Checkpoint(tmp_path / "c.pt", "r").load() is None


def test_a_full_disk_costs_the_checkpoint_and_not_the_run(
    tmp_path: Path, data: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c.pt"
    Checkpoint(path, "other").save({"x": 1}, 5)
    before = path.read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bench.records.record.os.fsync", full)
    record = run(spec("tcn"), suite="s", data=data, control=RunControl(checkpoint=Checkpoint(path, "r", every_s=0.0)))
    assert record.status == "ok"
    assert "No space left" in record.provenance["checkpoint"]
    assert record.provenance["checkpoint_step"] == 0
    assert not path.exists() or path.read_bytes() == before
    assert [file for file in tmp_path.iterdir() if file.suffix == ".tmp"] == []


class TestInterrupt:
    def test_is_at_once_or_when_it_is_asked_for(self) -> None:
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

    def test_inside_another_it_waits_for_the_outer_one(self) -> None:
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

    def test_no_except_exception_swallows_it(self) -> None:
        assert not issubclass(Interrupted, Exception)
