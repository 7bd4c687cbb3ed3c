"""The DEQ layer."""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from deq.adjoints import Adjoint, EquilibriumPropagation, Implicit
from deq.adjoints.adjoint import Watch
from deq.cells.cell import Cell
from deq.checks import check_features, check_whole
from deq.core import Core, Output
from deq.cuda_graphs import GraphedCell
from deq.solve import Map, Solution, Solver, Stop
from deq.stability import Jacobian


class DEQ(Core):
    """The features of the fixed point z* = f(z*; x) of a cell; a Core, like every explicit baseline.

    With `auxiliary_every` k, outputs in training have auxiliary features: those of f at every k-th iterate of the solve before the
    last, each with the gradient of that one evaluation, which a loss on them corrects (fixed-point correction: Bai et al., CVPR
    2022, arXiv 2204.08442). Each costs one evaluation and its memory.

    With `cuda_graphs`, f and its gradients on a GPU are CUDA graphs, with the same results: see GraphedCell for its limits. The
    backward pass must come before the next forward pass; `jacobian`, a second derivative, must be None; EquilibriumPropagation
    cannot be the adjoint.

    `stop` holds in training mode, `evaluation_stop` in evaluation mode (None: the same as `stop`). With `jacobian`, outputs in
    training have the penalty on the Jacobian at z*. `stop`, `evaluation_stop` and `jacobian` may be replaced between steps.
    A DEQ is causal only to the solver's tolerance: a global solver mixes the positions of a sequence until it converges.
    """

    numerics: ClassVar[int] = 2

    def __init__(
        self,
        cell: Cell,
        *,
        solver: Solver,
        stop: Stop,
        adjoint: Adjoint | None = None,
        evaluation_stop: Stop | None = None,
        jacobian: Jacobian | None = None,
        auxiliary_every: int = 0,
        cuda_graphs: bool = False,
    ) -> None:
        super().__init__()
        adjoint = Implicit() if adjoint is None else adjoint
        if isinstance(solver, type) or not hasattr(solver, "step"):
            raise TypeError(f"solver must be a Solver such as Anderson(), got {solver!r}")
        adjoint.check(solver, stop)
        if cuda_graphs and isinstance(adjoint, EquilibriumPropagation):
            raise ValueError("cuda_graphs records f alone, and EquilibriumPropagation needs its potential too")
        check_whole(least=0, auxiliary_every=auxiliary_every)
        self.cell, self.width = cell, cell.width
        self.solver, self.stop, self.adjoint = solver, stop, adjoint
        self.evaluation_stop = evaluation_stop
        self.jacobian, self.auxiliary_every = jacobian, auxiliary_every
        self._graphed = GraphedCell(cell) if cuda_graphs else None
        self._watchers: list[Watch] = []

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the watchers: they belong to the original."""
        return {**self.__dict__, "_watchers": []}

    @property
    def evaluation_stop(self) -> Stop:
        """The stop in evaluation mode."""
        return self.stop if self._evaluation_stop is None else self._evaluation_stop

    @evaluation_stop.setter
    def evaluation_stop(self, stop: Stop | None) -> None:
        """Set it; None means the value of `stop`."""
        self._evaluation_stop = stop

    def watch(self, watcher: Watch) -> Callable[[], None]:
        """Call `watcher(phase, solution)` after every solve, phase "forward" or "backward"; returns a function that removes it."""
        self._watchers.append(watcher)
        return lambda: self._watchers.remove(watcher)

    def _notify(self, phase: str, solution: Solution) -> None:
        for watcher in tuple(self._watchers):
            watcher(phase, solution)

    def forget_recordings(self) -> None:
        """Drop what `cuda_graphs` recorded; the next calls record it again. For when cuBLAS's workspaces were freed."""
        if self._graphed is not None:
            self._graphed.forget()

    def forward(self, x: Tensor, memory: Any = None, z0: Tensor | None = None) -> Output:
        """Map features x (B, T, D) to the features of f(z*) (B, T, width), z* the result of a solve.

        In evaluation that takes the solve's evaluations; in training one more where the solve ends before `max_steps`. Phantom
        makes its further iterations in both.
        The solve starts at z0, shaped like `cell.initial_state(x)`, such as the `state` of an output for similar features; None
        starts it at the cell's initial state. TypeError for what is no floating-point tensor, ValueError for another shape.
        """
        check_features(x)
        if self._graphed is not None and self.jacobian is not None:
            raise ValueError("cuda_graphs has first derivatives only: a penalty on the Jacobian needs a DEQ without it")
        f, start = (self.cell if self._graphed is None else self._graphed).bind(x, memory), self.cell.initial_state(x)
        if z0 is not None:
            if not isinstance(z0, Tensor) or not z0.is_floating_point():
                raise TypeError(
                    f"z0 must be a floating-point tensor, got {z0.dtype if isinstance(z0, Tensor) else type(z0).__name__}"
                )
            if z0.shape != start.shape:
                raise ValueError(f"z0 must have the shape of the cell's state, {tuple(start.shape)}, got {tuple(z0.shape)}")
            start = z0.detach().to(start)
        stop = self.stop if self.training else self.evaluation_stop
        corrected = self.auxiliary_every > 0 and self.training and torch.is_grad_enabled()
        snapshots = _Snapshots(self.solver, self.auxiliary_every) if corrected else None
        z = self.adjoint(f, start, snapshots or self.solver, stop, self._notify)
        auxiliary = tuple(self.cell.features(f(state.to(start))) for state in snapshots.states) if snapshots else ()
        penalty = None
        if self.jacobian is not None and self.training and z.requires_grad:
            penalty = self.jacobian.penalty(f, z)
        return Output(self.cell.features(z), self.cell.remember(z, x, memory), penalty, auxiliary, state=z.detach())


class _Snapshots:
    """A solver that keeps a copy of every k-th iterate."""

    def __init__(self, solver: Solver, every: int) -> None:
        self._solver, self._every, self._steps = solver, every, 0
        self.differentiable = solver.differentiable
        self.states: list[Tensor] = []

    def __getattr__(self, name: str) -> Any:
        """What else the solver has, such as the inverse of its step."""
        return getattr(self._solver, name)

    def init(self, z: Tensor, steps: int) -> Any:
        return self._solver.init(z, steps)

    def step(self, f: Map, z: Tensor, fz: Tensor, memory: Any) -> tuple[Tensor, Any]:
        if self._steps and self._steps % self._every == 0:
            self.states.append(z.detach().clone())
        self._steps += 1
        return self._solver.step(f, z, fz, memory)
