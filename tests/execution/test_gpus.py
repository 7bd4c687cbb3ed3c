"""On several GPUs the engine gives each run one of its own."""

import os
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from engine_jobs import MakeJob
from scripted import spec

from bench.execution.engines import local, worker
from bench.execution.engines.engine import Lost
from bench.execution.engines.local import Local


class FakeWorker:
    """A worker that starts no process: it records its GPU and ends when the test says so."""

    given: list[str | None]

    def __init__(self, job: Any, gpu: str | None) -> None:
        self.job, self.ended, self.handles = job, False, []
        FakeWorker.given.append(gpu)

    def poll(self) -> list[Any]:
        return [Lost(self.job, "ended", "interrupted")] if self.ended else []


def test_runs_take_the_gpu_with_the_fewest_and_give_it_back(monkeypatch: pytest.MonkeyPatch, job: MakeJob) -> None:
    FakeWorker.given = []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(local, "Worker", FakeWorker)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    jobs = [job(spec(label=label).model_copy(update={"device": "cuda"})) for label in "abcd"]
    engine = Local(3)
    for one in jobs[:3]:
        engine.submit(one)
    assert FakeWorker.given == ["0", "1", "0"]
    engine._workers[jobs[1].run_id].ended = True  # type: ignore[attr-defined]
    engine.wait(0.0)
    engine.submit(jobs[3])
    assert FakeWorker.given[-1] == "1"


@pytest.mark.parametrize(("count", "device", "processes"), [(1, "cuda", 1), (2, "cpu", 1), (2, "cuda", 2)])
def test_without_a_choice_nothing_is_hidden(
    monkeypatch: pytest.MonkeyPatch, job: MakeJob, count: int, device: str, processes: int
) -> None:
    FakeWorker.given = []
    monkeypatch.setattr(local, "Worker", FakeWorker)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    Local(2).submit(job(spec().model_copy(update={"device": device, "processes": processes})))
    assert FakeWorker.given == [None]


@pytest.mark.parametrize(("visible", "name"), [(None, "1"), ("2, 5", "5"), ("GPU-a,GPU-b", "GPU-b")])
def test_the_name_is_of_a_gpu_that_the_parent_may_see(monkeypatch: pytest.MonkeyPatch, visible: str | None, name: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible or "")
    assert local._visible(1) == name


@pytest.mark.parametrize("gpu", [None, "5"])
def test_the_process_of_a_run_sees_that_one(monkeypatch: pytest.MonkeyPatch, gpu: str | None) -> None:
    found = SimpleNamespace(seen="not run")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    monkeypatch.setattr(worker, "_exit_after", lambda _: setattr(found, "seen", os.environ["CUDA_VISIBLE_DEVICES"]))
    worker.work(None, "{}", gpu)  # type: ignore[arg-type]
    assert found.seen == (gpu or "2,5")
