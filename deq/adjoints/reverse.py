"""The exact gradient of a reversible solve, in the memory of one evaluation."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from deq.adjoints.adjoint import Adjoint, Watch, attach_gradient, attainable_stop
from deq.precision import HALF
from deq.solve import Map, Solution, Solver, Status, Stop, solve

_RETRACED = 1e-3  # of the last iterate's norm


@dataclass(frozen=True, kw_only=True)
class Reverse(Adjoint):
    """Backpropagation through every step of a reversible solve, whose iterates are recomputed from its last two.

    Exact for what was computed, as Unroll is, as long as the steps can be retraced: the inverse of a step multiplies rounding, by 2
    to 5 a step, so that after 20 to 40 steps of a map that hardly contracts nothing may be left of float64's digits. Backward
    therefore calls `watch("backward", ...)` where it has come back to the start: residuals are the distance to the start that the
    solve had, relative to its last iterate; a sample is converged below 1e-3. Above it the gradient may be wrong, unless the map
    contracts so much that its first steps do not count. Memory is that of one evaluation and a few states, for any number of steps.
    Costs one evaluation and one VJP of f per forward step. The state is float64 and f runs in its own precision. The solver must be
    Reversible. First derivatives only: backward raises RuntimeError under `create_graph`.
    McCallum, Arora, Foster (2025), arXiv 2509.12917.
    """

    numerics: ClassVar[int] = 1

    def check(self, solver: Solver, stop: Stop) -> None:
        """Raise ValueError for a solver without `reverse`, the inverse of its step."""
        if not hasattr(solver, "reverse"):
            raise ValueError(f"Reverse needs solver Reversible, whose steps can be reversed, got {type(solver).__name__}")

    def __call__(self, f: Map, z0: Tensor, solver: Solver, stop: Stop, watch: Watch) -> Tensor:
        """Return f(z) of the last iterate, attached."""
        self.check(solver, stop)
        dtype = torch.float32 if z0.dtype in HALF and torch.is_autocast_enabled(z0.device.type) else z0.dtype

        def in_double(z: Tensor) -> Tensor:
            return f(z.to(dtype)).to(torch.float64)

        stop = attainable_stop(stop, z0)
        trajectory = _Trajectory(in_double, solver, stop.max_steps, watch)
        solution = solve(trajectory.evaluate, z0.detach().double(), trajectory, stop, image=True)
        assert solution.image is not None
        watch("forward", solution)
        fz = solution.image.to(dtype)
        return attach_gradient(fz, fz, lambda v, *_: v, "Reverse", trajectory.newest)


class _Trajectory:
    """The iterates of a solve: a Solver that keeps the newest two, and a map whose graph stores no tensor.

    Every evaluation is a checkpoint without inputs. Backward recomputes them in reverse order, each from the two after it; the last
    evaluation of a solve to its cap is an ordinary checkpoint, since it may be at another state than the newest iterate.
    """

    differentiable = True

    def __init__(self, f: Map, solver: Any, most: int, watch: Watch) -> None:
        self._f, self._solver, self._most, self._watch = f, solver, most, watch
        self._evaluations = self._steps = 0
        self._attached: Tensor | None = None  # the state of the evaluation that runs, in the forward pass
        self._attaches: list[bool] = []  # whether the state of each evaluation needed a gradient
        self._newest: dict[int, Tensor] = {}  # iterates by number
        self._states: dict[int, Tensor] = {}  # those that backward has recomputed, and images under f
        self._images: dict[int, Tensor] = {}

    def init(self, z: Tensor, steps: int) -> Tensor:
        """Start the solver's memory."""
        self._start = z.detach()
        self._newest = {0: self._start}
        return self._solver.init(z, steps)

    def step(self, f: Map, z: Tensor, fz: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Make the solver's step and keep its iterate."""
        new, memory = self._solver.step(f, z, fz, memory)
        self._steps += 1
        self._newest = {self._steps - 1: z.detach(), self._steps: new.detach()}
        return new, memory

    @property
    def newest(self) -> tuple[Tensor, ...]:
        """The iterates that backward starts from."""
        return tuple(self._newest.values())

    def evaluate(self, z: Tensor) -> Tensor:
        """Return f(z); in grad mode with a graph that stores no tensor."""
        number, self._evaluations = self._evaluations, self._evaluations + 1
        if not torch.is_grad_enabled():
            return self._f(z)
        with set_checkpoint_early_stop(False):  # backward needs the result
            if number == self._most - 1:
                last: Tensor = checkpoint(self._f, z, use_reentrant=False, preserve_rng_state=False)
                return last
            self._attaches.append(z.requires_grad)
            self._attached = z
            fz: Tensor = checkpoint(self._evaluate, number, use_reentrant=False, preserve_rng_state=False)
        return fz

    def _evaluate(self, number: int) -> Tensor:
        """Evaluate f at an iterate: the attached one in the forward pass, the recomputed one in backward."""
        if self._attached is not None:
            z, self._attached = self._attached, None
            return self._f(z)
        fz = self._f(self._state(number).detach().requires_grad_(self._attaches[number]))
        self._images[number] = fz.detach()
        return fz

    def _state(self, number: int) -> Tensor:
        """The iterate of that number, from the two after it."""
        if number in self._newest:
            return self._newest[number]
        if number not in self._states:
            after = self._state(number + 2)
            if number + 1 not in self._images:  # its evaluation stored nothing, so that backward did not repeat it
                with torch.no_grad():
                    self._images[number + 1] = self._f(self._state(number + 1))
            state = self._solver.reverse(after, self._images[number + 1])
            if number == 0:
                self._watch("backward", self._retraced(state))
            near = range(number, number + 3)
            self._states = {at: one for at, one in {**self._states, number: state}.items() if at in near}
            self._images = {at: one for at, one in self._images.items() if at in near}
        return self._states[number]

    def _retraced(self, start: Tensor) -> Solution:
        """How far the recomputed start lies from the true one, as the Solution of the backward pass."""
        away = torch.linalg.vector_norm((start - self._start).flatten(1), dim=1)
        size = torch.linalg.vector_norm(self._newest[self._steps].flatten(1), dim=1)
        residual = away / size.clamp(min=torch.finfo(size.dtype).tiny)
        status = torch.where(
            residual < _RETRACED, Status.CONVERGED, torch.where(away.isfinite(), Status.MAX_STEPS, Status.NONFINITE)
        )
        return Solution(
            z=start,
            status=status.to(torch.int8),
            gap=away,
            residual=residual,
            steps=torch.full_like(away, self._evaluations, dtype=torch.int32),
            nfe=self._evaluations,
            gaps=away.unsqueeze(0),
            solver_bytes=0,
        )
