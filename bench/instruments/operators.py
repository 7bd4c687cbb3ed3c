"""Count the operators of a computation and what makes the host wait for a GPU; on any machine, the same number each time."""

import warnings
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from deq.solve import start_reading

_SYNCS = {
    *("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select"),
    *("_unique2", "unique_dim", "repeat_interleave", "_linalg_check_errors"),
}
_INDEXING = ("index", "index_put", "index_put_")  # by a mask, they count its ones
_VIEWS = {
    *("_unsafe_view", "alias", "as_strided", "detach", "diagonal", "expand", "permute", "reshape", "select", "slice", "split"),
    *("squeeze", "t", "transpose", "unbind", "unsqueeze", "view"),
}


class Operations(TorchDispatchMode):
    """Counts the aten operators that run, backward too; those of them that are not views (`launches`: on a GPU each starts a
    kernel); and those that make the host wait for a GPU (`syncs`).

    Copies to the host (`.cpu()`, `.tolist()`) are not counted: on a CPU they do nothing. `operations` adds the reads of solves.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operators = self.launches = self.syncs = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        name = func.overloadpacket.__name__
        masked = name in _INDEXING and any(isinstance(one, Tensor) and one.dtype == torch.bool for one in args[1])
        self.operators += 1
        self.launches += name not in _VIEWS
        self.syncs += masked or name in _SYNCS
        return func(*args, **(kwargs or {}))


def operations(run: Callable[[], object]) -> Operations:
    """Count the operators of `run()`, and as host syncs also the gaps that solves read."""
    with Operations() as counter, mock.patch("deq.solve.start_reading", side_effect=start_reading) as reads:
        run()
    counter.syncs += reads.call_count
    return counter


def cuda_syncs(run: Callable[[], object]) -> int:
    """How often the host waits for the GPU in `run()`, by torch's own debug mode; a wait for an event is not seen."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            run()
        finally:
            torch.cuda.set_sync_debug_mode(before)
    return sum("called a synchronizing" in str(one.message) for one in caught)
