"""Every adjoint on one trained model: the error of its gradient, what it costs, and which samples it solved."""

from typing import Any, Self

import torch
from torch import Tensor

from bench.records.spec import RunSpec
from bench.studies.config import COMPARED, DEQ_LABEL, Config
from bench.studies.exact import Exact
from bench.studies.gradient_error import error, gradient, rooted, too_few
from bench.studies.models import Models, NoValues, bind
from bench.studies.study import PlannedRow, Study, Values, number
from bench.training.language_model import LanguageModel
from deq import (
    GMRES,
    Anderson,
    Broyden,
    EquilibriumPropagation,
    Implicit,
    Map,
    Phantom,
    Picard,
    Reverse,
    Reversible,
    Shine,
    Solution,
    Solver,
    Stop,
    Unroll,
)
from deq.adjoints import Adjoint
from deq.adjoints.adjoint import Watch
from deq.adjoints.propagation import Potential

NAME = "adjoints"
_REFINED = 5  # Broyden steps


def study(config: Config) -> Study:
    """One row per task and seed, and per seed of the energy."""
    own, stops = config.gradient, tuple(Stop(rtol=rtol, max_steps=config.cap) for rtol in config.adjoint_tolerances)
    arguments = (own.batch, own.candidates, stops)
    trained = [(subject, spec) for _, subject, spec in config.deqs()]
    for seed in config.seeds:
        subject = {"task": config.energy.label, "seed": seed}
        trained.append((subject, config.spec(config.energy, DEQ_LABEL, seed, config.energy_model)))
    return Study(
        name=NAME,
        measure=measure,
        units={
            **{"one_less_cosine": "1", "distance": "1", "rtol": "1", "converged": "fraction", "evaluations": "evaluations"},
            **{"products": "VJPs", "nfe": "evaluations, of a backward solve VJPs"},
        },
        settings={"batch": own.batch, "candidates": own.candidates, "cap": config.cap, "steps": config.steps, "dtype": "float64"},
        rows=tuple(PlannedRow(subject, (spec,), arguments) for subject, spec in trained),
    )


def measure(models: Models, spec: RunSpec, few: int, candidates: int, stops: tuple[Stop, ...]) -> Values:
    """The gradient in all parameters of the loss of one training batch by every adjoint, of the trained model in float64, against
    the exact one: that of the implicit function theorem at the root, by a dense solve. 1 - cosine, and the norm of the difference
    over that of the exact; evaluations of f, and products with its Jacobian (VJPs: backward passes through an evaluation, the last
    one included), over forward and backward pass; for each the work of its solves and the share of sequences that they solved.
    Every forward solve starts at the initial state, and has the tolerance and the cap of the backward solve. unroll and reverse
    differentiate the solve itself: where it does not converge, theirs is the gradient of the truncated solve. Over the first
    sequences that have a root (`roots` of `candidates` have)."""
    model = models.trained(spec).double()
    z, batch, roots = rooted(model, *models.sequences(spec.task, "train", candidates), few)
    if len(z) < few:
        raise NoValues(too_few(roots, candidates, few))
    exact, _ = gradient(model, *batch, Exact(), z)
    points = [point for stop in stops for point in compare(model, batch, exact, stop)]
    return {"roots": roots, "candidates": candidates, "points": points}


def compare(model: LanguageModel, batch: tuple[Tensor, Tensor], exact: Tensor, stop: Stop) -> list[Values]:
    """Error, cost and convergence of every adjoint at one stop."""
    _, f, _ = bind(model, batch[0])
    points = []
    for name, (adjoint, solver) in compared(stop, energy=isinstance(f, Potential)).items():
        counting = Counting(adjoint)
        got, _ = gradient(model, *batch, counting, None, solver, stop)
        about = {"adjoint": name, "solver": type(solver).__name__, "rtol": stop.rtol}
        points.append(about | error(got, exact) | counting.values())
    return points


def compared(stop: Stop, energy: bool) -> dict[str, tuple[Adjoint, Solver]]:
    """The adjoints by name, each with the solver of its forward solve; equilibrium propagation for an energy alone."""
    anderson, broyden = Anderson(), Broyden(window=stop.max_steps)
    found: dict[str, tuple[Adjoint, Solver]] = {
        f"implicit, {name}": (Implicit(solver=make(), stop=stop), anderson) for name, make in COMPARED.items()
    }
    found |= {
        "GMRES": (GMRES(stop=stop), anderson),
        "SHINE": (Shine(), broyden),
        f"SHINE, {_REFINED} steps": (Shine(refine=_REFINED, stop=stop), broyden),
        "SHINE, refined": (Shine(refine=stop.max_steps, stop=stop), broyden),
        "phantom 1 (JFB)": (Phantom(), anderson),
        "phantom 5": (Phantom(steps=5), anderson),
        "reverse": (Reverse(), Reversible()),
        "unroll": (Unroll(), Picard()),
    }
    return found | ({"propagation": (EquilibriumPropagation(solver=anderson, stop=stop), anderson)} if energy else {})


class Counting(Adjoint):
    """Another adjoint, its solutions, and counts: evaluations of f, and products with its Jacobian (VJPs).

    A product is a backward pass through an evaluation, the last one, to the parameters, included. Of an energy the potential is
    counted as f is.
    """

    def __init__(self, adjoint: Adjoint) -> None:
        self._adjoint = adjoint
        self.evaluations = self.products = 0
        self.solutions: list[tuple[str, Solution]] = []

    def __call__(self, f: Map, z0: Tensor, solver: Solver, stop: Stop, watch: Watch) -> Tensor:
        """Return what the adjoint does."""

        def watched(phase: str, solution: Solution) -> None:
            self.solutions.append((phase, solution))
            watch(phase, solution)

        made = _CountedPotential(f, self) if isinstance(f, Potential) else _Counted(f, self)
        return self._adjoint(made, z0, solver, stop, watched)

    def counted(self, value: Tensor) -> Tensor:
        """Count an evaluation that gave this value, and each backward pass through it."""
        self.evaluations += 1
        return _CountBackward.apply(value, self) if value.requires_grad else value

    def work(self, phase: str) -> Values | None:
        """Evaluations or products of the solves in a phase, and the share of samples that all of them solved; None without one."""
        found = [solution for name, solution in self.solutions if name == phase]
        if not found:
            return None
        converged = torch.stack([solution.converged for solution in found]).all(0)
        return {"nfe": sum(solution.nfe for solution in found), "converged": number(converged.double().mean())}

    def values(self) -> Values:
        """Counts and work as plain data."""
        return {
            **{"evaluations": self.evaluations, "products": self.products},
            **{phase: self.work(phase) for phase in ("forward", "backward")},
        }


class _Counted:
    def __init__(self, f: Any, counts: Counting) -> None:
        self._f, self._counts = f, counts

    def __call__(self, z: Tensor) -> Tensor:
        return self._counts.counted(self._f(z))


class _CountedPotential(_Counted):
    def potential(self, z: Tensor) -> Tensor:
        return self._counts.counted(self._f.potential(z))

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        tensors: tuple[Tensor, ...] = self._f.tensors
        return tensors

    def with_tensors(self, tensors: tuple[Tensor, ...]) -> Self:
        return type(self)(self._f.with_tensors(tensors), self._counts)


class _CountBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, counts: Counting) -> Tensor:
        ctx.counts = counts
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        ctx.counts.products += 1
        return gradients[0], None
