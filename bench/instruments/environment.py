"""Where a run ran, in what decides its numbers: versions, processor, GPU, threads, allocator settings, revision of the code.

No host name, no user name, no path: records are published.
"""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import psutil
import torch

from bench.instruments import nvml

# What changes speed, memory or determinism; values are numbers and words, never paths.
VARIABLES = (
    "OMP_NUM_THREADS",
    "OMP_DYNAMIC",
    "OMP_PROC_BIND",
    "OMP_WAIT_POLICY",
    "MKL_NUM_THREADS",
    "MKL_DYNAMIC",
    "KMP_BLOCKTIME",
    "ONEDNN_MAX_CPU_ISA",
    "ATEN_CPU_CAPABILITY",
    "MALLOC_ARENA_MAX",
    "MALLOC_TRIM_THRESHOLD_",
    "MALLOC_MMAP_THRESHOLD_",
    "PYTHONHASHSEED",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
    "CUBLAS_WORKSPACE_CONFIG",
    "NVIDIA_TF32_OVERRIDE",
)
PACKAGES = ("torch", "torchdiffeq", "numpy", "scipy", "pandas", "psutil", "nvidia-ml-py", "pydantic", "matplotlib")
CODE = ("deq", "baselines", "bench", "pyproject.toml")  # results are written by runs and must not mark the tree dirty


def environment(device: str, threads: int) -> dict[str, object]:
    """Everything about this machine and process that a record keeps; unknown things are None, and nothing here raises."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_build": f"cuda {torch.version.cuda}" if torch.version.cuda else "cpu",
        "system": platform.system(),
        "machine": platform.machine(),
        "cpu": cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "logical_cores": psutil.cpu_count(logical=True),
        "usable_cores": usable_cores(),
        "memory_bytes": psutil.virtual_memory().total,
        "device": device,
        "gpu": gpu(device),
        "threads": threads,
        "variables": {name: os.environ.get(name) for name in VARIABLES},
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "git": revision(Path(__file__).resolve().parents[2]),
        "packages": {name: version(name) for name in PACKAGES},
    }


def cpu_name(listing: Path = Path("/proc/cpuinfo")) -> str | None:
    """The processor's model name as the kernel gives it."""
    try:
        for line in listing.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    except OSError:
        pass
    return platform.processor() or None


def usable_cores() -> int | None:
    """Cores this process may run on, which a container or taskset can make fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def version(name: str) -> str | None:
    """The installed version of a distribution."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def gpu(device: str, cuda: Any = torch.cuda, library: Any = None) -> dict[str, object] | None:
    """Name, memory, compute capability and driver of the GPU a run uses; None where it uses none."""
    chosen = torch.device(device)
    if chosen.type != "cuda" or not cuda.is_available():
        return None
    try:
        properties = cuda.get_device_properties(chosen)
    except Exception:  # a broken device must not lose the record that would tell of it
        return None
    return {
        "name": properties.name,
        "memory_bytes": properties.total_memory,
        "capability": f"{properties.major}.{properties.minor}",
        "driver": driver(library),
    }


def driver(library: Any = None) -> str | None:
    """The NVIDIA driver's version."""
    try:
        library = library or nvml.load_library()
        library.nvmlInit()
        return str(library.nvmlSystemGetDriverVersion())
    except Exception:  # no module, no driver, no permission: unknown all the same
        return None


def revision(root: Path) -> dict[str, object] | None:
    """Commit of the repository whose top is `root`, and whether its code differs from it; None where `root` is no such top.

    A package installed inside somebody else's repository (a virtual environment) has no revision of its own.
    """
    top = _git(root, "rev-parse", "--show-toplevel")
    commit = _git(root, "rev-parse", "--verify", "HEAD")
    if top is None or commit is None or Path(top).resolve() != root.resolve():
        return None
    changes = _git(root, "status", "--porcelain", "--", *CODE)
    return {"revision": commit, "dirty": None if changes is None else bool(changes)}


def _git(root: Path, *arguments: str) -> str | None:
    # GIT_DIR and the like, as set inside a hook, would answer for another repository.
    variables = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        answer = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=True, env=variables
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
