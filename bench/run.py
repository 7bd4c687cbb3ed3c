"""One run: build, train, evaluate, probe; whatever happens, a Record."""

import datetime
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch

from bench.catalog import build_task
from bench.checkpoint import Checkpoint, Interrupt, Interrupted
from bench.contention import CONTENDED, Contention
from bench.environment import environment
from bench.errors import CodeError, UserError, failure, one_line, out_of_memory
from bench.identity import Identity, code_here, project_code
from bench.loop import Diverged, Progress, Training, evaluate
from bench.machine import Machine
from bench.measuring import as_trained, future_leak, gradient_by_beta, memory_by_depth, parameters, residual_by_nfe, step_measures
from bench.meters import Clocks, CudaMemory, HostMemory, Nvml
from bench.model import LanguageModel, build_model
from bench.provenance import identify
from bench.ranks import Ranks
from bench.record import Measure, Record, RunStatus, measured
from bench.spec import Spec
from bench.tasks.task import Task, derive_seed
from bench.telemetry import Telemetry

_ODE_GAVE_UP = ("non-finite values in state", "underflow in dt")  # torchdiffeq's assertions
_PROBES = {"residual_by_nfe": residual_by_nfe, "gradient_by_beta": gradient_by_beta, "depth": memory_by_depth}
_BY_RANK = (
    *("train_forward_nfe_mean", "train_backward_nfe_mean", "train_residual_p95"),
    *("saved_bytes", "peak_live_bytes", "solver_bytes"),
)


def _silent(step: int, steps: int, loss: float | None) -> None:
    """Tell nobody."""


def run(
    spec: Spec,
    *,
    suite: str,
    data: Mapping[str, Path] | None = None,
    beside: int = 1,
    progress: Progress = _silent,
    identity: Identity | None = None,
    checkpoint: Checkpoint | None = None,
    interrupt: Interrupt | None = None,
    ranks: Ranks | None = None,
    verify: bool = False,
    blocked: Callable[[], AbstractContextManager[object]] | None = None,
) -> Record:
    """Do what the spec says and return its Record; never raises for what the run did, only UserError for a spec that cannot be.

    `beside` is how many runs share the machine: wall clocks are then contended, and null. `identity` is found where it is not
    given; where another process has found it, `verify` has this one look whether its own data and code are those, and refuse to
    train where they are not. `blocked` is entered while another benchmark has the machine. With a `checkpoint` that holds the
    state of this very run, the run goes on from there; a request through `interrupt` ends it with its state saved.
    """
    attempt = _Attempt(spec, data or {}, progress, checkpoint or Checkpoint(), interrupt or Interrupt(), ranks or Ranks(), blocked)
    identity = identity or identify(spec, attempt.task, environment(spec.device, spec.threads))
    status, why = attempt.go(identity if verify else None)
    if status == "oom":
        _allow_more()
    attempt.measures |= attempt.read_meters(beside)
    here = environment(spec.device, spec.threads)
    return Record(
        run_id=identity.run_id(spec.key),
        suite=suite,
        spec=spec,
        identity=identity,
        status=status,
        why=why,
        elapsed_s=attempt.clocks.total(),
        headline=attempt.task.headline,
        metrics=dict(attempt.task.metrics),
        curve=attempt.training.curve if attempt.training else [],
        measures=attempt.measures,
        probes=attempt.probes,
        provenance={
            "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "runs_side_by_side": beside,
            "checkpoint": attempt.checkpoint.said,
            "checkpoint_step": attempt.checkpoint.step,
            "code": dict(project_code()),
        },
        environment=here,
    )


class _Changed(UserError):
    """The run's id says that its numbers come from other data or code than those that are here."""


