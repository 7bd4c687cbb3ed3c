"""Intrusive probes of one step: they run steps of their own after training, never inside a timed loop.

`saved_bytes` and `peak_live_bytes` count tensor storages and `flops` counts operators: they give the same number on every machine
that runs the same operators, on real and on fake tensors, on any device. `step_times` reads a clock.
"""

import gc
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bench.instruments.flops import Flops, flops

__all__ = ["Flops", "Peak", "flops", "peak_live_bytes", "saved_bytes", "step_times"]


class _Saved:
    """What autograd keeps in place of a tensor; it is freed with the node that saved it, so a dropped graph does not count."""

    __slots__ = ("__weakref__", "tensor")

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def saved_bytes(forward: Callable[[], Tensor], exclude: Iterable[Tensor]) -> int:
    """Bytes that autograd holds for backward once `forward()` has returned: unique storages, whole, less those of `exclude`.

    `exclude`: tensors that exist anyway (parameters, buffers, the batch). A storage counts once however often it or a view
    of it was saved; graphs that `forward` built and dropped do not count; the inputs that a checkpoint keeps do. Not seen: tensors
    that a custom Function hangs on `ctx` instead of saving them, and what recomputation needs during backward: `peak_live_bytes`
    sees both. Eager mode only: under torch.compile the hooks mean something else.
    """
    saved: weakref.WeakSet[_Saved] = weakref.WeakSet()

    def pack(tensor: Tensor) -> _Saved:
        # An operator's saved result carries its own node: kept as it is, node and result would hold each other for ever.
        kept = _Saved(tensor.detach())
        saved.add(kept)
        return kept

    def unpack(kept: _Saved) -> Tensor:
        return kept.tensor

    with saved_tensors_hooks(pack, unpack):
        loss = forward()
    gc.collect()  # a dropped graph can sit in a reference cycle
    excluded = {tensor.untyped_storage()._cdata for tensor in exclude}
    storages = [kept.tensor.untyped_storage() for kept in saved]  # held, so that no address is used twice
    held = {storage._cdata: storage.nbytes() for storage in storages if storage._cdata not in excluded}
    del loss  # until here it kept the graph alive
    return sum(held.values())


@dataclass(frozen=True)
class Peak:
    """The highest total of live tensor bytes in a step, on all devices together: `peak` = `held` before the step + `step`."""

    peak: int
    held: int
    step: int


class _Birth(weakref.ref[torch.UntypedStorage]):
    """A weak reference to a storage, with the bytes it was counted with."""

    __slots__ = ("address", "size")
    address: int
    size: int


class _Ledger(TorchDispatchMode):
    """Tracks every storage that an operator takes or returns until it is freed.

    A weak reference follows the storage, not one Python wrapper: torch keeps the Python object of a storage for as long as C++ owns
    the storage, so what a view or the autograd graph alone keeps alive stays counted.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0
        self.peak = 0
        self._births: dict[int, _Birth] = {}
        # Deaths can come at any bytecode and on autograd's threads; deque.append is atomic, `total -= size` is not.
        self._deaths: deque[Any] = deque()

    def book(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        address, size = storage._cdata, storage.nbytes()
        birth = self._births.get(address)
        if birth is None or birth() is not storage:  # new, or at the address of one whose death is not settled yet
            birth = _Birth(storage, self._deaths.append)
            birth.address, birth.size = address, 0
            self._births[address] = birth
        self.total += size - birth.size  # a known storage changes size under resize_
        birth.size = size

    def settle(self) -> None:
        while self._deaths:
            birth: _Birth = self._deaths.popleft()
            self.total -= birth.size
            if self._births.get(birth.address) is birth:
                del self._births[birth.address]

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        self.settle()  # before the call: what dies during it was alive while the results were allocated
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves((args, kwargs, result)):
            if isinstance(leaf, Tensor):
                self.book(leaf)
        self.peak = max(self.peak, self.total)
        return result


@contextmanager
def _no_collection() -> Iterator[None]:
    """Collect no garbage inside, so that a count does not depend on when the collector runs."""
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def peak_live_bytes(step: Callable[[], object], held: Iterable[Tensor]) -> Peak:
    """The highest total of bytes of live tensor storages during `step()`: forward, backward, optimiser, whatever runs in it.

    `held`: the tensors alive before (parameters, gradients, optimiser state), counted from the start. Pass a generator: a list
    would keep alive the gradients that the step frees. A tensor from before that is not in `held` counts from its first use on.
    Not seen: workspaces inside one operator, allocator rounding, and UntypedStorage.resize_ until an operator touches the storage
    again. Reference cycles count as live (the collector is off during the step). Costs about 25 microseconds an operator and one
    garbage collection.
    """
    ledger = _Ledger()
    for tensor in held:
        ledger.book(tensor)
        del tensor  # the loop variable would keep the last one alive
    before = ledger.peak = ledger.total
    with _no_collection(), ledger:
        step()
    return Peak(peak=ledger.peak, held=before, step=ledger.peak - before)


def step_times(step: Callable[[], object], repeats: int, warmup: int, device: torch.device | str) -> list[float]:
    """Seconds of each of `repeats` steps after `warmup` unrecorded ones; a CUDA device is synchronised on both sides of each."""
    if repeats < 1 or warmup < 0:
        raise ValueError(f"repeats={repeats}, warmup={warmup}: at least one repeat and no negative warm-up")
    device = torch.device(device)

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    for _ in range(warmup):
        step()
    seconds = []
    for _ in range(repeats):
        begin = now()
        step()
        seconds.append(now() - begin)
    return seconds
