"""Probe a trained model: memory, FLOPs and time of a training step, memory by depth, convergence."""

import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from baselines import NeuralODE, TrellisNet, Unrolled
from bench.instruments.contention import CONTENDED, Contention
from bench.instruments.flops import flops
from bench.instruments.nvml import Nvml
from bench.instruments.probes import peak_live_bytes, saved_bytes, step_times
from bench.records.record import Measure, measured
from bench.records.spec import RunSpec
from bench.tasks.task import Split, Task
from bench.training.distributed import Ranks
from bench.training.evaluation import evaluate
from bench.training.language_model import LanguageModel
from bench.training.trainer import Trainer, loss_of, training_step
from deq import DEQ, SOLVERS, Adjoint, Broyden, Core, EquilibriumPropagation, Implicit, Picard, Solver, Stop, solve

T = TypeVar("T")
_PROBED = 64  # test sequences in a probe, at most
_STEP = "one training step on the first training batch, after training"
_CARRIED = ", with the memory that this batch leaves"
_TIMED_STEPS = 20
_TIMINGS = 3
_RESIDUAL_STEPS = 60
_BETAS = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)


def first_batch(split: Split, task: Task, spec: RunSpec) -> tuple[Tensor, Tensor]:
    """The first inputs and targets of a split, on the run's device."""
    size, seed = (spec.train.batch, spec.seed) if split == "train" else (min(spec.train.evaluation_batch, _PROBED), 0)
    inputs, targets = next(task.batches(split, size, seed))
    return inputs.to(spec.device), targets.to(spec.device)


def parameters(model: LanguageModel) -> dict[str, Measure]:
    """Trainable numbers of the whole model, and without the embedding; the output layer is in both."""
    total = sum(p.numel() for p in model.parameters() if p.requires_grad)
    embedding = sum(p.numel() for p in model.embedding.parameters() if p.requires_grad)
    scope = "whole model"
    return {
        "parameters_total": measured(total, "1", "trainable numbers", scope),
        "parameters_nonembedding": measured(total - embedding, "1", "trainable numbers without the input embedding", scope),
    }


def step_measures(trainer: Trainer) -> dict[str, Measure]:
    """Bytes, FLOPs and milliseconds of one training step, with the Jacobian penalty of a recipe.

    Where training carries a memory, the step has one too. Runs steps at learning rate zero, which leave the model unchanged.
    """
    model, optimiser, spec = trainer.model, trainer.optimiser, trainer.spec
    inputs, targets = (trainer.ranks.share(part) for part in first_batch("train", trainer.context.task, spec))
    trainer.recipe.force_penalty()
    for group in optimiser.param_groups:
        group["lr"], group["weight_decay"] = 0.0, 0.0
    model.train()
    memory = _with_seed(spec, trainer.memory_of_first_batch) if spec.train.carry else None
    carried = [leaf for leaf in tree_leaves(memory) if isinstance(leaf, Tensor)]
    fixed = [*model.parameters(), *model.buffers(), inputs, targets, *carried]

    def step() -> None:
        training_step(model, optimiser, spec.train.clip, inputs, targets, memory, trainer.loss)

    def forward() -> Tensor:
        return loss_of(model, inputs, targets, memory, trainer.recipe.auxiliary).total

    def alike(work: Callable[[], T]) -> Callable[[], T]:
        return partial(_with_seed, spec, work)

    with trainer.context.machine.shared():
        saved = saved_bytes(alike(forward), fixed)
        optimiser.zero_grad(set_to_none=True)
        states = [value for state in optimiser.state.values() for value in state.values() if isinstance(value, Tensor)]
        peak = peak_live_bytes(alike(step), [*fixed, *states])
        optimiser.zero_grad(set_to_none=True)
        counted = flops(alike(step))
        with torch.no_grad():
            forward_only = flops(alike(forward))
    timings = _timings(trainer, step, inputs.numel())
    optimiser.zero_grad(set_to_none=True)
    formula, of = "operators counted by formula: matrix products and dense solves, 2 a multiply-add", _STEP
    of += _CARRIED if spec.train.carry else ""
    return {
        "saved_bytes": measured(saved, "B", "unique storages autograd saved for backward, parameters and batch excluded", of),
        "peak_live_bytes": measured(peak.peak, "B", "largest sum of live tensor storages, every allocation followed", of),
        "held_bytes": measured(peak.held, "B", "parameters, optimiser state and batch, alive throughout", of),
        "train_step_flops": measured(counted.total, "FLOP", formula, of, counted.reason),
        "forward_flops": measured(forward_only.total, "FLOP", f"{formula}; training mode, no gradients", of, forward_only.reason),
    } | timings


