"""Execute one run: build, train, evaluate and probe a model, and return its Record."""

import datetime
import traceback
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from bench.instruments.contention import CONTENDED
from bench.instruments.environment import environment, use_float32
from bench.records.errors import CodeError, UserError, failure, one_line, out_of_memory, shortened
from bench.records.identity import Identity, code_here, project_code
from bench.records.record import Measure, Record, RunStatus, measured
from bench.records.source_code import line_of_user
from bench.records.spec import RunSpec
from bench.tasks.task import Task, derive_seed
from bench.training.causality import causality
from bench.training.checkpoint import Interrupted
from bench.training.context import RunControl, TrainingContext, make_context
from bench.training.evaluation import evaluate
from bench.training.final_probes import (
    as_trained,
    gradient_by_beta,
    memory_by_depth,
    parameters,
    residual_by_nfe,
    step_measures,
)
from bench.training.language_model import LanguageModel, build_model
from bench.training.memory_limit import free_device_memory, lift_memory_limit
from bench.training.registry import build_task
from bench.training.run_identity import compute_identity
from bench.training.trainer import Diverged, Trainer

_ODE_FAILURES = ("non-finite values in state", "underflow in dt")  # torchdiffeq's assertions
_PROBES = {"residual_by_nfe": residual_by_nfe, "gradient_by_beta": gradient_by_beta, "depth": memory_by_depth}
_BY_RANK = (
    *("train_forward_nfe_mean", "train_backward_nfe_mean", "train_residual_p95"),
    *("saved_bytes", "peak_live_bytes", "solver_bytes"),
)


def run(
    spec: RunSpec,
    *,
    suite: str,
    data: Mapping[str, Path] | None = None,
    concurrent_runs: int = 1,
    identity: Identity | None = None,
    verify: bool = False,
    control: RunControl | None = None,
) -> Record:
    """Execute a spec and return its Record, also where the run fails; UserError for an invalid spec.

    With several `concurrent_runs` on the machine, wall clocks are contended and None. `identity` is computed unless given; with
    `verify`, a run whose data or code here do not match the given identity is refused. With a checkpoint of this run in `control`,
    the run resumes from there; an interrupt ends it with its state saved.
    """
    if spec.device == "cuda" and not torch.cuda.is_available():
        raise UserError("device cuda: torch sees no CUDA device here")
    torch.set_num_threads(spec.threads)
    use_float32()
    task = build_task(spec.task, data or {})
    if spec.train.carry and not task.streams:
        raise UserError(f"carry: the batches of task {spec.task.name!r} do not continue one another")
    context = make_context(spec, task, control, concurrent_runs)
    identity = identity or compute_identity(spec, task, environment(spec.device, spec.threads))
    execution = _Execution(context)
    status, reason = execution.run(identity if verify else None)
    if status == "oom":
        lift_memory_limit()
        free_device_memory()
    return Record(
        run_id=identity.run_id(spec.key),
        suite=suite,
        spec=spec,
        identity=identity,
        status=status,
        reason=reason,
        elapsed_s=context.clocks.total(),
        headline=task.headline,
        metrics=dict(task.metrics),
        curve=execution.trainer.curve if execution.trainer else [],
        measures=execution.measures | execution.read_clocks(),
        probes=execution.probes,
        provenance={
            "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "runs_side_by_side": concurrent_runs,
            "checkpoint": context.checkpoint.problem,
            "checkpoint_step": context.checkpoint.step,
            "code": dict(project_code()),
            **({"traceback": execution.traceback} if execution.traceback else {}),
        },
        environment=environment(spec.device, spec.threads),
    )


class _Changed(UserError):
    """The data or code differ from those that the run's id was computed from."""