def _allow_more() -> None:
    """Lift the bound on this process's memory: it has ended the run, and what is left to do is to write the record."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))


class _Attempt:
    """What a run has reached so far, so that a failure keeps it."""

    def __init__(
        self,
        spec: Spec,
        data: Mapping[str, Path],
        progress: Progress,
        checkpoint: Checkpoint,
        interrupt: Interrupt,
        ranks: Ranks,
        blocked: Callable[[], AbstractContextManager[object]] | None,
    ) -> None:
        if spec.device == "cuda" and not torch.cuda.is_available():
            raise UserError("device cuda: torch sees no CUDA device here")
        torch.set_num_threads(spec.threads)
        self.spec, self.progress, self.checkpoint, self.interrupt, self.ranks = spec, progress, checkpoint, interrupt, ranks
        self.task: Task = build_task(spec.task, data)
        if spec.train.carry and not self.task.streams:
            raise UserError(f"carry: the batches of task {spec.task.name!r} do not continue one another")
        synchronise = torch.cuda.synchronize if spec.device == "cuda" else None
        self.clocks = Clocks(synchronise)
        self.host, self.cuda, self.nvml = HostMemory(), CudaMemory(spec.device), Nvml(spec.device)
        self.machine = Machine(alone=not ranks.first, waiting=lambda: self.clocks.phase("waiting"), blocked=blocked)
        self.contention = Contention(spec.threads * ranks.size, together=ranks.total)
        self.contended: str | None = None
        self.telemetry: Telemetry | None = None
        self.training: Training | None = None
        self.measures: dict[str, Measure] = {}
        self.probes: dict[str, Any] = {}

    def go(self, wanted: Identity | None) -> tuple[RunStatus, str | None]:
        """Everything, in order; the status and, for a failure, why. `wanted`: what the data and code must be."""
        several = self.ranks.size > 1
        try:
            with self.interrupt.deferred(raising=False) if several else nullcontext():
                if wanted is not None:
                    self._verify(wanted)
                self._train()
                self.ranks.stop(self.interrupt)
                self._test()
                self.ranks.stop(self.interrupt)
                if self.spec.role == "final":
                    with self.clocks.phase("probe"):
                        self._probe()
        except Interrupted as request:
            return request.status, str(request)  # type: ignore[return-value]
        except Diverged as error:
            return "diverged", str(error)
        except Exception as error:
            if isinstance(error, UserError) and not isinstance(error, (CodeError, _Changed)) and out_of_memory(error) is None:
                raise
            if any(said in str(error) for said in _ODE_GAVE_UP):
                return "diverged", one_line(f"the ODE solver gave up: {error}")
            return failure(error)
        return "ok", None

    def _verify(self, wanted: Identity) -> None:
        code = code_here(wanted.code)
        here = wanted.model_copy(update={"data": self.task.fingerprint(), "code": code})
        if self.ranks.any(here != wanted):
            changed = "; ".join(wanted.differs(here)) or "what another process of this run has imported"
            raise _Changed(f"refused: {changed} changed after the run's id was made from it; run the suite again")

    def _train(self) -> None:
        self.host.start()
        self.training = training = self._resumed() or self._prepared(None)
        self.cuda.start()
        self.nvml.start()
        self.contention.start()
        finished = False
        try:
            training.run()
            finished = True
        finally:
            with self.interrupt.deferred():
                self.contended = self.contention.read(alone=not finished)  # another rank may be elsewhere
                # Read at the end of training: the probes allocate on their own account.
                self.measures |= self.host.read() | self.cuda.read() | self.nvml.read()
                if training.resumed:
                    self.measures |= _over_attempts(self.measures, training.resumed)
                if finished:
                    training.save()  # the last time: the probes run steps of their own

    def _resumed(self) -> Training | None:
        """The training where its checkpoint was; None where there is none, or where it does not fit every rank."""
        state, training = self.checkpoint.load(), None
        if not self.ranks.any(state is None):
            try:
                training = self._prepared(state)
            except Exception as error:  # a file that holds another model fails in any way it likes
                if out_of_memory(error) is not None:
                    raise
        if self.ranks.any(training is None):
            if state is not None:
                self.checkpoint.discard("does not fit this run")
            return None
        return training

    def _prepared(self, state: dict[str, Any] | None) -> Training:
        """The training with its model, at its first step or where the checkpoint was."""
        spec = self.spec
        if self.telemetry is not None:
            self.telemetry.close()
        with self.clocks.phase("build"):
            torch.manual_seed(derive_seed("model", spec.seed))
            model = build_model(spec.model, self.task.vocabulary).to(spec.device)
        self.measures |= parameters(model)
        self.telemetry = Telemetry(model)
        training = Training(
            model,
            self.task,
            spec,
            clocks=self.clocks,
            telemetry=self.telemetry,
            nvml=self.nvml,
            machine=self.machine,
            progress=self.progress,
            checkpoint=self.checkpoint,
            interrupt=self.interrupt,
            ranks=self.ranks,
            peaks=lambda: {name: m.value for name, m in (self.host.read() | self.cuda.read() | self.nvml.read()).items()},
        )
        torch.manual_seed(derive_seed("training", spec.seed, *([self.ranks.rank] if self.ranks.rank else [])))
        if state is not None:
            training.restore(state)
        return training

    def _test(self) -> None:
        assert self.training is not None
        assert self.telemetry is not None
        self.telemetry.split = "evaluation"
        names = ["test"] if self.spec.role == "final" else []
        for name, value in self.training.curve[-1].valid.items():
            self.measures[f"valid_{name}"] = self._metric(name, value, "valid")
        for split in names:
            with self.machine.shared(), self.clocks.phase("evaluation"):
                scores = evaluate(self.training.model, self.task, "test", self.spec, self.ranks)
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
        if self.ranks.first:
            self.measures |= self._unless_asked(future_leak, {})
            for name, probe in _PROBES.items():
                found = self._unless_asked(probe, None)
                if found:
                    self.probes[name] = found
        self.measures |= as_trained(model, self.task, self.spec, self.ranks)
        self.ranks.stop(self.interrupt)
        self.measures |= step_measures(self.training, self.machine)
        if self.ranks.size > 1:
            self.probes["ranks"] = self.ranks.gather({name: self._value(name) for name in _BY_RANK})

    def _unless_asked(self, probe: Callable[[LanguageModel, Task, Spec], Any], otherwise: Any) -> Any:
        """The probe's answer; what several ranks were asked meanwhile, they hear together when the first is through."""
        if self.interrupt.asked is not None:
            return otherwise
        assert self.training is not None
        with self.machine.shared():
            return probe(self.training.model, self.task, self.spec)

    def _value(self, name: str) -> float | None:
        measure = self.measures.get(name)
        return None if measure is None else measure.value

    def read_meters(self, beside: int) -> dict[str, Measure]:
        """The clocks, and what the solvers did where a failure kept it from being read."""
        by = f"{beside} runs side by side" if beside > 1 else self.contended
        measures = {name: _contended(measure, by) for name, measure in self.clocks.read().items()}
        if self.telemetry is not None and "solver_bytes" not in self.measures:
            measures |= self.telemetry.read()
        return measures


def _contended(measure: Measure, by: str | None) -> Measure:
    """A wall clock that other work ran beside is no timing: null; its method says what it showed."""
    if by is None or measure.value is None:
        return measure
    method = f"{measure.method}; {by}, the clock then said {measure.value:.4g} s"
    return measure.model_copy(update={"value": None, "why": CONTENDED, "method": method})


def _over_attempts(measures: Mapping[str, Measure], before: Mapping[str, float | None]) -> dict[str, Measure]:
    """Peaks are the largest over the attempts whose work was kept; what is summed or averaged over a window is null."""
    found = {}
    for name, past in before.items():
        measure = measures[name]
        if name.endswith("_peak_bytes") or name.startswith("nvml_"):
            values = [value for value in (past, measure.value) if value is not None]
            if values:
                update = {
                    "value": max(values),
                    "why": None,
                    "method": f"{measure.method}; largest over the attempts of a resumed run",
                }
                found[name] = measure.model_copy(update=update)
        elif measure.value is not None:
            found[name] = measure.model_copy(update={"value": None, "why": "the run was resumed: its window has a gap"})
    return found