def _with_seed(spec: RunSpec, work: Callable[[], T]) -> T:
    """What `work` returns with the random draws of the run's seed: a looped network's depth is the same in all counts."""
    with torch.random.fork_rng([] if spec.device == "cpu" else None):
        torch.manual_seed(spec.seed)
        return work()


def _timings(trainer: Trainer, step: Callable[[], None], tokens: int) -> dict[str, Measure]:
    """Milliseconds of a step and tokens a second, under the exclusive machine lock; None where other work ran anyway."""
    spec, machine = trainer.spec, trainer.context.machine
    with machine.exclusive():
        times, contended = _uncontended_times(step, spec, trainer.ranks, trainer.context.nvml)
    lock = "the machine to itself" if machine.can_exclude else "other runs not kept out"
    batch = "one batch" + (_CARRIED if spec.train.carry else "")
    scope = f"{_TIMED_STEPS} steps on {batch} after training, {lock}, {spec.threads} thread(s)"
    deciles = statistics.quantiles(times, n=10)
    median = statistics.median(times)

    def timing(value: float, unit: str, method: str) -> Measure:
        method += f"; {contended}, median then {1e3 * median:.4g} ms" if contended else ""
        return measured(None if contended else value, unit, method, scope, CONTENDED if contended else None)

    return {
        "step_ms_median": timing(1e3 * median, "ms", "median step"),
        "step_ms_p10": timing(1e3 * deciles[0], "ms", "10th percentile of steps"),
        "step_ms_p90": timing(1e3 * deciles[-1], "ms", "90th percentile of steps"),
        "tokens_per_s": timing(trainer.ranks.size * tokens / median, "tokens/s", "tokens of a batch over the median step"),
    }


def _uncontended_times(step: Callable[[], None], spec: RunSpec, ranks: Ranks, nvml: Nvml) -> tuple[list[float], str | None]:
    """Seconds of each step, and why they are unreliable or None. A contended timing is repeated, up to `_TIMINGS` times.

    Each step needs all ranks: they start once the first holds the lock, and it decides whether to repeat.
    """
    for _ in range(_TIMINGS):
        ranks.any(False)  # wait for all ranks
        contention, since_us = Contention(spec.threads * ranks.size, sum_ranks=ranks.total), time.time_ns() // 1000
        times = step_times(step, _TIMED_STEPS, 2, spec.device)
        reason = contention.read() or nvml.busy_others(since_us)
        if not ranks.broadcast_flag(reason is not None):
            break
    return times, reason


def as_trained(model: LanguageModel, task: Task, spec: RunSpec, ranks: Ranks | None = None) -> dict[str, Measure]:
    """The test headline with the solver stops of training, where those of evaluation differ."""
    stops = {module: module.evaluation_stop for module in model.modules() if isinstance(module, DEQ)}
    if all(layer.stop == stop for layer, stop in stops.items()):
        return {}
    for layer in stops:
        layer.evaluation_stop = layer.stop
    try:
        value = evaluate(model, task, "test", spec, ranks)[task.headline]
    finally:
        for layer, stop in stops.items():
            layer.evaluation_stop = stop
    unit = task.metrics[task.headline].unit
    scope = "test split, the training's stops"
    return {f"test_{task.headline}_as_trained": measured(value, unit, "mean over the split, model in evaluation mode", scope)}


def _at_depth(core: Core, depth: int) -> dict[str, Core]:
    """The core at another depth, by name of the method; of a DEQ in so many steps of each solver that its adjoint takes."""
    if isinstance(core, DEQ):
        layers: dict[str, Core] = {}
        stop = Stop(rtol=None, max_steps=depth)
        for name, make in SOLVERS.items():
            solver: Solver = Broyden(window=max(2, depth)) if make is Broyden else make()
            try:
                core.adjoint.check(solver, stop)
            except (TypeError, ValueError):
                continue
            layers[f"DEQ, {name}"] = DEQ(core.cell, solver=solver, stop=stop, adjoint=_adjoint_at(core.adjoint, solver, stop))
        return layers
    if isinstance(core, TrellisNet):
        return {_checkpointed("TrellisNet", core): core.at_depth(depth)} if core.injection == "tied" else {}
    if isinstance(core, Unrolled):
        return {_checkpointed("tied", core): Unrolled(core.cell, depth=depth, checkpointing=core.checkpointing)}
    if isinstance(core, NeuralODE):
        step, time = core.time / depth, core.time
        return {"Neural ODE, Euler": NeuralODE(core.cell, time=time, method="euler", step_size=step, adjoint=core.adjoint)}
    return {}


def _adjoint_at(adjoint: Adjoint, solver: Solver, stop: Stop) -> Adjoint:
    """The adjoint with this solver and stop in its backward pass, where it has one."""
    if not is_dataclass(adjoint):
        return adjoint
    own = {"solver": solver, "stop": stop}
    return replace(adjoint, **{field.name: own[field.name] for field in fields(adjoint) if field.name in own})


