"""What solvers and trainings say where there is no fixed point, or none within reach: nothing may pass silently."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bench.experiments.experiment import Experiment, Part
from bench.experiments.models import Models, number
from bench.experiments.scale import Scale
from bench.spec import Named, Settings, Spec
from deq import CELLS, SOLVERS, Cell, Map, Solver, Status, Stop, solve

_SAMPLES, _NUMBERS = 16, 8
_LENGTH = 20
_GAIN = 1.1


class Drifting(Cell):
    """f(z) = z + softplus(U x) + 1: without a fixed point, whatever is learned. For a model that has to be found out."""

    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.width = width
        self.inject = torch.nn.Linear(width, width)

    def bind(self, x: Tensor, memory: Any = None) -> Map:
        """The translation by what the features x (B, T, D) give."""
        drift = torch.nn.functional.softplus(self.inject(x)) + 1
        return lambda z: z + drift


def translation(z: Tensor) -> Tensor:
    """z + 1: without a fixed point, and as z grows the same gap is relatively small."""
    return z + 1


def rootless(z: Tensor) -> Tensor:
    """z + sqrt(1 + z^2): without a fixed point; the gap shrinks to nothing as z goes to minus infinity."""
    return z + torch.sqrt(1 + z * z)


def repelling_rotation(z: Tensor) -> Tensor:
    """A rotation of each pair of numbers by one radian about a point, times a gain above one: the point is a root, and repels."""
    angle = torch.tensor(1.0, dtype=z.dtype)
    turn = _GAIN * torch.stack((torch.stack((angle.cos(), -angle.sin())), torch.stack((angle.sin(), angle.cos()))))
    return ((z - 1).unflatten(-1, (-1, 2)) @ turn.mT).flatten(-2) + 1


def jumping(z: Tensor) -> Tensor:
    """1 below one half and 0 above: discontinuous, without a fixed point."""
    return (z < 0.5).to(z.dtype)


MAPS: dict[str, tuple[Map, bool]] = {
    "translation": (translation, False),
    "rootless": (rootless, False),
    "rotation, gain 1.1": (repelling_rotation, True),
    "jumping": (jumping, False),
}
LARGE: dict[str, Callable[[int], Cell]] = {
    "transformer-xl": lambda width: CELLS["transformer-xl"](width=width, initial_std=1.0),
    "trellis": lambda width: CELLS["trellis"](width=width, initial_std=1.0),
}
_TRAINED: dict[str, Settings] = {
    "transformer-xl, N(0, 1)": {"cell": "transformer-xl", "cell.initial_std": 1.0},
    "trellis, N(0, 1)": {"cell": "trellis", "cell.initial_std": 1.0},
    "no fixed point": {"cell": f"{__name__}:Drifting"},
}
_READ = (
    *("train_converged_fraction", "train_backward_converged_fraction", "train_residual_p50", "train_residual_max"),
    *("train_backward_residual_p50", "train_backward_residual_max"),
)


def experiments(scale: Scale) -> tuple[Experiment, Experiment]:
    """What a solve says of hostile maps, and what a record says of hostile models."""
    nominal = scale.spec(scale.cases[0], "nominal", 0)
    solving = tuple(
        Part(
            subject={"map": name, "seed": seed},
            follow=follow,
            arguments=(name, seed, scale.width, stop),
            specs=(nominal,),
            trains=False,
        )
        for name in (*MAPS, *(f"{cell}, N(0, 1)" for cell in LARGE))
        for seed in scale.hostile_seeds
        for stop in [Stop(rtol=scale.rtol, max_steps=scale.most)]
    )
    training = tuple(
        Part(subject={"model": label, "seed": seed}, follow=follow_training, arguments=(spec,), specs=(spec,))
        for label in _TRAINED
        for seed in scale.hostile_seeds
        for spec in [_spec(scale, label, seed)]
    )
    return (
        Experiment(
            name="hostile",
            measured=f"How the solves of {_SAMPLES} samples ended, by solver and Status, on maps without a fixed point or with one "
            "that repels, and on cells with N(0, 1) weights; `residual`: the median, judged anew in float64. `silent`: samples "
            "called CONVERGED whose residual, judged anew, is above the tolerance. `grown`: samples called CONVERGED whose gap is "
            "not below half the first one: z has grown until the gap was relatively small.",
            units={"CONVERGED": "samples", "residual": "1", "silent": "samples", "grown": "samples"},
            settings={"rtol": scale.rtol, "cap": scale.most, "samples": _SAMPLES, "numbers": _NUMBERS, "length": _LENGTH},
            parts=solving,
        ),
        Experiment(
            name="hostile training",
            measured="What the record of a training says whose cell is far too large (N(0, 1) weights) or has no fixed point at "
            "all: its status, the shares of training solves that converged, their residuals.",
            units={"train_converged_fraction": "fraction", "train_residual_max": "1"},
            settings={"steps": scale.hostile_steps, "rtol": scale.rtol, "cap": scale.cap, "task": scale.cases[0].label},
            parts=training,
        ),
    )


def _spec(scale: Scale, label: str, seed: int) -> Spec:
    own = scale.model("DEQ").settings
    solves = {name: value for name, value in own.items() if not name.startswith("cell")}
    spec = scale.spec(scale.cases[0], label, seed, Named(name="deq", settings={**solves, **_TRAINED[label]}))
    train = spec.train.model_copy(update={"steps": scale.hostile_steps, "warmup": 0, "evaluate_every": 0})
    return spec.model_copy(update={"train": train})


def follow(models: Models, name: str, seed: int, width: int, stop: Stop) -> dict[str, Any]:
    """What each solver of the registry says."""
    torch.manual_seed(seed)
    f, z0 = _hostile(name, width)
    found: dict[str, Any] = {solver: said(f, z0, make(), stop) for solver, make in SOLVERS.items()}
    return found | {"root": MAPS[name][1] if name in MAPS else None}


@torch.no_grad()
def _hostile(name: str, width: int) -> tuple[Map, Tensor]:
    if name in MAPS:
        return MAPS[name][0], torch.randn(_SAMPLES, _NUMBERS)
    cell, x = LARGE[name.partition(",")[0]](width), torch.randn(_SAMPLES, _LENGTH, width)
    return cell.bind(x), cell.start(x)


@torch.no_grad()
def said(f: Map, z0: Tensor, solver: Solver, stop: Stop) -> dict[str, Any]:
    """How many samples ended how, and whether it is true."""
    solution = solve(f, z0, solver, stop)
    z, fz = solution.z.double().flatten(1), f(solution.z).double().flatten(1)
    residual = (fz - z).norm(dim=1) / fz.norm(dim=1)
    assert stop.rtol is not None
    untrue = ~(residual < 1.001 * stop.rtol)  # float32 sums the norms in another order
    first = (f(z0) - z0).double().flatten(1).norm(dim=1)
    return {
        **{status.name: int((solution.status == status).sum()) for status in Status},
        "residual": number(residual.nan_to_num(torch.inf).median()),
        "silent": int((solution.converged & untrue).sum()),
        "grown": int((solution.converged & ~((fz - z).norm(dim=1) < first / 2)).sum()),
    }


def follow_training(models: Models, spec: Spec) -> dict[str, Any]:
    """What the record says."""
    record = models.record(spec)
    measures = {name: value if (value := record.value(name)) is None else number(value) for name in _READ}
    whys = {name: record.measures[name].why for name, value in measures.items() if value is None and name in record.measures}
    return {"status": record.status, "why": record.why, **measures, "whys": whys}
