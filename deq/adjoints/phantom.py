"""The phantom gradient: a few attached iterations at the solution."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, lerp

from deq.adjoints.adjoint import Adjoint, Watch, attach_gradient, forward_solve
from deq.checks import check_whole
from deq.solve import Map, Solver, Stop


@dataclass(frozen=True, kw_only=True)
class Phantom(Adjoint):
    """An inexact gradient from `steps` attached relaxed iterations at the solution; one full step is Jacobian-free backpropagation.

    Needs no backward solve and stores `steps` evaluations. Biased: a truncated Neumann series of the implicit gradient. The
    iterations are part of the layer, in evaluation too, so that a trained model computes what it was trained for.
    Geng et al. (NeurIPS 2021), arXiv 2111.05177; Fung et al. (AAAI 2022), arXiv 2103.12803.
    """

    numerics: ClassVar[int] = 1

    steps: int = 1
    relaxation: float = 1.0

    def __post_init__(self) -> None:
        check_whole(steps=self.steps)
        if not 0 < self.relaxation <= 1:
            raise ValueError(f"relaxation must be in (0, 1], got {self.relaxation}")

    def __call__(self, f: Map, z0: Tensor, solver: Solver, stop: Stop, watch: Watch) -> Tensor:
        """Return the solution after `steps` attached iterations, the first of them the last evaluation of a solve to its cap."""
        solution, fz = forward_solve(f, z0, solver, stop, watch, more=self.steps - 1)
        z = solution.z
        for number in range(self.steps):
            fz = (f(z) if number else fz).to(z.dtype)
            z = fz if self.relaxation == 1 else lerp(z, fz, self.relaxation)
        return attach_gradient(z, z, lambda v: v, "Phantom")
