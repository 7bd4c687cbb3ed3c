"""Adaptive loop: a cell iterated at each position until that position halts."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from baselines.counted import CountedCore
from deq import Cell, Output
from deq.checks import check_features, check_whole
from deq.solve import is_sync_free


class AdaptiveLoop(CountedCore):
    """A cell's f applied until each position halts, by the adaptive computation time of a Universal Transformer.

    After iteration n, position t with state z_n and features y_n halts with probability p_n = sigmoid(<w, y_n> + c). It takes

        N = min {n : p_1 + ... + p_n >= 1 - epsilon}, at most `depth`, in evaluation `evaluation_depth` (default `depth`),

    iterations. Its output is p_1 y_1 + ... + p_{N-1} y_{N-1} + R y_N with the remainder R = 1 - p_1 - ... - p_{N-1}, and its state
    stays z_N for later positions to read. A position thus depends on earlier ones only, and a sample on no other. In training the
    penalty is `ponder_cost` times the mean of N + R over positions, of which R has a gradient. c starts at `initial_bias`: at the
    default of 1 (Tensor2Tensor's) positions take two iterations, at -2 nine.

    Backpropagation stores all iterations. On a CPU the loop ends when the last position has halted; elsewhere it takes all
    iterations, to the same result, so that the host need not wait. Watchers get the mean of N.
    Graves (2016), arXiv 1603.08983; Dehghani et al. (ICLR 2019), arXiv 1807.03819. Parameters: the cell's and D + 1.
    """

    numerics: ClassVar[int] = 1
    no_residual: ClassVar[str] = "an adaptive loop ends by a learned decision and looks for no fixed point"

    def __init__(
        self,
        cell: Cell,
        *,
        depth: int = 12,
        evaluation_depth: int | None = None,
        ponder_cost: float = 0.01,
        epsilon: float = 0.01,
        initial_bias: float = 1.0,
    ) -> None:
        super().__init__()
        self.evaluation_depth = depth if evaluation_depth is None else evaluation_depth
        check_whole(depth=depth, evaluation_depth=self.evaluation_depth)
        if not 0 <= ponder_cost < float("inf"):
            raise ValueError(f"ponder_cost must be finite and not negative, got {ponder_cost}")
        if not 0 < epsilon < 1:
            raise ValueError(f"epsilon must be between 0 and 1, got {epsilon}")
        self.cell, self.width, self.depth = cell, cell.width, depth
        self.ponder_cost, self.epsilon = ponder_cost, epsilon
        self.halt = nn.Linear(cell.width, 1)
        nn.init.constant_(self.halt.bias, initial_bias)

    def forward(self, x: Tensor, memory: Any = None) -> Output:
        """Map features x (B, T, D) to the mean of the iterates' features (B, T, width)."""
        check_features(x)
        f, z = self.cell.bind(x, memory), self.cell.initial_state(x)
        y = torch.zeros_like(self.cell.features(z))
        spent = y.new_zeros(*y.shape[:2], 1)  # p_1 + ... + p_n of positions that run, (B, T, 1)
        remainder, iterations = spent, spent
        running = torch.ones_like(spent, dtype=torch.bool)
        depth = self.depth if self.training else self.evaluation_depth
        for step in range(1, depth + 1):
            if is_sync_free(running) and not running.any():
                break
            z = torch.where(running, f(z), z)
            features = self.cell.features(z)
            p = self.halt(features).sigmoid().to(spent.dtype)
            goes_on = running & (spent + p < 1 - self.epsilon) if step < depth else torch.zeros_like(running)
            halts = running & ~goes_on
            y = y + (torch.where(goes_on, p, 0) + torch.where(halts, 1 - spent, 0)) * features
            remainder = torch.where(halts, 1 - spent, remainder)
            spent = torch.where(goes_on, spent + p, spent)
            iterations = iterations + running
            running = goes_on
        penalty = self.ponder_cost * (iterations + remainder).mean() if self.training else None
        self._notify("forward", iterations.mean())
        return Output(y, self.cell.remember(z, x, memory), penalty)
