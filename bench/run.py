"""One run: build, train, evaluate, probe; whatever happens, a Record."""

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from bench.catalog import build_task
from bench.environment import environment
from bench.errors import UserError, one_line
from bench.loop import Diverged, Progress, Training, evaluate
from bench.machine import Machine
from bench.measuring import future_leak, gradient_by_beta, memory_by_depth, parameters, residual_by_nfe, step_measures
from bench.meters import Clocks, CudaMemory, HostMemory, Nvml
from bench.model import build_model
from bench.record import Measure, Record, RunStatus, measured
from bench.spec import Spec
from bench.tasks.task import Task, derive_seed
from bench.telemetry import Telemetry


def _silent(step: int, steps: int, loss: float | None) -> None:
    """Tell nobody."""


def run(spec: Spec, *, suite: str, data: Mapping[str, Path] | None = None, beside: int = 1, progress: Progress = _silent) -> Record:
    """Do what the spec says and return its Record; never raises for what the run did, only UserError for a spec that cannot be.

    `beside` is how many runs share the machine, for the record: it says what the wall clocks are worth.
    """
    attempt = _Attempt(spec, data or {}, progress)
    status, why = attempt.go()
    attempt.measures |= attempt.read_meters(beside)
    return Record(
        run_id=spec.run_id,
        suite=suite,
        spec=spec,
        status=status,
        why=why,
        headline=attempt.task.headline,
        metrics=dict(attempt.task.metrics),
        curve=attempt.training.curve if attempt.training else [],
        measures=attempt.measures,
        probes=attempt.probes,
        provenance={
            "data_sha256": attempt.task.fingerprint(),
            "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "runs_side_by_side": beside,
        },
        environment=environment(spec.device, spec.threads),
    )


class _Attempt:
    """What a run has reached so far, so that a failure keeps it."""

    def __init__(self, spec: Spec, data: Mapping[str, Path], progress: Progress) -> None:
        if spec.device == "cuda" and not torch.cuda.is_available():
            raise UserError("device cuda: torch sees no CUDA device here")
        torch.set_num_threads(spec.threads)
        self.spec, self.progress = spec, progress
        self.task: Task = build_task(spec.task, data)
        if spec.train.carry and not self.task.streams:
            raise UserError(f"carry: the batches of task {spec.task.name!r} do not continue one another")
        synchronise = torch.cuda.synchronize if spec.device == "cuda" else None
        self.clocks = Clocks(synchronise)
        self.host, self.cuda, self.nvml = HostMemory(), CudaMemory(spec.device), Nvml(spec.device)
        self.machine = Machine()
        self.telemetry: Telemetry | None = None
        self.training: Training | None = None
        self.measures: dict[str, Measure] = {}
        self.probes: dict[str, Any] = {}

    def go(self) -> tuple[RunStatus, str | None]:
        """Everything, in order; the status and, for a failure, why."""
        try:
            self._train()
            self._test()
            if self.spec.role == "final":
                self._probe()
        except Diverged as error:
            return "diverged", str(error)
        except (torch.OutOfMemoryError, MemoryError) as error:
            return "oom", f"out of memory: {str(error).splitlines()[0] if str(error) else 'no detail'}"
        except UserError:
            raise
        except Exception as error:
            if "DefaultCPUAllocator" in str(error):  # torch raises a bare RuntimeError when the host's memory is exhausted
                return "oom", f"out of memory: {str(error).splitlines()[0]}"
            if any(said in str(error) for said in ("non-finite values in state", "underflow in dt")):  # torchdiffeq's assertions
                return "diverged", one_line(f"the ODE solver gave up: {error}")
            return "crashed", one_line(f"{type(error).__name__}: {error}")
        return "ok", None

    def _train(self) -> None:
        spec = self.spec
        self.host.start()
        with self.clocks.phase("build"):
            torch.manual_seed(derive_seed("model", spec.seed))
            model = build_model(spec.model, self.task.vocabulary).to(spec.device)
        self.measures |= parameters(model)
        self.telemetry = Telemetry(model)
        self.training = Training(
            model,
            self.task,
            spec,
            clocks=self.clocks,
            telemetry=self.telemetry,
            nvml=self.nvml,
            machine=self.machine,
            progress=self.progress,
        )
        torch.manual_seed(derive_seed("training", spec.seed))
        self.cuda.start()
        self.nvml.start()
        try:
            self.training.run()
        finally:
            # Read at the end of training: the probes allocate on their own account.
            self.measures |= self.host.read() | self.cuda.read() | self.nvml.read()

    def _test(self) -> None:
        assert self.training is not None
        assert self.telemetry is not None
        self.telemetry.split = "evaluation"
        names = ["test"] if self.spec.role == "final" else []
        for name, value in self.training.curve[-1].valid.items():
            self.measures[f"valid_{name}"] = self._metric(name, value, "valid")
        for split in names:
            with self.machine.shared(), self.clocks.phase("evaluation"):
                scores = evaluate(self.training.model, self.task, "test", self.spec)
            for name, value in scores.items():
                self.measures[f"{split}_{name}"] = self._metric(name, value, split)
        self.measures |= self.telemetry.read()
        self.telemetry.close()

    def _metric(self, name: str, value: float, split: str) -> Measure:
        metric = self.task.metrics.get(name)
        return measured(value, metric.unit if metric else "1", "mean over the split, model in evaluation mode", f"{split} split")

    def _probe(self) -> None:
        assert self.training is not None
        model = self.training.model
        with self.machine.shared():
            self.measures |= future_leak(model, self.task, self.spec)
            curves = residual_by_nfe(model, self.task, self.spec)
            if curves:
                self.probes["residual_by_nfe"] = curves
            gradients = gradient_by_beta(model, self.task, self.spec)
            if gradients:
                self.probes["gradient_by_beta"] = gradients
            if self.spec.depths:
                rows = memory_by_depth(model, self.task, self.spec)
                if rows:
                    self.probes["depth"] = rows
        self.measures |= step_measures(self.training, self.machine)

    def read_meters(self, beside: int) -> dict[str, Measure]:
        """The clocks, and what the solvers did where a failure kept it from being read."""
        measures = self.clocks.read()
        if beside > 1:
            note = f"; {beside} runs side by side on one machine"
            measures = {name: m.model_copy(update={"method": m.method + note}) for name, m in measures.items()}
        if self.telemetry is not None and "solver_bytes" not in self.measures:
            measures |= self.telemetry.read()
        return measures
