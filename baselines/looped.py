"""Looped network: a cell iterated a random number of times in training and any number of times afterwards."""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from deq import Cell, Core, Map, Output
from deq.checks import check_features, check_whole


class Looped(Core):
    """A cell's f applied a random number of times in training, with backpropagation through the last; a fixed number in evaluation.

    The closest explicit rival of a DEQ: the same map, no solver, and more iterations at test time. In training the number of
    iterations r is one draw a batch, 1 + Poisson(exp(n)) with n ~ N(log(depth) - spread^2 / 2, spread), so that its mean is
    `depth` + 1; only the last `backward_depth` are differentiated. In evaluation r = `evaluation_depth` (default `depth`), from the
    cell's initial state; in training that has noise of standard deviation `start_std`, so that the result depends less on the start
    (the authors start at random in both). Geiping et al. (2025), arXiv 2502.05171.

    With `random_depth` false, every pass in training has `depth` iterations. With `segments` M, the iteration goes on M times from
    the detached state of the segment before; in training the features after each but the last are auxiliary ones, for deep
    supervision. `backward_depth` 1 is then the one-step gradient of the hierarchical reasoning model (Wang et al. 2025, arXiv
    2506.21734), and `backward_depth` = `depth` the full backpropagation of the tiny recursive model (Jolicoeur-Martineau 2025,
    arXiv 2510.04871). Both make an optimiser's step after each segment; here one step has the losses of all, and keeps all their
    graphs.
    """

    numerics: ClassVar[int] = 1

    def __init__(
        self,
        cell: Cell,
        *,
        depth: int = 12,
        backward_depth: int = 8,
        evaluation_depth: int | None = None,
        spread: float = 0.5,
        start_std: float = 0.0,
        random_depth: bool = True,
        segments: int = 1,
    ) -> None:
        super().__init__()
        check_whole(depth=depth, backward_depth=backward_depth, segments=segments)
        check_whole(evaluation_depth=depth if evaluation_depth is None else evaluation_depth)
        for name, value in (("spread", spread), ("start_std", start_std)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be finite and not negative, got {value}")
        self.cell, self.width = cell, cell.width
        self.depth, self.backward_depth, self.spread, self.start_std = depth, backward_depth, spread, start_std
        self.random_depth, self.segments = random_depth, segments
        self.evaluation_depth = depth if evaluation_depth is None else evaluation_depth

    def iterations(self) -> int:
        """The number of iterations of the next segment: in training a draw from torch's generator."""
        if not self.training:
            return self.evaluation_depth
        if not self.random_depth:
            return self.depth
        mean = torch.exp(math.log(self.depth) - self.spread**2 / 2 + self.spread * torch.randn(()))
        return 1 + int(torch.poisson(mean))

    def forward(self, x: Tensor, memory: Any = None) -> Output:
        """Map features x (B, T, D) to the last iterate's features (B, T, width)."""
        check_features(x)
        f, z = self.cell.bind(x, memory), self.cell.initial_state(x)
        if self.start_std and self.training:
            z = z + self.start_std * torch.randn_like(z)
        ends = []
        for _ in range(self.segments):
            z = self._segment(f, z.detach())
            ends.append(z)
        auxiliary = tuple(self.cell.features(end) for end in ends[:-1]) if self.training else ()
        return Output(self.cell.features(z), self.cell.remember(z, x, memory), auxiliary=auxiliary, state=z.detach())

    def _segment(self, f: Map, z: Tensor) -> Tensor:
        """Iterate f, the last iterations with a graph."""
        iterations = self.iterations()
        attached = min(iterations, self.backward_depth)
        with torch.no_grad():
            for _ in range(iterations - attached):
                z = f(z)
        for _ in range(attached):
            z = f(z)
        return z
