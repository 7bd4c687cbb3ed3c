"""CudaRecorder with stand-ins for torch's CUDA: one stream for all recordings, and the caller's stream after a failure."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch

from deq import cuda_recorder as module
from deq.cuda_recorder import CudaRecorder

DEVICE = torch.device("cuda", 0)


class Stream:
    made = 0

    def __init__(self, device: torch.device) -> None:
        Stream.made += 1

    def wait_stream(self, other: Any) -> None: ...


class Machine:
    """What torch.cuda has, without a GPU: the current stream, and captures that replay nothing."""

    def __init__(self) -> None:
        self.current: Any = Stream(DEVICE)
        self.pools = 0

    @contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    @contextmanager
    def graph(self, graph: Any, pool: int, stream: Any, capture_error_mode: str) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        except RuntimeError:
            raise RuntimeError("operation failed due to a previous error during capture")  # noqa: B904 - as torch does
        self.current = before

    def new_pool(self) -> int:
        self.pools += 1
        return self.pools


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    machine = Machine()
    for name, value in {
        "Stream": Stream,
        "CUDAGraph": object,
        "stream": machine.stream,
        "graph": machine.graph,
        "graph_pool_handle": machine.new_pool,
        "current_stream": lambda device: machine.current,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices: nullcontext())
    module._stream.cache_clear()
    yield machine
    module._stream.cache_clear()


def test_recorders_have_pools_of_their_own_and_one_stream_of_a_device(machine: Machine) -> None:
    """cuBLAS keeps a workspace for every stream."""
    streams, made = set(), Stream.made
    for _ in range(5):
        CudaRecorder(DEVICE).record(lambda: streams.add(machine.current))
    assert Stream.made == made + len(streams) == made + 1
    assert machine.pools == 5


def test_a_capture_that_fails_leaves_the_callers_stream_the_current_one(machine: Machine) -> None:
    calls, before = 0, machine.current

    def fails_when_captured() -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(RuntimeError, match="previous error"):
        CudaRecorder(DEVICE).record(fails_when_captured)
    assert machine.current is before
