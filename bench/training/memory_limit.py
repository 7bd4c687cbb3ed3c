"""Limit this process's memory, so that a run ends as out of memory instead of being killed, and free it for the next run."""

import gc
from contextlib import suppress
from pathlib import Path

import torch


def limit_memory(size: int) -> None:
    """Allow `size` bytes more than the process has; does nothing where the system has no such limit."""
    with suppress(ImportError, OSError, ValueError, IndexError):
        import resource

        lines = Path("/proc/self/status").read_text().splitlines()
        have = next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmData:"))
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        limit = have + size if hard == resource.RLIM_INFINITY else min(have + size, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def lift_memory_limit() -> None:
    """Remove the limit after the run, so that the record can be written."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))


def free_device_memory() -> None:
    """Give the blocks that the CUDA allocator keeps back to the device, for other processes too."""
    gc.collect()  # tensors in cycles of objects hold their blocks
    torch.cuda.empty_cache()
