"""Quantities that are the same on every machine: no clock, every random number seeded, solves in float64 or of fixed length.

A count is named `subject / quantity`. In a training step every solve runs to its cap, since in float32 the last bit decides where a
solve stops; evaluations per solve are counted in float64, on fixed problems.
"""

import dataclasses
import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from bench.execution.plan import Plan
from bench.instruments.flops import flops
from bench.instruments.operators import operations
from bench.instruments.probes import peak_live_bytes, saved_bytes
from bench.records.spec import RunSpec
from bench.tasks.task import Split, Task, derive_seed
from bench.training.language_model import LanguageModel, build_model
from bench.training.trainer import loss_of, make_optimiser, training_step
from deq import CELLS, DEQ, SOLVERS, Implicit, Map, Stop, StoppedAdjoint, solve
from deq.solve import force_device_path

_RTOLS = (1e-3, 1e-6, 1e-9)
_CAP = 200
_LATE = (16, 24)  # solver steps: their difference is the cost of steps whose history is full
_AVERAGED = 5  # losses
_GOAL = 0.6  # of the first loss
_MAX_STEPS = 200


class Quantity(BaseModel):
    """A counted quantity, and how far a later count may differ from it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: int | str | None
    unit: str
    tolerance: int = 0


def count(plan: Plan, *, solvers: bool = True) -> dict[str, Quantity]:
    """The counts of every model and task of a plan; with `solvers`, of the library's solvers on fixed problems too.

    A group "gate copy" of the task copy is called "gate".
    """
    found: dict[str, Quantity] = {}
    for spec in {(spec.group, spec.label): spec for spec in plan.specs()}.values():
        task, group = plan.task(spec.task), spec.group.removesuffix(f" {spec.task.name}")
        subject = f"{group}, {spec.label}"
        found |= {f"{subject} / {name}": one for name, one in _model_counts(spec, task).items()}
        found |= {f"{subject} / {name}, float64": one for name, one in _training_counts(spec, task).items()}
        found[f"{spec.task.name}, {group} / data"] = _data(task, spec)
    return found | (solver_counts() if solvers else {})


def _model_counts(spec: RunSpec, task: Task) -> dict[str, Quantity]:
    """Counts of one training step; a step before it creates the optimiser's state."""
    model = _build(spec, task)
    for part in model.modules():
        if isinstance(part, DEQ):  # every solve runs to its cap
            part.stop = dataclasses.replace(part.stop, rtol=None)
            if isinstance(part.adjoint, StoppedAdjoint):
                part.adjoint = dataclasses.replace(part.adjoint, stop=dataclasses.replace(part.adjoint.stop, rtol=None))
    optimiser, _ = make_optimiser(model, spec.train)
    inputs, targets = next(task.batches("train", spec.train.batch, spec.seed))
    step = partial(training_step, model, optimiser, spec.train.clip, inputs, targets)
    step()
    held = [*model.parameters(), *model.buffers(), inputs, targets]
    saved = saved_bytes(lambda: loss_of(model, inputs, targets).total, held)
    optimiser.zero_grad(set_to_none=True)
    held += [value for state in optimiser.state.values() for value in state.values() if isinstance(value, Tensor)]
    peak = peak_live_bytes(step, held).peak
    optimiser.zero_grad(set_to_none=True)
    with force_device_path():
        syncs = operations(step).syncs
    return {
        "parameters": Quantity(value=sum(p.numel() for p in model.parameters() if p.requires_grad), unit="1"),
        "saved for backward": Quantity(value=saved, unit="B"),
        "peak live": Quantity(value=peak, unit="B"),
        "FLOPs a step": Quantity(value=flops(step).total, unit="FLOP"),
        "operators a step": Quantity(value=operations(step).operators, unit="1"),
        "host syncs a step": Quantity(value=syncs, unit="1"),
    }


def _build(spec: RunSpec, task: Task) -> LanguageModel:
    torch.manual_seed(derive_seed("model", spec.seed))
    model = build_model(spec.model, task.vocabulary)
    torch.manual_seed(derive_seed("training", spec.seed))
    return model