class _Execution:
    """Build, train, evaluate and probe; what was measured before a failure is kept."""

    def __init__(self, context: TrainingContext) -> None:
        self.context, self.spec, self.task = context, context.spec, context.task
        self.trainer: Trainer | None = None
        self.measures: dict[str, Measure] = {}
        self.probes: dict[str, Any] = {}
        self.traceback: str | None = None
        self._contended = context.sharing  # why the clocks are unreliable, or None

    def run(self, expected: Identity | None) -> tuple[RunStatus, str | None]:
        """The status and, for a failure, the reason. `expected` holds the digests of data and code to verify."""
        interrupt, ranks = self.context.interrupt, self.context.ranks
        try:
            with interrupt.deferred(raising=False) if ranks.size > 1 else nullcontext():
                if expected is not None:
                    self._verify(expected)
                self.context.host.start()
                trainer = self.trainer = self._resume() or self._build()
                self._train(trainer)
                ranks.raise_if_interrupted(interrupt)
                self._evaluate(trainer)
                ranks.raise_if_interrupted(interrupt)
                if self.spec.role == "final":
                    with self.context.clocks.phase("probe"):
                        self._probe(trainer)
        except Interrupted as request:
            return request.status, str(request)  # type: ignore[return-value]
        except Diverged as error:
            return "diverged", str(error)
        except Exception as error:
            if isinstance(error, UserError) and not isinstance(error, (CodeError, _Changed)) and out_of_memory(error) is None:
                raise
            if any(message in str(error) for message in _ODE_FAILURES):
                return "diverged", one_line(f"the ODE solver gave up: {error}")
            status, reason = failure(error)
            if status == "crashed":
                self.traceback = shortened("".join(traceback.format_exception(error)))
            place = line_of_user(error)
            return status, reason if place is None else f"{reason} ({place})"
        return "ok", None

    def _verify(self, expected: Identity) -> None:
        code = code_here(expected.code)
        here = expected.model_copy(update={"data": self.task.fingerprint(), "code": code})
        if self.context.ranks.any(here != expected):
            changed = "; ".join(expected.differs(here)) or "what another process of this run has imported"
            raise _Changed(f"refused: {changed} changed after the run's id was computed; run the suite again")

    def _resume(self) -> Trainer | None:
        """The trainer with its checkpoint's state; None without a checkpoint or where it does not fit in every rank."""
        checkpoint, ranks = self.context.checkpoint, self.context.ranks
        state, trainer = checkpoint.load(), None
        if not ranks.any(state is None):
            try:
                trainer = self._build(state)
            except Exception as error:  # a checkpoint of another model can raise anything
                if out_of_memory(error) is not None:
                    raise
        if ranks.any(trainer is None):
            if state is not None:
                checkpoint.discard("does not fit this run")
            return None
        return trainer

    def _build(self, state: dict[str, Any] | None = None) -> Trainer:
        """The model and its trainer, at the first step or with a checkpoint's state."""
        spec, rank = self.spec, self.context.ranks.rank
        with self.context.clocks.phase("build"):
            torch.manual_seed(derive_seed("model", spec.seed))
            model = build_model(spec.model, self.task.vocabulary).to(spec.device)
        self.measures |= parameters(model)
        trainer = Trainer(model, self.context)
        torch.manual_seed(derive_seed("training", spec.seed, *([rank] if rank else [])))
        if state is not None:
            trainer.restore(state)
        return trainer

    def _train(self, trainer: Trainer) -> None:
        context = self.context
        context.cuda.start()
        context.nvml.start()
        context.contention.start()
        finished = False
        try:
            trainer.run()
            finished = True
        finally:
            with context.interrupt.deferred():
                self._contended = trainer.contended or context.why_contended(local=not finished)  # another rank may have failed
                self.measures |= trainer.read_peaks()  # before the probes, which allocate memory
                if finished and context.ranks.size > 1:
                    self.measures |= context.energy_of_ranks(self.measures)
                if finished:
                    trainer.save()  # before the probes, which run steps

    def _evaluate(self, trainer: Trainer) -> None:
        stats = trainer.solver_stats
        stats.mode = "evaluation"
        self._add_scores("valid", trainer.curve[-1].valid)
        if self.spec.role == "final":
            with self.context.machine.shared(), self.context.clocks.phase("evaluation"):
                scores = evaluate(trainer.model, self.task, "test", self.spec, self.context.ranks)
            self._add_scores("test", scores)
        self.measures |= stats.read()
        stats.close()

    def _add_scores(self, split: str, scores: Mapping[str, float]) -> None:
        for name, value in scores.items():
            metric = self.task.metrics.get(name)
            method = "mean over the split, model in evaluation mode"
            self.measures[f"{split}_{name}"] = measured(value, metric.unit if metric else "1", method, f"{split} split")

    def _probe(self, trainer: Trainer) -> None:
        model, ranks = trainer.model, self.context.ranks
        if ranks.first:
            self.measures |= self._probe_unless_interrupted(causality, model) or {}
            for name, probe in _PROBES.items():
                found = self._probe_unless_interrupted(probe, model)
                if found:
                    self.probes[name] = found
        with self.context.machine.shared():
            self.measures |= as_trained(model, self.task, self.spec, ranks)
        ranks.raise_if_interrupted(self.context.interrupt)
        self.measures |= step_measures(trainer)
        if ranks.size > 1:
            values = {name: None if (found := self.measures.get(name)) is None else found.value for name in _BY_RANK}
            self.probes["ranks"] = ranks.gather(values)

    def _probe_unless_interrupted(self, probe: Callable[[LanguageModel, Task, RunSpec], Any], model: LanguageModel) -> Any:
        """The probe's result; None after a request to stop, which all ranks then raise in the same place."""
        if self.context.interrupt.asked is not None:
            return None
        with self.context.machine.shared():
            return probe(model, self.task, self.spec)

    def read_clocks(self) -> dict[str, Measure]:
        """The clocks, None where other work ran on the machine, and after a failure the solver statistics."""
        measures = self.context.clocks.read()
        for name, measure in measures.items():
            if self._contended is not None and measure.value is not None:
                method = f"{measure.method}; {self._contended}, the clock then read {measure.value:.4g} s"
                measures[name] = measure.model_copy(update={"value": None, "reason": CONTENDED, "method": method})
        if self.trainer is not None and "solver_bytes" not in self.measures:
            measures |= self.trainer.solver_stats.read()
        return measures
