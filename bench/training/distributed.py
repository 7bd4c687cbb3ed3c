"""Distribute one run over processes: each takes its share of every batch, and DistributedDataParallel averages their gradients.

Solves stop per sample, so a sample's iterates do not depend on its rank, and solves need no communication. The ranks agree on the
loss, on when to save and on when to stop.
"""

import io
import warnings
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from bench.records.errors import UserError
from bench.training.checkpoint import Interrupt, Interrupted


class Ranks:
    """The processes of this run; a `size` above 1 needs torchrun's process group, initialised."""

    def __init__(self, size: int = 1) -> None:
        self.size, self.rank = size, 0
        if size > 1:
            if not distributed.is_initialized() or distributed.get_world_size() != size:
                raise UserError(f"a run of {size} processes must be started by torchrun with as many (see `run --processes`)")
            self.rank = distributed.get_rank()

    @property
    def first(self) -> bool:
        """Whether this process writes the record and checkpoint and holds the machine lock for all."""
        return self.rank == 0

    def share(self, part: Tensor) -> Tensor:
        """This rank's samples of a batch (B, ...): the rank-th of `size` equal blocks."""
        return part if self.size == 1 else part.chunk(self.size)[self.rank]

    def owns_batch(self, number: int) -> bool:
        """Whether this rank evaluates the batch with this number."""
        return number % self.size == self.rank

    def wrap_ddp(self, loss: nn.Module) -> Callable[..., Any]:
        """The module in DistributedDataParallel; in a run of one process, the module."""
        if self.size == 1:
            return loss
        warnings.filterwarnings("ignore", message="find_unused_parameters=True was specified")
        # An adaptive softmax uses only the clusters whose words are in the rank's share, so not every parameter has a gradient.
        return cast("Callable[..., Any]", DistributedDataParallel(loss, find_unused_parameters=True))

    def sum(self, values: Tensor) -> Tensor:
        """The elementwise sum over ranks."""
        if self.size > 1:
            values = values.clone()
            distributed.all_reduce(values)
        return values

    def total(self, value: float) -> float:
        """The sum of a number over ranks."""
        return value if self.size == 1 else self.sum(torch.tensor(value, dtype=torch.float64)).item()

    def any(self, flag: bool) -> bool:
        """Whether any rank's flag is set, the same in every rank."""
        return self._any_of(flag)[0]

    def _any_of(self, *flags: bool) -> list[bool]:
        """Of each flag, whether any rank's is set, in one exchange."""
        if self.size == 1:
            return list(flags)
        return [count > 0 for count in self.sum(torch.tensor(flags, dtype=torch.float32)).tolist()]

    def raise_if_interrupted(self, interrupt: Interrupt, flag: bool = False) -> bool:
        """Raise Interrupted in every rank where any was asked to stop; else return the first rank's flag.

        Several processes must defer requests until all get here, or one would wait for another for ever.
        """
        stop, found = self._any_of(interrupt.asked is not None, flag and self.first)
        if stop:
            raise interrupt.asked or Interrupted("another rank was asked to stop")
        return found

    def broadcast_flag(self, flag: bool) -> bool:
        """The first rank's flag."""
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
        buffers = (part[: int(size)].numpy().tobytes() for part, size in zip(parts, sizes, strict=True))
        return [torch.load(io.BytesIO(buffer), weights_only=True) for buffer in buffers]
