"""Weight-tied network: the DEQ's own map applied a fixed number of times, plain or with gradient checkpointing."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint as run_checkpointed

from deq import Cell, Core, Map, Output
from deq.checks import check_features, check_whole

Checkpointing = Literal["none", "every", "sqrt"]


def _apply(maps: Sequence[Map], seen: Sequence[bool], features: Callable[[Tensor], Tensor], z: Tensor) -> tuple[Tensor, ...]:
    """Return the state after all maps, and the features after those in `seen`."""
    auxiliary = []
    for f, wanted in zip(maps, seen, strict=True):
        z = f(z)
        if wanted:
            auxiliary.append(features(z))
    return z, *auxiliary


def segments(depth: int, checkpointing: Checkpointing) -> list[int]:
    """Split `depth` steps into checkpointed segments and return their lengths; one segment without checkpointing."""
    if checkpointing not in ("none", "every", "sqrt"):
        raise ValueError(f"checkpointing must be none, every or sqrt, got {checkpointing!r}")
    count = {"none": 1, "every": depth, "sqrt": max(1, round(math.sqrt(depth)))}[checkpointing]
    short, longer = divmod(depth, count)
    return [short + 1] * longer + [short] * (count - longer)


class Unrolled(Core):
    """A weight-tied network: a cell's f applied `depth` times to its initial state; its limit of infinite depth is the DEQ.

    Backpropagation stores every step: memory is linear in depth. `checkpointing` trades that for a second forward: "every" keeps
    one state per step (still linear, with a small constant), "sqrt" splits the steps into about sqrt(depth) segments and keeps one
    state per segment and one segment's activations. Chen et al. (2016), arXiv 1604.06174. In training, the output's auxiliary
    features are those of every `auxiliary_every`-th step before the last (0: none).
    """

    numerics: ClassVar[int] = 1

    def __init__(self, cell: Cell, *, depth: int = 12, checkpointing: Checkpointing = "none", auxiliary_every: int = 0) -> None:
        super().__init__()
        check_whole(depth=depth)
        segments(depth, checkpointing)
        check_whole(least=0, auxiliary_every=auxiliary_every)
        self.cell, self.width, self.depth, self.checkpointing = cell, cell.width, depth, checkpointing
        self.auxiliary_every = auxiliary_every

    def levels(self, x: Tensor, memory: Any = None) -> list[Map]:
        """Return the `depth` maps z -> z for features x (B, T, D), all the same."""
        return [self.cell.bind(x, memory)] * self.depth

    def forward(self, x: Tensor, memory: Any = None) -> Output:
        """Map features x (B, T, D) to the last iterate's features (B, T, width)."""
        check_features(x)
        maps, every = self.levels(x, memory), self.auxiliary_every if self.training else 0
        seen = [every > 0 and level % every == 0 and level < self.depth for level in range(1, self.depth + 1)]
        recompute = self.checkpointing != "none" and torch.is_grad_enabled()
        z, start = self.cell.initial_state(x), 0
        auxiliary: list[Tensor] = []
        for steps in segments(self.depth, self.checkpointing):
            part = slice(start, start + steps)
            run = partial(_apply, maps[part], seen[part], self.cell.features)
            # Masks are drawn in bind, outside the segments: there is no generator state to restore.
            z, *found = run_checkpointed(run, z, use_reentrant=False, preserve_rng_state=False) if recompute else run(z)
            auxiliary, start = auxiliary + found, start + steps
        return Output(self.cell.features(z), self.cell.remember(z, x, memory), auxiliary=tuple(auxiliary))
