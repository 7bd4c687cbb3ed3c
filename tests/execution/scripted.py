"""Engines that count their jobs or end them by a script, and the spec that they execute."""

from typing import Any

from bench.execution.engines.engine import Event, Lost
from bench.execution.engines.inline import Inline
from bench.execution.job import Job
from bench.records.spec import ComponentConfig, RunSpec, TrainConfig

ECHO = ComponentConfig(name="user_models:Echo")


def spec(seed: int = 0, label: str = "l", name: str = "user_models:Averages", **settings: Any) -> RunSpec:
    train = TrainConfig(steps=3, batch=2, learning_rate=0.1, evaluation_batch=4)
    model = ComponentConfig(name=name, settings={"width": 4, **settings})
    return RunSpec(group="g", label=label, role="trial", model=model, task=ECHO, train=train, seed=seed)


class Counting(Inline):
    """Engine `inline` that keeps its jobs."""

    def __init__(self) -> None:
        super().__init__()
        self.jobs: list[Job] = []

    def submit(self, job: Job) -> None:
        self.jobs.append(job)
        super().submit(job)


class Scripted(Counting):
    """Engine that ends each job as the next line of a script says."""

    def __init__(self, *script: str) -> None:
        super().__init__()
        self.script = list(script)

    def wait(self, seconds: float) -> list[Event]:
        if self._job is None:
            return super().wait(0.0)
        job, line = self._job, self.script.pop(0) if self.script else "ok"
        if line == "ok":
            return super().wait(seconds)
        self._job = None
        if line == "stopped":
            return [Lost(job, "stopped by SIGTERM", "interrupted")]
        if line in ("crashed", "oom"):
            return [Lost(job, "by itself", line, 123)]  # type: ignore[arg-type]
        return [Lost(job, "killed by SIGKILL")]
