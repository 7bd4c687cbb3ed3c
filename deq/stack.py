"""Cores in sequence."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from deq.core import Core, Output


class Stack(Core):
    """Cores in sequence, such as two DEQs: each takes the features of the one before it.

    By theorem 2 of Bai, Kolter, Koltun (2019) one DEQ can represent any stack of them. The memory is the tuple of the cores'
    memories, the penalty the sum of their penalties; the auxiliary features are those of the last core.
    """

    numerics: ClassVar[int] = 1

    def __init__(self, cores: Sequence[Core]) -> None:
        super().__init__()
        if not cores:
            raise ValueError("a stack needs at least one core")
        self.cores = nn.ModuleList(cores)
        self.width = cores[-1].width

    def forward(self, x: Tensor, memory: Any = None) -> Output:
        """Map features x (B, T, D) of the first core to those (B, T, width) of the last."""
        memories, penalties = [], []
        auxiliary: tuple[Tensor, ...] = ()
        for core, own in zip(self.cores, memory or [None] * len(self.cores), strict=True):
            output = core(x, own)
            x, auxiliary = output.y, output.auxiliary
            memories.append(output.memory)
            if output.penalty is not None:
                penalties.append(output.penalty)
        carried = tuple(memories) if any(part is not None for part in memories) else None
        return Output(x, carried, torch.stack(penalties).sum() if penalties else None, auxiliary)
