"""What a CUDA graph reads from outside of its own memory must live as long as the graph, or a replay reads freed memory.

Shown on a CPU by a stand-in that remembers, by weak references, every storage that a recorded function reads and did not make.
"""

import gc
import weakref
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from deq import CELLS, DEQ, Picard, Stop
from deq import cuda_graphs as module

NAMES = ("mlp", "transformer", "transformer-xl", "trellis", "contraction", "state-space")


class Reads(TorchDispatchMode):
    """Notes the storages that operators read and none of them made."""

    def __init__(self) -> None:
        super().__init__()
        self.made: dict[int, Any] = {}
        self.read: dict[int, tuple[weakref.ref[Any], str]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        for storage in self.storages((args, kwargs)):
            if storage._cdata not in {*self.made, *self.read}:
                self.read[storage._cdata] = weakref.ref(storage), func.overloadpacket.__name__
        result = func(*args, **(kwargs or {}))
        self.made |= {storage._cdata: storage for storage in self.storages(result) if storage._cdata not in self.read}
        return result

    @staticmethod
    def storages(tree: Any) -> list[Any]:
        return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


class Reader:
    """Records a function as its first results, and what it read."""

    found: ClassVar[list[dict[int, tuple[weakref.ref[Any], str]]]] = []

    def __init__(self, device: torch.device) -> None: ...

    def record(self, function: Callable[[], Any]) -> Callable[[], Any]:
        with torch.random.fork_rng():
            function()  # as CudaRecorder does
        with Reads() as reads:
            result = function()
        Reader.found.append(reads.read)
        return lambda: result


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_what_a_recording_reads_lives_as_long_as_it(name: str, training: bool, half: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CudaRecorder", Reader)
    monkeypatch.setattr(module, "can_record", lambda x: True)
    monkeypatch.setattr(Reader, "found", [])
    torch.manual_seed(0)
    cell = CELLS[name](width=8, **({"heads": 2, "memory_length": 3} if "transformer" in name else {}))
    layer = DEQ(cell, solver=Picard(), stop=Stop(rtol=None, max_steps=4), cuda_graphs=True).train(training)

    def call(times: int, memory: Any = None) -> Any:
        with torch.set_grad_enabled(training), torch.autocast("cpu", torch.bfloat16, enabled=half):
            output = layer(torch.randn(2, times, 8), memory)
        if training:
            output.y.float().sum().backward()
        return output.memory

    memory = None
    for _ in range(4):
        memory = call(5, memory)
    recorded = list(Reader.found)
    assert len(recorded) == (5 if training else 2)
    for times in (7, 9):  # what a cell keeps of the last sizes is replaced
        call(times)
    gc.collect()
    assert [operator for reads in recorded for storage, operator in reads.values() if storage() is None] == []
