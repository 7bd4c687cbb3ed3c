"""A checkpoint that is damaged, forged or another run's is discarded without executing it, and the run starts over."""

import hashlib
import io
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import exhaustive
from hypothesis import given
from hypothesis import strategies as st
from running import IDENTITY
from test_checkpoint import numbers, spec, stopped

from bench.execution.attempts import record_of_lost_run
from bench.execution.engines.engine import Lost
from bench.execution.job import Job
from bench.records.record import Record
from bench.training.checkpoint import FORMAT, Checkpoint
from bench.training.context import RunControl
from bench.training.registry import build_task
from bench.training.run import run

pytestmark = pytest.mark.end_to_end


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The text of `data`, once for all tests."""
    path = tmp_path_factory.mktemp("texts") / "a.txt"
    path.write_text("the quick brown fox jumps over the lazy dog. " * 60)
    return {"a": path}


@pytest.fixture(scope="module")
def whole(texts: dict[str, Path]) -> Record:
    """A training without interruption."""
    return run(spec("tcn"), suite="s", data=texts)


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory, texts: dict[str, Path]) -> bytes:
    """A checkpoint of a real training, stopped at step 10."""
    kept = tmp_path_factory.mktemp("content") / "c.pt"
    run(spec("tcn"), suite="s", data=texts, control=stopped(Checkpoint(kept, "r"), {10}))
    return kept.read_bytes()


class Evil:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("evil-was-here"),))


def damaged(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Change the file's content and update its digest."""

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
    """Set both step numbers of the file."""
    return damaged(lambda saved: (saved.update(step=step), saved["state"].update(done=step)))


@pytest.mark.parametrize(
    "spoil",
    [
        *(partial(Path.write_bytes, data=data) for data in (b"", b"nonsense", pickle.dumps(Evil()))),
        partial(Path.write_bytes, data=pickle.dumps({"format": 1, "run_id": "r", "step": 3, "state": Evil()})),
        torch_evil,
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        damaged(lambda saved: saved.update(run_id="another")),
        *exhaustive(damaged(lambda saved: saved.update(format=0))),
        damaged(lambda saved: saved["state"].pop("optimiser")),
        damaged(lambda saved: saved["state"]["model"].pop("embedding.weight")),
        *exhaustive(damaged(lambda saved: saved["state"]["model"].update({"embedding.weight": torch.zeros(1)}))),
        damaged(lambda saved: saved["state"].update(ranks=[])),
        *exhaustive(damaged(lambda saved: saved["state"].update(curve=[{"step": "x"}]))),
        damaged(lambda saved: saved["state"]["ranks"][0].update(generator=torch.zeros(3))),
        *exhaustive(damaged(lambda saved: saved.update(step=11))),
        *exhaustive(damaged(lambda saved: saved["state"].update(done=9))),
        damaged(lambda saved: saved["state"]["ranks"][0]["losses"].append(torch.zeros(()))),
        *exhaustive(damaged(lambda saved: saved["state"]["schedule"].update(last_epoch=3))),
        *exhaustive(damaged(lambda saved: saved["state"]["curve"].reverse())),
        damaged(lambda saved: saved["state"]["curve"].pop()),
        *(forged(step) for step in (11, float("nan"))),
        *exhaustive(*(forged(step) for step in (-1, 0, 9, 29, 30, 31, 10**9, 10.0, True))),
        lambda path: path.write_bytes(path.read_bytes().partition(b"\n")[2]),
    ],
)
def test_a_file_that_is_not_the_checkpoint_is_not_executed_and_the_run_starts_over(
    tmp_path: Path,
    texts: dict[str, Path],
    content: bytes,
    whole: Record,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[Path], None],
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "c.pt"
    path.write_bytes(content)
    spoil(path)
    record = run(spec("tcn"), suite="s", data=texts, control=RunControl(checkpoint=Checkpoint(path, "r")))
    assert not Path("evil-was-here").exists()
    assert record.status == "ok"
    assert "the run started over" in record.provenance["checkpoint"]
    assert numbers(record) == numbers(whole)


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), kind=st.sampled_from(["flip", "cut", "lose", "add"]))
def test_a_mutated_checkpoint_is_not_loaded(
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
def test_a_lost_run_has_a_record_also_with_a_forged_checkpoint(
    tmp_path: Path, texts: dict[str, Path], content: bytes, change: Callable[[dict[str, Any]], Any]
) -> None:
    one = spec("tcn")
    job = Job(run_id=IDENTITY.run_id(one.key), suite="s", spec=one, identity=IDENTITY, folder=tmp_path)
    job.checkpoint.write_bytes(content)
    damaged(lambda saved: (saved.update(run_id=job.run_id), change(saved)))(job.checkpoint)
    record = record_of_lost_run(Lost(job, "killed"), build_task(one.task, texts), {})
    assert (record.status, record.reason, record.elapsed_s) == ("crashed", "killed", 0.0)


def test_clocks_do_not_count_lost_work(tmp_path: Path, texts: dict[str, Path], content: bytes) -> None:
    """The second attempt resumes from step 10, which the first reached after an hour."""
    path = tmp_path / "c.pt"
    path.write_bytes(content)
    damaged(lambda saved: saved["state"]["clocks"].update(train=3600.0))(path)
    record = run(spec("tcn"), suite="s", data=texts, control=RunControl(checkpoint=Checkpoint(path, "r")))
    assert 3600 < record.elapsed_s < 3660
    assert 3600 < record.curve[-1].seconds < 3660


def test_a_checkpoint_that_cannot_be_read_now_is_kept(
    content: bytes, whole: Record, texts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a shared file system that does not answer: hours of training would be lost."""
    file = tmp_path / "c.pt"
    file.write_bytes(content)

    def fail(*_: Any) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "_read", fail)
        failed = run(spec("tcn"), suite="s", data=texts, control=RunControl(checkpoint=Checkpoint(file, "r")))
    assert (failed.status, failed.reason) == ("crashed", "OSError: [Errno 5] Input/output error")
    assert file.read_bytes() == content
    control = RunControl(checkpoint=Checkpoint(file, "r"))
    resumed = run(spec("tcn"), suite="s", data=texts, control=control)
    assert numbers(resumed) == numbers(whole)
    assert "resumed from a checkpoint" in resumed.measures["train_s"].method