def _training_counts(spec: RunSpec, task: Task) -> dict[str, Quantity]:
    """Training steps until the mean of the last losses is a share of the first, and the evaluations of the last step's solves.

    In float64 rounding changes neither by more than one.
    """
    losses: list[float] = []
    evaluations: Counter[str] = Counter()
    steps = None
    with float64():
        model = _build(spec, task)
        for part in model.modules():
            if isinstance(part, DEQ):
                part.watch(lambda phase, solution: evaluations.update({phase: solution.nfe}))
        optimiser, schedule = make_optimiser(model, spec.train.model_copy(update={"steps": 10 * _MAX_STEPS}))
        for inputs, targets in task.batches("train", spec.train.batch, spec.seed):
            evaluations.clear()
            losses.append(training_step(model, optimiser, spec.train.clip, inputs, targets)[0].item())
            schedule.step()
            if len(losses) >= _AVERAGED and sum(losses[-_AVERAGED:]) / _AVERAGED <= _GOAL * losses[0]:
                steps = len(losses)
                break
            if len(losses) == _MAX_STEPS or not math.isfinite(losses[-1]):
                break
    found = {f"steps to {_GOAL:g} of the first loss": Quantity(value=steps, unit="steps", tolerance=int(steps is not None))}
    return found | {
        f"{phase} evaluations of the last step": Quantity(value=nfe, unit="1", tolerance=1) for phase, nfe in evaluations.items()
    }


@contextmanager
def float64() -> Iterator[None]:
    """Make float64 the default dtype inside; dtype and number of threads are restored."""
    before, threads = torch.get_default_dtype(), torch.get_num_threads()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
        torch.set_num_threads(threads)


def _data(task: Task, spec: RunSpec) -> Quantity:
    """A digest of the data's fingerprint, the first training batch and the first test batch."""
    digest = hashlib.sha256(task.fingerprint().encode())
    splits: tuple[Split, ...] = ("train", "test")
    for split in splits:
        for part in next(task.batches(split, spec.train.batch, spec.seed)):
            digest.update(part.numpy().tobytes())
    return Quantity(value=digest.hexdigest()[:16], unit="SHA-256")


def solver_counts() -> dict[str, Quantity]:
    """Evaluations to each tolerance in float64, forward and backward, and operators and host syncs of late solver steps."""
    found: dict[str, Quantity] = {}
    with float64():
        for problem, make in PROBLEMS.items():
            for name, solver in SOLVERS.items():
                for rtol in _RTOLS:
                    for phase, nfe in _evaluations(make, solver(), Stop(rtol=rtol, max_steps=_CAP)).items():
                        found[f"solve {problem}, {name} / {phase} evaluations to {rtol:g}, float64"] = Quantity(value=nfe, unit="1")
        for name, solver in SOLVERS.items():
            early, late = (operations(partial(_solve, solver(), steps)).operators for steps in _LATE)
            with force_device_path():
                early_syncs, late_syncs = (operations(partial(_solve, solver(), steps)).syncs for steps in _LATE)
            subject = f"{name}, {_LATE[1] - _LATE[0]} late steps"
            found[f"{subject} / operators"] = Quantity(value=late - early, unit="1")
            found[f"{subject} / host syncs"] = Quantity(value=late_syncs - early_syncs, unit="1")
    return found


def _evaluations(make: Callable[[], tuple[Map, Tensor]], solver: Any, stop: Stop) -> dict[str, int]:
    f, z0 = make()
    counted: dict[str, int] = {}
    y = Implicit(solver=solver, stop=stop)(f, z0, solver, stop, lambda phase, solution: counted.update({phase: solution.nfe}))
    y.sin().sum().backward()
    return counted


def _solve(solver: Any, steps: int) -> None:
    f, z0 = PROBLEMS["contraction"]()
    solve(lambda z: f(z).detach(), z0, solver, Stop(rtol=1e-300, max_steps=steps))


def _contraction() -> tuple[Map, Tensor]:
    """tanh(W z) + x, the norm of W 0.9, (8, 32)."""
    random = torch.Generator().manual_seed(derive_seed("gate", "contraction"))
    weight = torch.randn(32, 32, generator=random)
    weight = (0.9 / torch.linalg.matrix_norm(weight, 2) * weight).requires_grad_()
    x = 0.1 * torch.randn(8, 32, generator=random)  # small: tanh is nearly linear, and W's norm decides
    return (lambda z: torch.tanh(z @ weight.T) + x), torch.zeros_like(x)


def _block() -> tuple[Map, Tensor]:
    """A Transformer-XL cell of width 16 over 16 positions, (4, 16, 16)."""
    torch.manual_seed(derive_seed("gate", "block"))
    cell = CELLS["transformer-xl"](width=16, heads=2)
    x = torch.randn(4, 16, 16)
    return cell.bind(x), cell.initial_state(x)


PROBLEMS: dict[str, Callable[[], tuple[Map, Tensor]]] = {"contraction": _contraction, "block": _block}