def _checkpointed(name: str, core: Unrolled | TrellisNet) -> str:
    return name + {"none": "", "every": ", checkpoint every step", "sqrt": ", checkpoint sqrt"}[core.checkpointing]


def memory_by_depth(model: LanguageModel, task: Task, spec: RunSpec) -> list[dict[str, Any]]:
    """Saved, peak live and solver bytes of a training step at each of `spec.depths`; of a DEQ with each solver, steps = depth."""
    rows = []
    inputs, targets = first_batch("train", task, spec)
    own = model.core
    exclude = [*model.parameters(), *model.buffers(), inputs, targets]
    try:
        for depth in spec.depths:
            for method, core in _at_depth(own, depth).items():
                model.core = core.train()
                rows.append({"method": method, "depth": depth} | _bytes(model, inputs, targets, exclude))
    finally:
        model.core = own
    return rows


def _bytes(model: LanguageModel, inputs: Tensor, targets: Tensor, exclude: list[Tensor]) -> dict[str, Any]:
    largest = 0

    def note(phase: str, solution: Any) -> None:
        nonlocal largest
        largest = max(largest, solution.solver_bytes)

    if isinstance(model.core, DEQ):
        model.core.watch(note)

    def forward() -> Tensor:
        return loss_of(model, inputs, targets).total

    saved = saved_bytes(forward, exclude)
    model.zero_grad(set_to_none=True)
    peak = peak_live_bytes(lambda: forward().backward(), exclude)
    model.zero_grad(set_to_none=True)
    return {"saved_bytes": saved, "peak_live_bytes": peak.peak, "solver_bytes": largest if isinstance(model.core, DEQ) else None}


@torch.no_grad()
def residual_by_nfe(model: LanguageModel, task: Task, spec: RunSpec) -> dict[str, list[list[float]]]:
    """Relative residual by evaluations of f on the first test batch, as [nfe, p50, p95]: of a DEQ with each solver, of a
    weight-tied network by its own iteration. Steps with a value that is not finite are left out."""
    core = model.core
    if not isinstance(core, (DEQ, Unrolled)) or (isinstance(core, TrellisNet) and core.injection != "tied"):
        return {}
    model.eval()
    inputs, _ = first_batch("test", task, spec)
    x = model.embed(inputs)
    f, z0 = core.cell.bind(x), core.cell.initial_state(x)
    solvers: dict[str, Solver] = (
        {name: make() for name, make in SOLVERS.items()} if isinstance(core, DEQ) else {"tied iteration": Picard()}
    )
    curves: dict[str, list[list[float]]] = {}
    for name, solver in solvers.items():
        solution = solve(f, z0, solver, Stop(rtol=None, max_steps=_RESIDUAL_STEPS))
        size = f(solution.z).flatten(1).norm(dim=1)  # gap / residual would be 0 / 0 at an exact fixed point
        relative = (solution.gaps / size).double().cpu()
        curves[name] = [
            [step + 1, *row.quantile(torch.tensor([0.5, 0.95], dtype=torch.float64)).tolist()]
            for step, row in enumerate(relative)
            if torch.isfinite(row).all()
        ]
    model.train()
    return curves


def gradient_by_beta(model: LanguageModel, task: Task, spec: RunSpec) -> list[dict[str, Any]]:
    """Compare equilibrium propagation's gradient of the whole model with the implicit one, on the first training batch.

    Gives 1 - cosine and relative distance at each beta, symmetric and one-sided. Solves in float64 to 1e-10, so that only the bias
    of equilibrium propagation remains.
    """
    own = model.core
    if not isinstance(own, DEQ) or not isinstance(own.adjoint, EquilibriumPropagation):
        return []
    exact = copy.deepcopy(model).double().train()
    inputs, targets = first_batch("train", task, spec)
    stop = Stop(rtol=1e-10, max_steps=1000)
    cell = copy.deepcopy(own.cell).double()

    def gradient(adjoint: EquilibriumPropagation | Implicit) -> Tensor:
        exact.core = DEQ(cell, solver=own.solver, stop=stop, adjoint=adjoint)
        wanted = torch.autograd.grad(loss_of(exact, inputs, targets).total, list(exact.parameters()))
        return torch.cat([part.flatten() for part in wanted])

    expected, rows = gradient(Implicit(solver=own.solver, stop=stop)), []
    for symmetric in (True, False):
        for beta in _BETAS:
            got = gradient(EquilibriumPropagation(beta=beta, symmetric=symmetric, solver=own.solver, stop=stop))
            off = 1 - torch.nn.functional.cosine_similarity(got, expected, dim=0)
            distance = (got - expected).norm() / expected.norm()
            rows.append({"symmetric": symmetric, "beta": beta, "one_less_cosine": off.item(), "distance": distance.item()})
    return rows
