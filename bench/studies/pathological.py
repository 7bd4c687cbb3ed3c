"""Statuses of solves and trainings without a fixed point, or with an unstable one: no failure may go unreported."""

from typing import Any

import torch
from torch import Tensor

from bench.records.spec import ComponentConfig, RunSpec, Settings
from bench.studies.config import COMPARED, Config
from bench.studies.models import Models
from bench.studies.study import PlannedRow, Study, Values, number
from deq import CELLS, Cell, Map, Solver, Status, Stop, solve

_SAMPLES, _NUMBERS, _LENGTH = 16, 8, 20
_GAIN = 1.1


class Drifting(Cell):
    """f(z) = z + softplus(U x) + 1: without a fixed point at any weights."""

    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.width = width
        self.inject = torch.nn.Linear(width, width)

    def bind(self, x: Tensor, memory: Any = None) -> Map:
        """Translation by a function of the features x (B, T, D)."""
        drift = torch.nn.functional.softplus(self.inject(x)) + 1
        return lambda z: z + drift


def translation(z: Tensor) -> Tensor:
    """z + 1: without a fixed point; as z grows the gap gets relatively small."""
    return z + 1


def rootless(z: Tensor) -> Tensor:
    """z + sqrt(1 + z^2): without a fixed point; the gap vanishes as z goes to minus infinity."""
    return z + torch.sqrt(1 + z * z)


def unstable_rotation(z: Tensor) -> Tensor:
    """Rotation of each pair of numbers by one radian about the point 1, times a gain above one: the point is an unstable root."""
    angle = torch.tensor(1.0, dtype=z.dtype)
    turn = _GAIN * torch.stack((torch.stack((angle.cos(), -angle.sin())), torch.stack((angle.sin(), angle.cos()))))
    return ((z - 1).unflatten(-1, (-1, 2)) @ turn.mT).flatten(-2) + 1


def jumping(z: Tensor) -> Tensor:
    """1 below one half and 0 above: discontinuous, without a fixed point."""
    return (z < 0.5).to(z.dtype)


MAPS: dict[str, tuple[Map, bool]] = {  # with whether the map has a root
    "translation": (translation, False),
    "rootless": (rootless, False),
    "rotation, gain 1.1": (unstable_rotation, True),
    "jumping": (jumping, False),
}
LARGE_CELLS = {"transformer-xl, N(0, 1)": "transformer-xl", "trellis, N(0, 1)": "trellis"}
_TRAINED: dict[str, Settings] = {
    **{label: {"cell": cell, "cell.initial_std": 1.0} for label, cell in LARGE_CELLS.items()},
    "no fixed point": {"cell": f"{__name__}:Drifting"},
}
_MEASURES = (
    *("train_converged_fraction", "train_backward_converged_fraction", "train_residual_p50", "train_residual_max"),
    *("train_backward_residual_p50", "train_backward_residual_max"),
)


def studies(config: Config) -> tuple[Study, Study]:
    """Solves of such maps, and trainings of such cells."""
    case, stop = config.cases[0], Stop(rtol=config.rtol, max_steps=config.most)
    sizes = {"samples": _SAMPLES, "numbers": _NUMBERS, "length": _LENGTH}
    return (
        Study(
            name="hostile",
            measure=measure,
            units={"CONVERGED": "samples", "residual": "1", "silent": "samples", "grown": "samples"},
            settings={"rtol": config.rtol, "cap": config.most, **sizes},
            rows=tuple(
                PlannedRow({"map": name, "seed": seed}, (), (name, seed, config.width, stop))
                for name in (*MAPS, *LARGE_CELLS)
                for seed in config.pathological_seeds
            ),
        ),
        Study(
            name="hostile training",
            measure=measure_training,
            units={"train_converged_fraction": "fraction", "train_residual_max": "1"},
            settings={"steps": config.pathological_steps, "rtol": config.rtol, "cap": config.cap, "task": case.label},
            rows=tuple(
                PlannedRow({"model": label, "seed": seed}, (_spec(config, label, seed),))
                for label in _TRAINED
                for seed in config.pathological_seeds
            ),
        ),
    )


def _spec(config: Config, label: str, seed: int) -> RunSpec:
    model = ComponentConfig(name="deq", settings={"width": config.width, **config.solves, **_TRAINED[label]})
    spec = config.spec(config.cases[0], label, seed, model)
    train = spec.train.model_copy(update={"steps": config.pathological_steps, "warmup": 0, "evaluate_every": 0})
    return spec.model_copy(update={"train": train})


@torch.no_grad()
def measure(models: Models, name: str, seed: int, width: int, stop: Stop) -> Values:
    """Samples by solver and Status, on maps without a fixed point or with an unstable one, and on cells with N(0, 1) weights;
    `residual`: the median, computed again in float64. `silent`: samples called CONVERGED whose residual, computed again, is above
    the tolerance. `grown`: samples called CONVERGED whose gap is not below half the first one: z has grown until the gap was
    relatively small."""
    torch.manual_seed(seed)
    if name in MAPS:
        f, z0 = MAPS[name][0], torch.randn(_SAMPLES, _NUMBERS)
    else:
        cell, x = CELLS[LARGE_CELLS[name]](width=width, initial_std=1.0), torch.randn(_SAMPLES, _LENGTH, width)
        f, z0 = cell.bind(x), cell.initial_state(x)
    found: Values = {solver: statuses(f, z0, make(), stop) for solver, make in COMPARED.items()}
    return found | {"root": MAPS[name][1] if name in MAPS else None}


@torch.no_grad()
def statuses(f: Map, z0: Tensor, solver: Solver, stop: Stop) -> Values:
    """Count the samples by Status, and those called CONVERGED that are not."""
    solution = solve(f, z0, solver, stop)
    z, fz = solution.z.double().flatten(1), f(solution.z).double().flatten(1)
    residual = (fz - z).norm(dim=1) / fz.norm(dim=1)
    assert stop.rtol is not None
    above = ~(residual < 1.001 * stop.rtol)  # float32 sums the norms in another order
    first = (f(z0) - z0).double().flatten(1).norm(dim=1)
    return {
        **{status.name: int((solution.status == status).sum()) for status in Status},
        "residual": number(residual.nan_to_num(torch.inf).median()),
        "silent": int((solution.converged & above).sum()),
        "grown": int((solution.converged & ~((fz - z).norm(dim=1) < first / 2)).sum()),
    }


def measure_training(models: Models, spec: RunSpec) -> Values:
    """The record of a training whose cell has too large weights (N(0, 1)) or no fixed point: its status, the shares of training
    solves that converged, their residuals."""
    record = models.record(spec)
    values = {name: number(record.value(name)) for name in _MEASURES}
    reasons = {name: record.measures[name].reason for name in values if values[name] is None and name in record.measures}
    return {"status": record.status, "reason": record.reason, **values, "reasons": reasons}
