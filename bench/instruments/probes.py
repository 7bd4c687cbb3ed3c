"""Probes of one step: they run steps of their own after training, never inside a timed loop.

`saved_bytes` and `peak_live_bytes` count tensor storages: they give the same number on every machine and device that runs the same
operators, and on fake tensors. `step_times` reads a clock.
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

from deq.cuda_graphs import without_recordings


class SavedTensor:
    """What autograd keeps instead of a tensor; freed with the node that saved it, so a dropped graph does not count."""

    __slots__ = ("__weakref__", "tensor")

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.detach()  # an operator's saved result would keep its own node alive in a cycle


def saved_bytes(forward: Callable[[], Tensor], exclude: Iterable[Tensor]) -> int:
    """Bytes that autograd holds for backward once `forward()` has returned: unique whole storages without those of `exclude`.

    `exclude`: tensors that exist anyway (parameters, buffers, the batch). Storages count once, however many views are saved; the
    inputs that a checkpoint keeps count, graphs that `forward` dropped do not. Not seen are tensors that a custom Function sets on
    `ctx`, and what backward recomputes: `peak_live_bytes` includes both. Eager mode only; a DEQ runs without its CUDA graphs, whose
    saved tensors no hook sees.
    """
    saved: weakref.WeakSet[SavedTensor] = weakref.WeakSet()

    def pack(tensor: Tensor) -> SavedTensor:
        kept = SavedTensor(tensor)
        saved.add(kept)
        return kept

    with without_recordings(), saved_tensors_hooks(pack, lambda kept: kept.tensor):
        loss = forward()
    gc.collect()  # a dropped graph can sit in a reference cycle
    excluded = {tensor.untyped_storage()._cdata for tensor in exclude}
    storages = [kept.tensor.untyped_storage() for kept in saved]  # held, so that no address is reused
    held = {storage._cdata: storage.nbytes() for storage in storages if storage._cdata not in excluded}
    del loss  # until here it kept the graph alive
    return sum(held.values())


@dataclass(frozen=True)
class Peak:
    """The highest total of live tensor bytes in a step, on all devices: `peak` = `held` before the step + `step`."""

    peak: int
    held: int
    step: int


class StorageRef(weakref.ref[torch.UntypedStorage]):
    """A weak reference to a storage, with the bytes it was counted with."""

    __slots__ = ("address", "size")
    address: int
    size: int


class LiveStorages(TorchDispatchMode):
    """Track every storage that an operator takes or returns until it is freed.

    torch keeps the Python object of a storage for as long as C++ owns the storage, so what only a view or the autograd graph keeps
    alive stays counted.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = self.peak = 0
        self._refs: dict[int, StorageRef] = {}
        # Storages can be freed at any bytecode and on autograd's threads; deque.append is atomic, `total -= size` is not.
        self._freed: deque[Any] = deque()

    def track(self, tensor: Tensor) -> None:
        """Count the tensor's storage, or its growth."""
        storage = tensor.untyped_storage()
        address, size = storage._cdata, storage.nbytes()
        ref = self._refs.get(address)
        if ref is None or ref() is not storage:  # new, perhaps at the address of a freed one
            ref = StorageRef(storage, self._freed.append)
            ref.address, ref.size = address, 0
            self._refs[address] = ref
        self.total += size - ref.size  # resize_ changes the size of a known storage
        ref.size = size

    def drop_freed(self) -> None:
        """Subtract the storages that were freed."""
        while self._freed:
            ref: StorageRef = self._freed.popleft()
            self.total -= ref.size
            if self._refs.get(ref.address) is ref:
                del self._refs[ref.address]

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        self.drop_freed()  # before the call: what is freed during it was alive while the results were allocated
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves((args, kwargs, result)):
            if isinstance(leaf, Tensor):
                self.track(leaf)
        self.peak = max(self.peak, self.total)
        return result


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Disable the collector inside, so that a count does not depend on when it runs."""
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def peak_live_bytes(step: Callable[[], object], held: Iterable[Tensor]) -> Peak:
    """The highest total bytes of live tensor storages during `step()`: forward, backward, optimiser.

    `held`: the tensors alive before (parameters, gradients, optimiser state), counted from the start; others count from their first
    use. Pass a generator: a list would keep gradients alive that the step frees. Reference cycles count as live. Not seen:
    workspaces inside an operator, allocator rounding, and UntypedStorage.resize_ until an operator uses the storage. Costs about
    25 microseconds an operator and one garbage collection.
    """
    storages = LiveStorages()
    for tensor in held:
        storages.track(tensor)
        del tensor  # the loop variable would keep the last one alive
    before = storages.peak = storages.total
    with no_garbage_collection(), storages:
        step()
    return Peak(peak=storages.peak, held=before, step=storages.peak - before)


def step_times(step: Callable[[], object], repeats: int, warmup: int, device: torch.device | str) -> list[float]:
    """Seconds of each of `repeats` steps after `warmup` unrecorded ones; a CUDA device is synchronised before and after each."""
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
