"""Record functions as CUDA graphs."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """The stream of all recordings on a device: cuBLAS keeps a workspace of up to 32 MiB for every stream that it works on."""
    return torch.cuda.Stream(device)


class CudaRecorder:
    """Records functions as CUDA graphs in one pool of memory, so that one may read another's results."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._pool, self._stream = device, torch.cuda.graph_pool_handle(), _stream(device)

    def record(self, function: Callable[[], Any]) -> Callable[[], Any]:
        """Return a function that repeats the work of `function` and returns the same tensors, overwritten.

        `function` runs once before it is recorded, so that libraries make their workspaces and kernels are loaded.
        """
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.random.fork_rng([self._device]), torch.cuda.stream(self._stream):  # the first run draws no random numbers
            function()
        current.wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads, such as one that samples NVML, may use CUDA meanwhile.
        capture = torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local")
        with torch.cuda.stream(current), capture:  # a capture that fails does not give the current stream back
            result = function()

        def replay() -> Any:
            graph.replay()
            return result

        return replay


def can_record(x: Tensor) -> bool:
    """Whether work on x can be recorded: on a GPU, and neither traced, counted nor recorded already."""
    plain = x.is_cuda and type(x) is Tensor and not torch.compiler.is_compiling() and not is_in_torch_dispatch_mode()
    return plain and not torch.cuda.is_current_stream_capturing()
