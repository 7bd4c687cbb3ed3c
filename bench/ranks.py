"""One run by several processes: each takes its share of every batch, and DistributedDataParallel makes their gradients one.

Solves stop per sample, so that each rank stops its own when its own are done: nothing about a solve is agreed between ranks, and a
sample's iterates do not depend on where it was solved. What is agreed is the loss, when to save, and when to stop.
"""

import io
import warnings
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from bench.checkpoint import Interrupt, Interrupted
from bench.errors import UserError


class Ranks:
    """The processes of this run; a `size` above 1 needs the process group that torchrun and `init_process_group` have made."""

    def __init__(self, size: int = 1) -> None:
        self.size, self.rank = size, 0
        if size > 1:
            if not distributed.is_initialized() or distributed.get_world_size() != size:
                raise UserError(f"a run of {size} processes must be started by torchrun with as many (see `run --processes`)")
            self.rank = distributed.get_rank()

    @property
    def first(self) -> bool:
        """Whether this process speaks for all: writes, records, holds the machine."""
        return self.rank == 0

    def share(self, part: Tensor) -> Tensor:
        """This rank's samples of a batch (B, ...): the rank-th of `size` equal blocks."""
        return part if self.size == 1 else part.chunk(self.size)[self.rank]

    def mine(self, number: int) -> bool:
        """Whether the batch of that number is this rank's to evaluate."""
        return number % self.size == self.rank

    def together(self, loss: nn.Module) -> Callable[..., Any]:
        """The module, its gradients averaged over the ranks as backward goes along."""
        if self.size == 1:
            return loss
        warnings.filterwarnings("ignore", message="find_unused_parameters=True was specified")
        # An adaptive softmax uses only the clusters whose words are in the rank's share, so not every parameter has a gradient.
        return cast("Callable[..., Any]", DistributedDataParallel(loss, find_unused_parameters=True))

    def sum(self, values: Tensor) -> Tensor:
        """The sum over ranks, elementwise."""
        if self.size > 1:
            values = values.clone()
            distributed.all_reduce(values)
        return values

    def total(self, value: float) -> float:
        """The sum over ranks of a number."""
        return value if self.size == 1 else self.sum(torch.tensor(value, dtype=torch.float64)).item()

    def any(self, flag: bool) -> bool:
        """Whether any rank says yes; every rank hears the same."""
        return flag if self.size == 1 else bool(self.sum(torch.tensor(float(flag))).item())

    def stop(self, interrupt: Interrupt) -> None:
        """Raise Interrupted where any rank has been asked to stop: in every rank, at the same place. One process may as well be
        interrupted anywhere; several must `defer` a request until they get here, or one would wait for ever for another."""
        if self.any(interrupt.asked is not None):
            raise interrupt.asked or Interrupted("another rank was asked to stop")

    def told(self, flag: bool) -> bool:
        """What the first rank says."""
        return self.any(flag and self.first)

    def gather(self, state: dict[str, Any]) -> list[dict[str, Any]]:
        """Every rank's state (tensors and plain values), in order of rank."""
        if self.size == 1:
            return [state]
        file = io.BytesIO()
        torch.save(state, file)
        mine = torch.frombuffer(file.getbuffer(), dtype=torch.uint8)
        sizes = [torch.zeros((), dtype=torch.int64) for _ in range(self.size)]
        distributed.all_gather(sizes, torch.tensor(len(mine)))
        padded = nn.functional.pad(mine, (0, int(max(sizes)) - len(mine)))
        parts = [torch.empty_like(padded) for _ in sizes]
        distributed.all_gather(parts, padded)
        return [
            torch.load(io.BytesIO(part[: int(size)].numpy().tobytes()), weights_only=True)
            for part, size in zip(parts, sizes, strict=True)
        ]
