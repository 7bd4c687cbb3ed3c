"""Backpropagation through the solve."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from deq.adjoints.adjoint import Adjoint, Watch, attainable_stop
from deq.solve import Map, Solver, Stop, solve


@dataclass(frozen=True, kw_only=True)
class Unroll(Adjoint):
    """Backpropagation through every step of the solve: exact for what was computed, memory linear in the steps.

    Needs a differentiable solver (Picard, Reversible); Anderson and Broyden write their memory in place.
    """

    numerics: ClassVar[int] = 1

    def check(self, solver: Solver, stop: Stop) -> None:
        """Raise ValueError for a solver that is not differentiable."""
        if not solver.differentiable:
            raise ValueError(
                f"Unroll cannot differentiate through {type(solver).__name__}; use Picard or Reversible, or another adjoint"
            )

    def __call__(self, f: Map, z0: Tensor, solver: Solver, stop: Stop, watch: Watch) -> Tensor:
        """Return f(z) of the last iterate, with the graph of all steps."""
        self.check(solver, stop)
        solution = solve(f, z0, solver, attainable_stop(stop, z0), image=True)
        assert solution.image is not None
        watch("forward", solution)
        return solution.image.to(solution.z.dtype, copy=True)
