"""SHINE: the gradient from the forward solve's own estimate of the inverse Jacobian, without a backward solve or with a short one.

The paper's adjoint Broyden method with outer-problem awareness (OPA) is left out: its forward solve needs a product with J^T at
every iterate, which `solve` neither makes nor counts, and the gradient of the loss there, which a layer does not know.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from deq.adjoints.adjoint import StoppedAdjoint, Watch, attach_gradient, forward_solve, normalised
from deq.adjoints.implicit import attach_implicit
from deq.checks import check_whole
from deq.precision import full_precision
from deq.solve import Map, Solution, Solver, Stop, solve
from deq.solvers import Broyden


@dataclass(frozen=True, kw_only=True)
class Shine(StoppedAdjoint):
    """An inexact gradient u = (I - J)^-T v, with the estimate of (I - J)^-1 that Broyden's method made in the forward solve.

    Costs no evaluation of f and one VJP, that of the attached evaluation; stores the steps of the solve until backward. Biased: the
    estimate covers only the directions of the forward solve, so a longer solve gives a better gradient. A sample whose u is more
    than `limit` times as long as v uses v itself (Jacobian-free backpropagation). The authors' code has a limit of 1.8; a map that
    halves distances has inverses of up to 2, which 3 keeps. The solver must be Broyden with a window for all its steps.

    With `refine` above 0, Broyden's method solves u = J^T u + v from there, with the same estimate as its first inverse Jacobian,
    in at most so many steps, sample by sample to `stop` (without effect otherwise). Costs one VJP a step and one more, and keeps
    the u with the smallest residual. Where it converges, the gradient is exact, as Implicit's is.
    First derivatives only: backward raises RuntimeError under `create_graph`. Ramzi et al. (ICLR 2022), arXiv 2106.00553.
    """

    numerics: ClassVar[int] = 1

    limit: float = 3.0
    refine: int = 0

    def __post_init__(self) -> None:
        if not self.limit >= 1:
            raise ValueError(f"limit must be at least 1, got {self.limit}")
        check_whole(least=0, refine=self.refine)

    @property
    def iterates(self) -> bool:
        """Whether the backward pass iterates."""
        return self.refine > 0

    def check(self, solver: Solver, stop: Stop) -> None:
        """Raise TypeError for a solver that makes no estimate, ValueError for a window that is too short."""
        _check_memory(solver.init(torch.zeros(1, 1), stop.max_steps), solver, stop)

    def __call__(self, f: Map, z0: Tensor, solver: Solver, stop: Stop, watch: Watch) -> Tensor:
        """Return f(z*); detached without grad mode, or where nothing that f depends on needs a gradient."""
        recorder = MemoryRecorder(solver)
        if self.refine:
            return self._refined(f, z0, solver, recorder, stop, watch)
        solution, fz = forward_solve(f, z0, recorder, stop, watch)
        z = solution.z
        if not fz.requires_grad:
            return fz.to(z.dtype, copy=True)
        _check_memory(recorder.memory, solver, stop)
        estimate, dtype = InverseEstimate.of(recorder.memory, (solution.steps - 1).to(z.device)), fz.dtype

        def gradient(v: Tensor, *saved: Tensor) -> Tensor:
            with full_precision(v.device.type)():
                return InverseEstimate(*saved).apply_transposed(v, self.limit).to(dtype)

        return attach_gradient(fz, z, gradient, "Shine", estimate.tensors)

    def _refined(self, f: Map, z0: Tensor, solver: Solver, recorder: "MemoryRecorder", stop: Stop, watch: Watch) -> Tensor:
        """Return f(z*), attached to the solve that starts from the estimate."""
        counts: Tensor | None = None

        def watched(phase: str, solution: Solution) -> None:
            nonlocal counts
            if phase == "forward":
                counts = solution.steps - 1
            watch(phase, solution)

        def kept() -> tuple[Tensor, ...]:
            assert counts is not None
            return InverseEstimate.of(recorder.memory, counts.to(z0.device)).tensors

        def backward(transposed: Map, right: Tensor, stop: Stop, *saved: Tensor) -> Solution:
            with full_precision(right.device.type)():
                start, estimate = InverseEstimate(*saved).start(right, self.limit)
            return solve(lambda u: transposed(u) + right, start, _Preconditioned(estimate, stop), stop)

        own = replace(self.stop, max_steps=min(self.refine + 1, self.stop.max_steps))
        y = attach_implicit("Shine", f, z0, recorder, stop, watched, own, backward, kept)
        if y.requires_grad:
            _check_memory(recorder.memory, solver, stop)
        return y


@dataclass(frozen=True)
class InverseEstimate:
    """Broyden's estimate of (I - J)^-1 as a product of rank-one factors, the last first:

        (I + s_k s_{k-1}' / d_{k-1}) ... (I + s_2 s_1' / d_1)

    with the solve's steps s (B, k, N) and the divisors d = |s|^2 (B, k), infinite where the solver skipped a singular update. Each
    sample uses its first `counts` (B,) steps: later ones were made for other samples of the batch.
    """

    steps: Tensor
    divisors: Tensor
    counts: Tensor

    @classmethod
    def of(cls, memory: Any, counts: Tensor) -> "InverseEstimate":
        """Read the estimate off the last memory of a solve."""
        stored = memory.stored
        return cls(memory.steps[:, :stored], memory.divisors[:, :stored], counts)

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """What the estimate is made from again."""
        return self.steps, self.divisors, self.counts

    def apply_transposed(self, v: Tensor, limit: float) -> Tensor:
        """Return u (B, ...), the transposed product with v; v itself for a sample whose u is more than `limit` times as long."""
        unit, power = normalised(v)
        u, _ = self.start(unit, limit)
        return u * power

    def start(self, v: Tensor, limit: float) -> tuple[Tensor, "InverseEstimate"]:
        """Return u (B, ...) as `apply_transposed` does, and the estimate with the identity for a sample that uses v itself."""
        flat = v.flatten(1).to(self.steps.dtype)
        u = self.product(flat)
        longest = limit * torch.linalg.vector_norm(flat, dim=1)
        trusted = torch.linalg.vector_norm(u, dim=1) <= longest  # False for NaN
        return torch.where(trusted.unsqueeze(1), u, flat).view_as(v), replace(self, counts=torch.where(trusted, self.counts, 0))

    def product(self, v: Tensor) -> Tensor:
        """Return the transposed product with v (B, N)."""
        u = v
        for last in range(self.steps.shape[1] - 1, 0, -1):
            earlier, later = self.steps[:, last - 1], self.steps[:, last]
            along = torch.linalg.vecdot(later, u) / self.divisors[:, last - 1]
            # Not 0 times a later step, which may have overflowed.
            u = torch.where((last < self.counts).unsqueeze(1), torch.addcmul(u, along.unsqueeze(1), earlier), u)
        return u


class _Preconditioned:
    """Broyden's method on g(u) = J^T u + v - u, from a given estimate of -(dg/du)^-1.

    Its update is the same for g and for a matrix times g: so this is the plain method, which starts from the identity, on the
    estimate times g. The gaps that `solve` sees are those of g.
    """

    differentiable = False

    def __init__(self, estimate: InverseEstimate, stop: Stop) -> None:
        self._estimate, self._solver = estimate, Broyden(window=max(2, stop.max_steps))

    def init(self, z: Tensor, steps: int) -> Any:
        """Start Broyden's memory."""
        return self._solver.init(z, steps)

    def step(self, f: Map, z: Tensor, fz: Tensor, memory: Any) -> tuple[Tensor, Any]:
        """Make Broyden's step on the estimate times g."""
        change = self._estimate.product((fz - z).flatten(1)).view_as(z)
        return self._solver.step(f, z, z + change, memory)


def _check_memory(memory: Any, solver: Solver, stop: Stop) -> None:
    if not all(hasattr(memory, part) for part in ("steps", "divisors", "stored", "window")):
        raise TypeError(f"Shine uses the estimate of Broyden's method, which {type(solver).__name__} does not make")
    if getattr(memory, "trials", None) is not None:
        raise ValueError("Shine needs full steps, Broyden with backtrack=None")
    if memory.window < stop.max_steps - 1:
        raise ValueError(f"Shine needs a window for all {stop.max_steps - 1} steps of the solve, got {memory.window}")


class MemoryRecorder:
    """A solver that keeps its last memory."""

    differentiable = False

    def __init__(self, solver: Solver) -> None:
        self._solver = solver
        self.memory: Any = None

    def init(self, z: Tensor, steps: int) -> Any:
        """Start the solver's memory."""
        self.memory = self._solver.init(z, steps)
        return self.memory

    def step(self, f: Map, z: Tensor, fz: Tensor, memory: Any) -> tuple[Tensor, Any]:
        """Make the solver's step and keep its memory."""
        z, self.memory = self._solver.step(f, z, fz, memory)
        return z, self.memory
