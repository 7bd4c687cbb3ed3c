"""Weight-tied depth: the DEQ's own map applied a fixed number of times, plain or with gradient checkpointing."""

import math
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint as run_checkpointed

from deq import Cell, Core, Map, Output

Checkpointing = Literal["none", "every", "sqrt"]


def _apply(f: Map, times: int, z: Tensor) -> Tensor:
    for _ in range(times):
        z = f(z)
    return z


class Unrolled(Core):
    """f applied `depth` times to the cell's start: the explicit network whose infinite depth a DEQ stands for.

    Backpropagation stores what every step needs: memory linear in depth. `checkpointing` trades that for a second forward:
    "every" keeps one state a step (linear still, with a small constant), "sqrt" cuts the steps into about sqrt(depth) segments and
    keeps one state a segment and one segment's activations. Chen et al. (2016), arXiv 1604.06174.
    """

    def __init__(self, cell: Cell, *, depth: int, checkpointing: Checkpointing = "none") -> None:
        super().__init__()
        if not isinstance(depth, int) or depth < 1:
            raise ValueError(f"depth must be an integer of at least 1, got {depth}")
        if checkpointing not in ("none", "every", "sqrt"):
            raise ValueError(f"checkpointing must be none, every or sqrt, got {checkpointing!r}")
        self.cell, self.width, self.depth, self.checkpointing = cell, cell.width, depth, checkpointing

    def segments(self) -> list[int]:
        """How many steps each checkpointed segment holds; one segment of all steps without checkpointing."""
        count = {"none": 1, "every": self.depth, "sqrt": max(1, round(math.sqrt(self.depth)))}[self.checkpointing]
        short, longer = divmod(self.depth, count)
        return [short + 1] * longer + [short] * (count - longer)

    def forward(self, x: Tensor, memory: Any = None) -> Output:
        """Features x (B, T, D) to the last iterate's features (B, T, width)."""
        f = self.cell.bind(x, memory)
        z = self.cell.start(x)
        recompute = self.checkpointing != "none" and torch.is_grad_enabled()
        for steps in self.segments():
            run = partial(_apply, f, steps)
            # Masks are drawn in bind, outside the segments: there is no generator state to restore.
            z = run_checkpointed(run, z, use_reentrant=False, preserve_rng_state=False) if recompute else run(z)
        return Output(self.cell.features(z), self.cell.remember(z, x, memory))
